/** Headers of zstd frames and blocks (RFC 8878, 3.1.1.1, 3.1.1.2 and 3.1.2). */
import { CORRUPT, DICTIONARY, OK } from "./abi";
import {
  BLOCK_LIMIT,
  BLOCK_MAX,
  CONTENT_BYTES,
  CONTENT_UNKNOWN,
  HAS_CHECKSUM,
  WINDOW_BYTES,
  resetState,
} from "./zstd-state";

export const MAGIC: u32 = 0xfd2fb528;
export const MAGIC_BYTES: usize = 4;
export const SKIPPABLE_HEADER_BYTES: usize = 8;
export const BLOCK_HEADER_BYTES: usize = 3;
export const CHECKSUM_BYTES: usize = 4;

/** Magic numbers of skippable frames: any lowest four bits. */
const SKIPPABLE_MAGIC: u32 = 0x184d2a50;
const SKIPPABLE_MASK: u32 = 0xfffffff0;

const SINGLE_SEGMENT: u32 = 1 << 5;
const RESERVED: u32 = 1 << 3;
const CHECKSUM: u32 = 1 << 2;

const WINDOW_LOG_MIN: u64 = 10;

/** Block types. */
export const RAW_BLOCK: u32 = 0;
export const RLE_BLOCK: u32 = 1;
export const COMPRESSED_BLOCK: u32 = 2;

// @ts-ignore: decorator
@inline
export function isSkippable(magic: u32): bool {
  return (magic & SKIPPABLE_MASK) == SKIPPABLE_MAGIC;
}

// @ts-ignore: decorator
@inline
function dictionaryIdBytes(descriptor: u32): usize {
  const flag = descriptor & 3;
  return flag == 3 ? 4 : flag;
}

// @ts-ignore: decorator
@inline
function contentSizeBytes(descriptor: u32): usize {
  const flag = descriptor >> 6;
  return flag == 0 ? <usize>((descriptor & SINGLE_SEGMENT) != 0) : <usize>1 << flag;
}

/** Bytes of a frame header, magic number included, by the descriptor that is its fifth byte. */
export function frameHeaderBytes(descriptor: u32): usize {
  const window: usize = (descriptor & SINGLE_SEGMENT) != 0 ? 0 : 1;
  return MAGIC_BYTES + 1 + window + dictionaryIdBytes(descriptor) + contentSizeBytes(descriptor);
}

/** The lowest `size` bytes of what lies at `src`; 8 can be read. */
// @ts-ignore: decorator
@inline
function loadBytes(src: usize, size: usize): u64 {
  return size == 0 ? 0 : load<u64>(src) & (<u64>-1 >> (64 - (size << 3)));
}

/**
 * Begins a frame: reads its header, all of which lies at `src`, into `state`.
 * @returns OK, CORRUPT or DICTIONARY
 */
export function beginFrame(state: usize, src: usize): i32 {
  const descriptor = <u32>load<u8>(src, MAGIC_BYTES);
  if ((descriptor & RESERVED) != 0) return CORRUPT;
  let at = src + MAGIC_BYTES + 1;
  let window: u64 = 0;
  if ((descriptor & SINGLE_SEGMENT) == 0) {
    const byte = <u64>load<u8>(at++);
    const base: u64 = <u64>1 << (WINDOW_LOG_MIN + (byte >> 3));
    window = base + (base >> 3) * (byte & 7);
  }
  const dictionaryBytes = dictionaryIdBytes(descriptor);
  if (loadBytes(at, dictionaryBytes) != 0) return DICTIONARY;
  at += dictionaryBytes;
  const sizeBytes = contentSizeBytes(descriptor);
  let content = sizeBytes == 0 ? CONTENT_UNKNOWN : loadBytes(at, sizeBytes);
  if (sizeBytes == 2) content += 256;
  if ((descriptor & SINGLE_SEGMENT) != 0) window = content;
  resetState(state);
  store<u32>(state + WINDOW_BYTES, <u32>min<u64>(window, 0xffff_ffff));
  store<u32>(state + BLOCK_MAX, <u32>min<u64>(window, BLOCK_LIMIT));
  store<u32>(state + HAS_CHECKSUM, <u32>((descriptor & CHECKSUM) != 0));
  store<u64>(state + CONTENT_BYTES, content);
  return OK;
}

/** The three bytes of a block header. */
// @ts-ignore: decorator
@inline
export function loadBlockHeader(src: usize): u32 {
  return load<u32>(src) & 0xffffff;
}

// @ts-ignore: decorator
@inline
export function isLastBlock(header: u32): bool {
  return (header & 1) != 0;
}

// @ts-ignore: decorator
@inline
export function blockType(header: u32): u32 {
  return (header >> 1) & 3;
}

/** Bytes of the block's content; of an RLE block, of what it gives. */
// @ts-ignore: decorator
@inline
export function blockSize(header: u32): u32 {
  return header >> 3;
}

/** Bytes of the block's content in the input; the header is not counted. */
// @ts-ignore: decorator
@inline
export function storedSize(header: u32): usize {
  return blockType(header) == RLE_BLOCK ? 1 : <usize>blockSize(header);
}
