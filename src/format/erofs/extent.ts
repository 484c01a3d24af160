import { alignUp, BLOCK_BYTES, powerOfTwo } from "../../base/bytes.ts";
import { NydusError } from "../../base/errors.ts";
import {
  CHUNK_FORMAT_BLKBITS_MASK,
  CHUNK_FORMAT_INDEXES,
  ChunkIndex,
  type Device,
  deviceIdMask,
  NULL_BLKADDR,
} from "./device.ts";
import { type Inode, LAYOUT } from "./inode.ts";
import { BLOCK_BITS } from "./superblock.ts";

const BLOCK_MAP_BYTES = 4;

/** A run of a file's bytes and where they are. All numbers are bytes. */
export type Extent =
  | {
      readonly kind: "device";
      /** 1-based slot of the device table. */
      readonly device: number;
      readonly deviceOffset: number;
      readonly fileOffset: number;
      readonly length: number;
    }
  /** In the bootstrap itself, at `offset`. */
  | { readonly kind: "meta"; readonly offset: number; readonly fileOffset: number; readonly length: number }
  | { readonly kind: "hole"; readonly fileOffset: number; readonly length: number };

/** What mapping file bytes needs of an image. */
export interface ExtentArea {
  readonly bytes: Uint8Array;
  readonly view: DataView;
  readonly devices: readonly Device[];
}

/** Bytes of one chunk of a chunk-based inode. */
export function chunkBytesOf(inode: Inode): number {
  return powerOfTwo(BLOCK_BITS + (inode.u & CHUNK_FORMAT_BLKBITS_MASK));
}

/** Byte offset of the first chunk index of a chunk-based inode. */
export function chunkIndexOffset(inode: Inode): number {
  const unit = (inode.u & CHUNK_FORMAT_INDEXES) === 0 ? BLOCK_MAP_BYTES : ChunkIndex.sizeBytes;
  return alignUp(inode.xattrOffset + inode.xattrBytes, unit);
}

/**
 * Where `[offset, offset + length)` of a file lies, clipped to the file, in file order without gaps;
 * neighbours that continue each other on one device are joined.
 * @throws EUCLEAN a map or a target outside the image or its device; ENOTSUP unknown chunk formats
 */
export function* mapExtents(area: ExtentArea, inode: Inode, offset: number, length: number): Generator<Extent> {
  const end = Math.min(offset + length, inode.sizeBytes);
  for (let at = offset; at < end; ) {
    const extent = joinedExtent(area, inode, at, end);
    yield extent;
    at += extent.length;
  }
}

/** {@link mapExtents} as an array, for short ranges: a file system asks for them very often. */
export function listExtents(area: ExtentArea, inode: Inode, offset: number, length: number): Extent[] {
  const end = Math.min(offset + length, inode.sizeBytes);
  const extents: Extent[] = [];
  for (let at = offset; at < end; ) {
    const extent = joinedExtent(area, inode, at, end);
    extents.push(extent);
    at += extent.length;
  }
  return extents;
}

/** The extent that begins at byte `at` of a file, with what continues it. */
function joinedExtent(area: ExtentArea, inode: Inode, at: number, end: number): Extent {
  let extent = extentAt(area, inode, at, end);
  for (let next = at + extent.length; next < end; ) {
    const follower = extentAt(area, inode, next, end);
    const joined = join(extent, follower);
    if (joined === undefined) break;
    extent = joined;
    next += follower.length;
  }
  return extent;
}

function extentAt(area: ExtentArea, inode: Inode, at: number, end: number): Extent {
  return inode.layout === LAYOUT.chunkBased ? chunkExtent(area, inode, at, end) : flatExtent(area, inode, at, end);
}

function join(a: Extent, b: Extent): Extent | undefined {
  const length = a.length + b.length;
  if (a.kind === "hole" && b.kind === "hole") return { ...a, length };
  if (a.kind === "meta" && b.kind === "meta" && a.offset + a.length === b.offset) return { ...a, length };
  if (a.kind !== "device" || b.kind !== "device") return undefined;
  return a.device === b.device && a.deviceOffset + a.length === b.deviceOffset ? { ...a, length } : undefined;
}

