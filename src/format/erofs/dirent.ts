import { readU64 } from "../../base/bytes.ts";
import { NydusError } from "../../base/errors.ts";
import { struct, u8, u16, u64n } from "../../base/struct.ts";
import type { NodeType } from "../tree/node.ts";

/** A directory entry; the names follow the entries of a block. @see erofs_fs.h erofs_dirent */
export const Dirent = struct("erofs_dirent", 12, {
  nid: [0, u64n],
  nameoff: [8, u16],
  fileType: [10, u8],
  reserved: [11, u8],
});

/** Longest file name, bytes. */
export const NAME_LIMIT_BYTES = 255;

const DIRENT_BYTES = Dirent.sizeBytes;

/** `file_type` by node type. @see erofs_fs.h EROFS_FT_* */
export const FILE_TYPES = {
  file: 1,
  dir: 2,
  char: 3,
  block: 4,
  fifo: 5,
  socket: 6,
  symlink: 7,
} as const satisfies Record<NodeType, number>;

const TYPE_OF_NUMBER: readonly (NodeType | undefined)[] = Array.from({ length: 8 }, (_, number) =>
  (Object.keys(FILE_TYPES) as NodeType[]).find((type) => FILE_TYPES[type] === number),
);

/** One block of a directory in the image: entries from `start`, then their names, at most to `end`. */
export interface DirentBlock {
  readonly view: DataView;
  readonly bytes: Uint8Array;
  readonly start: number;
  readonly end: number;
}

/**
 * How many entries the block holds.
 * @throws EUCLEAN when the first name does not lie behind a whole number of entries inside the block
 */
export function direntCount(block: DirentBlock): number {
  const length = block.end - block.start;
  if (length < DIRENT_BYTES) {
    throw direntError(block, 0, `block of ${length} bytes holds no entry`);
  }
  const nameoff = block.view.getUint16(block.start + Dirent.at.nameoff, true);
  if (nameoff < DIRENT_BYTES || nameoff % DIRENT_BYTES !== 0 || nameoff >= length) {
    throw direntError(block, 0, `first nameoff ${nameoff} in a block of ${length} bytes`);
  }
  return nameoff / DIRENT_BYTES;
}

/** Nid that entry `i` names. @throws EUCLEAN above 2^53-1 */
export function direntNid(block: DirentBlock, i: number): number {
  const at = block.start + i * DIRENT_BYTES + Dirent.at.nid;
  const nid = readU64(block.view, at);
  if (!Number.isSafeInteger(nid)) throw direntError(block, i, `nid ${nid} is above 2^53-1`);
  return nid;
}

/** Node type that entry `i` claims, or undefined when it says "unknown". */
export function direntType(block: DirentBlock, i: number): NodeType | undefined {
  return TYPE_OF_NUMBER[block.view.getUint8(block.start + i * DIRENT_BYTES + Dirent.at.fileType)];
}

/** First byte of entry `i`'s name in the image. */
function nameStart(block: DirentBlock, i: number): number {
  return block.start + block.view.getUint16(block.start + i * DIRENT_BYTES + Dirent.at.nameoff, true);
}

/**
 * The name of entry `i` of `count`: a view, not a copy.
 * @throws EUCLEAN outside the block, empty, or longer than 255 bytes
 */
export function direntName(block: DirentBlock, i: number, count: number): Uint8Array {
  const start = nameStart(block, i);
  return block.bytes.subarray(start, checkedNameEnd(block, i, count));
}

/**
 * Orders `name` and the name of entry `i` of `count` as memcmp does, without a view of the latter.
 * @throws as {@link direntName}
 */
export function compareToDirent(name: Uint8Array, block: DirentBlock, i: number, count: number): number {
  const { bytes } = block;
  const start = nameStart(block, i);
  const length = checkedNameEnd(block, i, count) - start;
  const common = Math.min(name.length, length);
  for (let at = 0; at < common; at++) {
    const difference = (name[at] as number) - (bytes[start + at] as number);
    if (difference !== 0) return difference;
  }
  return name.length - length;
}

function checkedNameEnd(block: DirentBlock, i: number, count: number): number {
  const start = nameStart(block, i);
  const end = nameEnd(block, i, count);
  if (start >= end || end > block.end || end - start > NAME_LIMIT_BYTES) {
    throw direntError(block, i, `name from ${start - block.start} to ${end - block.start}`);
  }
  return end;
}

/** Names end where the next begins; the last one of a block at a NUL or at the end. */
function nameEnd(block: DirentBlock, i: number, count: number): number {
  if (i + 1 < count) return nameStart(block, i + 1);
  const nul = block.bytes.subarray(nameStart(block, i), block.end).indexOf(0);
  return nul < 0 ? block.end : nameStart(block, i) + nul;
}

/**
 * Position of `name` among the entries of a sorted block.
 * @returns the entry, or `-1 - i` when it would come before entry `i`
 */
export function findDirent(block: DirentBlock, name: Uint8Array): number {
  const count = direntCount(block);
  let low = 0;
  let high = count;
  while (low < high) {
    const middle = (low + high) >>> 1;
    const order = compareToDirent(name, block, middle, count);
    if (order === 0) return middle;
    if (order < 0) high = middle;
    else low = middle + 1;
  }
  return -1 - low;
}

function direntError(block: DirentBlock, i: number, found: string): NydusError {
  return new NydusError("EUCLEAN", `Cannot decode directory entry ${i}: ${found}`, {
    offset: block.start + i * DIRENT_BYTES,
  });
}
