import { viewOf } from "../../base/bytes.ts";
import { NydusError } from "../../base/errors.ts";
import { bytes, struct, u8, u16, u32, u64n } from "../../base/struct.ts";

/** Begins each event that a fanotify group gives. @see fanotify.h fanotify_event_metadata */
export const EventMetadata = struct("fanotify_event_metadata", 24, {
  eventLen: [0, u32],
  vers: [4, u8],
  reserved: [5, u8],
  metadataLen: [6, u16],
  mask: [8, u64n],
  fd: [16, u32],
  pid: [20, u32],
});

/** Which bytes of the file an event is about. @see fanotify.h fanotify_event_info_range */
export const EventInfoRange = struct("fanotify_event_info_range", 24, {
  infoType: [0, u8],
  pad: [1, u8],
  len: [2, u16],
  reserved: [4, bytes(4)],
  offset: [8, u64n],
  count: [16, u64n],
});

/** An answer to an event. @see fanotify.h fanotify_response */
export const EventResponse = struct("fanotify_response", 8, { fd: [0, u32], response: [4, u32] });

/** Bytes of an event with its range, and nothing else: what a pre-content group gives. */
export const RANGE_EVENT_BYTES = EventMetadata.sizeBytes + EventInfoRange.sizeBytes;

/** The mask bit "before the file is read or written". */
export const FAN_PRE_ACCESS = 0x10_0000;

const METADATA_VERSION = 3;
const MASK_OVERFLOW = 0x4000;
const INFO_TYPE_RANGE = 6;
const INFO_HEADER_BYTES = 4;
const NO_FD = -1;
const ALLOW = 1;
const DENY = 2;
const ERRNO_SHIFT = 24;

/** What a group of pre-content marks says. */
export type FanotifyEvent =
  | {
      readonly kind: "access";
      /** The file, opened for who gets the event, who closes it; names the event in the answer. */
      readonly fd: number;
      /** Process that reads or writes. */
      readonly pid: number;
      /** Bytes of the file, whole pages; undefined where the event does not say. */
      readonly range: { readonly start: number; readonly end: number } | undefined;
    }
  /** Events were lost: somebody reads unasked. */
  | { readonly kind: "overflow" };

/**
 * The events of one read from a group.
 * @throws EUCLEAN another layout than this kernel interface has
 */
export function decodeEvents(data: Uint8Array): FanotifyEvent[] {
  const view = viewOf(data);
  const events: FanotifyEvent[] = [];
  for (let at = 0; at < data.length; ) {
    const left = data.length - at;
    const length = left < EventMetadata.sizeBytes ? 0 : view.getUint32(at + EventMetadata.at.eventLen, true);
    if (length < EventMetadata.sizeBytes || length > left) {
      throw new NydusError("EUCLEAN", `Cannot decode event: ${length} bytes of ${left}`, { offset: at });
    }
    const version = view.getUint8(at + EventMetadata.at.vers);
    if (version !== METADATA_VERSION) {
      throw new NydusError("EUCLEAN", `Cannot decode event: version ${version}, wanted 3`, { offset: at });
    }
    events.push(decodeEvent(view, at, at + length));
    at += length;
  }
  return events;
}

function decodeEvent(view: DataView, at: number, end: number): FanotifyEvent {
  const mask = view.getUint32(at + EventMetadata.at.mask, true);
  const fd = view.getInt32(at + EventMetadata.at.fd, true);
  if ((mask & MASK_OVERFLOW) !== 0 || fd === NO_FD) return { kind: "overflow" };
  const pid = view.getInt32(at + EventMetadata.at.pid, true);
  const infoAt = at + view.getUint16(at + EventMetadata.at.metadataLen, true);
  return { kind: "access", fd, pid, range: findRange(view, infoAt, end) };
}

function findRange(view: DataView, start: number, end: number): { start: number; end: number } | undefined {
  for (let at = start; at + INFO_HEADER_BYTES <= end; ) {
    const length = view.getUint16(at + EventInfoRange.at.len, true);
    const isRange = view.getUint8(at + EventInfoRange.at.infoType) === INFO_TYPE_RANGE;
    if (isRange && length >= EventInfoRange.sizeBytes && at + length <= end) {
      const offset = Number(view.getBigUint64(at + EventInfoRange.at.offset, true));
      return { start: offset, end: offset + Number(view.getBigUint64(at + EventInfoRange.at.count, true)) };
    }
    at += Math.max(length, INFO_HEADER_BYTES);
  }
  return undefined;
}

/**
 * An answer to the event with this descriptor.
 * @param errno 0 lets the access go on; else it fails, with this error where the file system passes it on
 */
export function encodeResponse(target: Uint8Array, fd: number, errno: number): void {
  const view = viewOf(target);
  view.setUint32(EventResponse.at.fd, fd, true);
  view.setUint32(EventResponse.at.response, errno === 0 ? ALLOW : (DENY | (errno << ERRNO_SHIFT)) >>> 0, true);
}