function flatExtent(area: ExtentArea, inode: Inode, at: number, end: number): Extent {
  const tail = inode.layout === LAYOUT.flatInline ? inode.sizeBytes % BLOCK_BYTES : 0;
  const blocksEnd = inode.sizeBytes - tail;
  if (at < blocksEnd) {
    const length = Math.min(end, blocksEnd) - at;
    return locate(area, inode, { device: 0, address: inode.u * BLOCK_BYTES + at, fileOffset: at, length });
  }
  return {
    kind: "meta",
    offset: inlineOffset(area, inode, tail) + at - blocksEnd,
    fileOffset: at,
    length: end - at,
  };
}

/** Where the tail of a flat-inline inode begins; it must not leave its block. */
function inlineOffset(area: ExtentArea, inode: Inode, tail: number): number {
  const start = inode.xattrOffset + inode.xattrBytes;
  if ((start % BLOCK_BYTES) + tail > BLOCK_BYTES || start + tail > area.bytes.length) {
    throw mapError(inode, `inline tail of ${tail} bytes at ${start} crosses its block or the image's end`);
  }
  return start;
}

function chunkExtent(area: ExtentArea, inode: Inode, at: number, end: number): Extent {
  const format = inode.u & 0xffff;
  if ((format & ~(CHUNK_FORMAT_BLKBITS_MASK | CHUNK_FORMAT_INDEXES)) !== 0) {
    throw new NydusError("ENOTSUP", `Cannot map file: chunk format 0x${format.toString(16)}`, { offset: inode.offset });
  }
  const chunkBytes = chunkBytesOf(inode);
  const within = at % chunkBytes;
  const length = Math.min(end - at, chunkBytes - within);
  const { device, blkaddr } = chunkAddress(area, inode, (at - within) / chunkBytes);
  if (blkaddr === NULL_BLKADDR) return { kind: "hole", fileOffset: at, length };
  return locate(area, inode, {
    device: device & deviceIdMask(area.devices.length),
    address: blkaddr * BLOCK_BYTES + within,
    fileOffset: at,
    length,
  });
}

function chunkAddress(area: ExtentArea, inode: Inode, chunk: number): { device: number; blkaddr: number } {
  const indexed = (inode.u & CHUNK_FORMAT_INDEXES) !== 0;
  const unit = indexed ? ChunkIndex.sizeBytes : BLOCK_MAP_BYTES;
  const at = chunkIndexOffset(inode) + chunk * unit;
  if (at + unit > area.bytes.length) throw mapError(inode, `chunk index ${chunk} at ${at} is past the image's end`);
  if (!indexed) return { device: 0, blkaddr: area.view.getUint32(at, true) };
  return {
    device: area.view.getUint16(at + ChunkIndex.at.deviceId, true),
    blkaddr: area.view.getUint32(at + ChunkIndex.at.startblkLo, true),
  };
}

interface Run {
  readonly device: number;
  readonly address: number;
  readonly fileOffset: number;
  readonly length: number;
}

/** Resolves device 0 through the unified addresses, as the kernel's erofs_map_dev() does, and checks bounds. */
function locate(area: ExtentArea, inode: Inode, run: Run): Extent {
  const { fileOffset, length } = run;
  if (run.device === 0) {
    const flat = area.devices.find(
      ({ uniaddr, blocks }) =>
        uniaddr > 0 && run.address >= uniaddr * BLOCK_BYTES && run.address < (uniaddr + blocks) * BLOCK_BYTES,
    );
    if (flat !== undefined) {
      return locate(area, inode, { ...run, device: flat.slot, address: run.address - flat.uniaddr * BLOCK_BYTES });
    }
    if (run.address + length > area.bytes.length) {
      throw mapError(inode, `${length} bytes at ${run.address} end past the image, ${area.bytes.length} bytes`);
    }
    return { kind: "meta", offset: run.address, fileOffset, length };
  }
  const device = area.devices[run.device - 1];
  if (device === undefined) throw mapError(inode, `device ${run.device} of ${area.devices.length}`);
  if (device.blocks > 0 && run.address + length > device.blocks * BLOCK_BYTES) {
    throw mapError(inode, `${length} bytes at ${run.address} end past device ${run.device}, ${device.blocks} blocks`);
  }
  return { kind: "device", device: run.device, deviceOffset: run.address, fileOffset, length };
}

function mapError(inode: Inode, found: string): NydusError {
  return new NydusError("EUCLEAN", `Cannot map file of nid ${inode.nid}: ${found}`, { offset: inode.offset });
}
