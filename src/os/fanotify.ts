import { closeSync, readSync, writeSync } from "node:fs";
import { asNydusError, NydusError } from "../base/errors.ts";
import {
  decodeEvents,
  EventResponse,
  encodeResponse,
  FAN_PRE_ACCESS,
  type FanotifyEvent,
  RANGE_EVENT_BYTES,
} from "../format/fanotify/event.ts";
import { hasLibc, libc, systemFailure } from "./syscall.ts";

const FAN_CLOEXEC = 0x1;
const FAN_NONBLOCK = 0x2;
const FAN_CLASS_PRE_CONTENT = 0x8;
/** A full limited queue lets reads through unasked. */
const FAN_UNLIMITED_QUEUE = 0x10;
const FAN_UNLIMITED_MARKS = 0x20;
const FAN_MARK_ADD = 0x1;
const FAN_MARK_REMOVE = 0x2;
const O_RDONLY = 0;
const O_CLOEXEC = 0o2000000;
const EINVAL = 22;
const ENOENT = 2;
const EOPNOTSUPP = 95;
const EPERM = 1;

/** A group with pre-content marks: whoever reads a marked file waits for its answer. Close it by `closeSync`. */
export interface FanotifyGroup {
  readonly fd: number;
}

/**
 * Opens a group; reading from it does not wait. While any copy of its descriptor is open, readers wait; with the last
 * one they go on unasked.
 * @throws ENOTSUP a kernel before 6.14, or another runtime; EPERM without CAP_SYS_ADMIN
 */
export function openFanotify(): FanotifyGroup {
  if (!hasLibc()) throw new NydusError("ENOTSUP", "Cannot watch files: this runtime has no way to");
  const flags = FAN_CLASS_PRE_CONTENT | FAN_UNLIMITED_QUEUE | FAN_UNLIMITED_MARKS | FAN_CLOEXEC | FAN_NONBLOCK;
  const { errno, fd } = libc().fanotifyInit(flags, O_RDONLY | O_CLOEXEC);
  if (fd !== undefined) return { fd };
  if (errno === EPERM) throw new NydusError("EPERM", "Cannot watch files: needs root (CAP_SYS_ADMIN)");
  if (errno === EINVAL) throw new NydusError("ENOTSUP", "Cannot watch files: this kernel has no pre-content events");
  throw systemFailure(errno, "watch files (fanotify_init)");
}

/**
 * Has the kernel ask before a file is read through a descriptor that is opened from now on. Those that are open
 * already never ask, for reading and for writing.
 * @throws ENOTSUP the file system or the kernel cannot
 */
export function markFile({ fd: group }: FanotifyGroup, fd: number): void {
  const errno = libc().fanotifyMark({ group, flags: FAN_MARK_ADD, mask: FAN_PRE_ACCESS, fd });
  if (errno === 0) return;
  if (errno === EINVAL || errno === EOPNOTSUPP) {
    throw new NydusError("ENOTSUP", "Cannot watch file: kernel or file system have no pre-content events");
  }
  throw systemFailure(errno, "watch file (fanotify_mark)");
}

/** Takes a mark away: reads go on unasked. @throws EIO */
export function unmarkFile({ fd: group }: FanotifyGroup, fd: number): void {
  const errno = libc().fanotifyMark({ group, flags: FAN_MARK_REMOVE, mask: FAN_PRE_ACCESS, fd });
  if (errno !== 0 && errno !== ENOENT) throw systemFailure(errno, "stop watching file (fanotify_mark)");
}

/** Room for events, as many as are read at once. */
export function eventBuffer(events: number): Uint8Array {
  return new Uint8Array(events * RANGE_EVENT_BYTES);
}

/**
 * Takes events, without waiting.
 * @param limit at most so many: each holds a descriptor until it is answered
 * @returns none when there are none
 */
export function readEvents(group: FanotifyGroup, buffer: Uint8Array, limit: number): FanotifyEvent[] {
  const length = Math.min(buffer.length, limit * RANGE_EVENT_BYTES);
  try {
    return decodeEvents(buffer.subarray(0, readSync(group.fd, buffer, 0, length, null)));
  } catch (error) {
    const code = (error as { code?: string }).code;
    if (code === "EAGAIN" || code === "EINTR") return [];
    throw error instanceof NydusError ? error : asNydusError(error);
  }
}

const response = new Uint8Array(EventResponse.sizeBytes);

/**
 * Answers an event by the number of its descriptor, which stays open.
 * @param errno 0 lets the reader go on
 * @returns false when no event with that number waits
 */
export function answerEvent(group: FanotifyGroup, eventFd: number, errno: number): boolean {
  encodeResponse(response, eventFd, errno);
  try {
    writeSync(group.fd, response);
    return true;
  } catch (error) {
    const code = (error as { code?: string }).code;
    if (code === "ENOENT" || code === "EINVAL") return false;
    throw asNydusError(error);
  }
}

/** Answers an event and closes its descriptor. */
export function settleEvent(group: FanotifyGroup, eventFd: number, errno: number): void {
  try {
    answerEvent(group, eventFd, errno);
  } finally {
    closeSync(eventFd);
  }
}
