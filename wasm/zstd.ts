/**
 * zstd decompression of whole frames, and the parts of it that streams share in zstd-*.ts.
 * @see https://www.rfc-editor.org/rfc/rfc8878
 */
import { CHECKSUM, CORRUPT, OK, TOO_LARGE, TRUNCATED } from "./abi";
import { xxh64 } from "./xxh64";
import { blockEnd, checkBlock, decodeBlock } from "./zstd-block";
import { setHistory } from "./zstd-execute";
import {
  BLOCK_HEADER_BYTES,
  CHECKSUM_BYTES,
  MAGIC,
  MAGIC_BYTES,
  SKIPPABLE_HEADER_BYTES,
  beginFrame,
  frameHeaderBytes,
  isLastBlock,
  isSkippable,
  loadBlockHeader,
  storedSize,
} from "./zstd-frame";
import { CONTENT_BYTES, CONTENT_UNKNOWN, HAS_CHECKSUM, WINDOW_BYTES } from "./zstd-state";

/** One state serves all one-shot calls. */
const STATE: usize = memory.data(14400, 16);

/** The next byte of input and of output. */
let next: usize = 0;
let out: usize = 0;

/** Passes over the skippable frame at {@link next}. */
function skipFrame(srcEnd: usize): i32 {
  if (srcEnd - next < SKIPPABLE_HEADER_BYTES) return TRUNCATED;
  const size = <usize>load<u32>(next, MAGIC_BYTES);
  next += SKIPPABLE_HEADER_BYTES;
  if (size > srcEnd - next) return TRUNCATED;
  next += size;
  return OK;
}

/** Decodes all blocks of a frame. */
function decodeBlocks(srcEnd: usize, dstEnd: usize): i32 {
  let header: u32 = 0;
  do {
    if (srcEnd - next < BLOCK_HEADER_BYTES) return TRUNCATED;
    header = loadBlockHeader(next);
    next += BLOCK_HEADER_BYTES;
    let status = checkBlock(STATE, header);
    if (status != OK) return status;
    const size = storedSize(header);
    if (size > srcEnd - next) return TRUNCATED;
    status = decodeBlock(STATE, header, next, out, dstEnd - out);
    if (status != OK) return status;
    next += size;
    out = blockEnd;
  } while (!isLastBlock(header));
  return OK;
}

/** Decodes the frame at {@link next}. */
function decodeFrame(srcEnd: usize, dstEnd: usize): i32 {
  if (srcEnd - next < MAGIC_BYTES + 1) return TRUNCATED;
  const headerBytes = frameHeaderBytes(load<u8>(next, MAGIC_BYTES));
  if (srcEnd - next < headerBytes) return TRUNCATED;
  let status = beginFrame(STATE, next);
  if (status != OK) return status;
  next += headerBytes;
  const content = load<u64>(STATE + CONTENT_BYTES);
  if (content != CONTENT_UNKNOWN && content > <u64>(dstEnd - out)) return TOO_LARGE;
  const start = out;
  setHistory(start, 0, 0, <usize>load<u32>(STATE + WINDOW_BYTES));
  status = decodeBlocks(srcEnd, dstEnd);
  if (status != OK) return status;
  if (content != CONTENT_UNKNOWN && content != <u64>(out - start)) return CORRUPT;
  if (load<u32>(STATE + HAS_CHECKSUM) == 0) return OK;
  if (srcEnd - next < CHECKSUM_BYTES) return TRUNCATED;
  if (load<u32>(next) != <u32>xxh64(start, out - start, 0)) return CHECKSUM;
  next += CHECKSUM_BYTES;
  return OK;
}

/**
 * Decodes whole zstd frames that give exactly `size` bytes, one frame at least; skippable ones are passed over.
 * @param src may be read up to SLACK bytes past its end
 * @param dst `size` bytes and SLACK behind them are writable
 * @returns OK or a fault
 */
export function zstdDecompress(src: usize, srcSize: usize, dst: usize, size: usize): i32 {
  const srcEnd = src + srcSize;
  const dstEnd = dst + size;
  next = src;
  out = dst;
  do {
    if (srcEnd - next < MAGIC_BYTES) return TRUNCATED;
    const magic = load<u32>(next);
    if (magic != MAGIC && !isSkippable(magic)) return CORRUPT;
    const status = magic == MAGIC ? decodeFrame(srcEnd, dstEnd) : skipFrame(srcEnd);
    if (status != OK) return status;
  } while (next < srcEnd);
  return out == dstEnd ? OK : TRUNCATED;
}
