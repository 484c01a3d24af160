/** The literals section of a compressed block (RFC 8878, 3.1.1.3.1). */
import { CORRUPT, OK } from "./abi";
import { HUFFMAN_LOG, readHuffmanTable } from "./zstd-huffman";
import { BLOCK_MAX, HUFFMAN_READY, HUFFMAN_TABLE } from "./zstd-state";

const RAW: u32 = 0;
const RLE: u32 = 1;
const TREELESS: u32 = 3;

/** Four streams are led by the sizes of the first three, u16 each, and hold at least this many literals. */
const JUMP_TABLE_BYTES: usize = 6;
const FOUR_STREAMS_MIN: usize = 6;

/** Symbols that one refill surely holds: 5 codes of 11 bits, of at least 56 bits. */
const SYMBOLS_A_REFILL: usize = 5;
const INDEX_SHIFT: u64 = 64 - HUFFMAN_LOG;

/**
 * Literals of one block, a block at most and slack. They lie below the arena, so that every input has more memory before
 * it than the decoders of streams can read backwards: 7 bytes for 5 literals.
 */
const LITERALS: usize = memory.data(131072 + 64, 16);

/** What {@link readLiterals} found: the literals, their number, and where the section ends. */
export let literals: usize = 0;
export let literalCount: usize = 0;
export let literalsEnd: usize = 0;

/** Raw literals stay where they are, a repeated one is written out. */
function readPlain(type: u32, src: usize, end: usize): i32 {
  const format = (<u32>load<u8>(src) >> 2) & 3;
  const headerBytes: usize = (format & 1) == 0 ? 1 : format == 1 ? 2 : 3;
  if (headerBytes > end - src) return CORRUPT;
  const header = load<u32>(src);
  literalCount = headerBytes == 1 ? (header & 255) >> 3 : (header & (headerBytes == 2 ? 0xffff : 0xffffff)) >> 4;
  literals = src + headerBytes;
  const stored: usize = type == RLE ? 1 : literalCount;
  if (stored > end - literals) return CORRUPT;
  literalsEnd = literals + stored;
  return OK;
}

/**
 * The 64 bits that end with a stream's last, those already read shifted out at the top. The lowest bit is set as a
 * sentinel: as many zeros as follow it were shifted in, so many bits were read.
 * @param end where the stream ends; 8 bytes before can be read
 */
// @ts-ignore: decorator
@inline
function beginBits(end: usize): u64 {
  const padding = <u64>clz(<u32>load<u8>(end - 1)) - 23;
  return (load<u64>(end - 8) | 1) << padding;
}

/** As {@link beginBits} for a stream read up to `bits` of the 8 bytes at `at`, which has moved to `next`. */
// @ts-ignore: decorator
@inline
function refill(next: usize, bits: u64): u64 {
  return (load<u64>(next) | 1) << (ctz(bits) & 7);
}

// @ts-ignore: decorator
@inline
function entryOf(table: usize, bits: u64): u64 {
  return <u64>load<u16>(table + (<usize>(bits >> INDEX_SHIFT) << 1));
}

/**
 * Decodes one stream to its end.
 * @param at the 8 bytes of which `bits` are what is unread
 * @returns OK when `dst` is full as the stream ends, not before or after
 */
function finishStream(table: usize, start: usize, at: usize, bits: u64, dst: usize, dstEnd: usize): i32 {
  while (dst + SYMBOLS_A_REFILL <= dstEnd) {
    for (let i = 0; i < <i32>SYMBOLS_A_REFILL; i++) {
      const entry = entryOf(table, bits);
      store<u8>(dst++, <u8>(entry >> 8));
      bits <<= entry & 63;
    }
    at -= <usize>ctz(bits) >> 3;
    bits = refill(at, bits);
  }
  for (; dst < dstEnd; dst++) {
    const entry = entryOf(table, bits);
    store<u8>(dst, <u8>(entry >> 8));
    bits <<= entry & 63;
  }
  return (<i32>at - <i32>start) * 8 + 64 - <i32>ctz(bits) == 0 ? OK : CORRUPT;
}

function decodeOne(table: usize, src: usize, end: usize): i32 {
  if (src == end || load<u8>(end - 1) == 0) return CORRUPT;
  return finishStream(table, src, end - 8, beginBits(end), LITERALS, LITERALS + literalCount);
}

/** The four streams of a block in step, as far as the last one surely goes; then each to its end. */
function decodeInStep(table: usize, start: usize, ends: usize, segment: usize): i32 {
  const end0 = <usize>load<u32>(ends);
  const end1 = <usize>load<u32>(ends, 4);
  const end2 = <usize>load<u32>(ends, 8);
  const end3 = <usize>load<u32>(ends, 12);
  let at0 = end0 - 8;
  let at1 = end1 - 8;
  let at2 = end2 - 8;
  let at3 = end3 - 8;
  let bits0 = beginBits(end0);
  let bits1 = beginBits(end1);
  let bits2 = beginBits(end2);
  let bits3 = beginBits(end3);
  const dst1 = segment;
  const dst2 = segment * 2;
  const dst3 = segment * 3;
  let dst = LITERALS;
  const dstEnd = LITERALS + literalCount;
  const stepsEnd = LITERALS + (literalCount - dst3) / SYMBOLS_A_REFILL * SYMBOLS_A_REFILL;
  while (dst < stepsEnd) {
    for (let i = 0; i < <i32>SYMBOLS_A_REFILL; i++) {
      const entry0 = entryOf(table, bits0);
      const entry1 = entryOf(table, bits1);
      const entry2 = entryOf(table, bits2);
      const entry3 = entryOf(table, bits3);
      store<u8>(dst, <u8>(entry0 >> 8));
      store<u8>(dst + dst1, <u8>(entry1 >> 8));
      store<u8>(dst + dst2, <u8>(entry2 >> 8));
      store<u8>(dst + dst3, <u8>(entry3 >> 8));
      bits0 <<= entry0 & 63;
      bits1 <<= entry1 & 63;
      bits2 <<= entry2 & 63;
      bits3 <<= entry3 & 63;
      dst++;
    }
    at0 -= <usize>ctz(bits0) >> 3;
    at1 -= <usize>ctz(bits1) >> 3;
    at2 -= <usize>ctz(bits2) >> 3;
    at3 -= <usize>ctz(bits3) >> 3;
    bits0 = refill(at0, bits0);
    bits1 = refill(at1, bits1);
    bits2 = refill(at2, bits2);
    bits3 = refill(at3, bits3);
  }
  const status0 = finishStream(table, start, at0, bits0, dst, LITERALS + dst1);
  const status1 = finishStream(table, end0, at1, bits1, dst + dst1, LITERALS + dst2);
  const status2 = finishStream(table, end1, at2, bits2, dst + dst2, LITERALS + dst3);
  const status3 = finishStream(table, end2, at3, bits3, dst + dst3, dstEnd);
  return status0 == OK && status1 == OK && status2 == OK && status3 == OK ? OK : CORRUPT;
}

/** Ends of the four streams, u32. */
const ENDS: usize = memory.data(16, 4);

function decodeFour(table: usize, src: usize, end: usize): i32 {
  if (literalCount < FOUR_STREAMS_MIN || end - src < JUMP_TABLE_BYTES) return CORRUPT;
  const start = src + JUMP_TABLE_BYTES;
  let at = start;
  for (let i: usize = 0; i < 4; i++) {
    const size = i < 3 ? <usize>load<u16>(src + (i << 1)) : end - at;
    if (size == 0 || size > end - at || load<u8>(at + size - 1) == 0) return CORRUPT;
    at += size;
    store<u32>(ENDS + (i << 2), <u32>at);
  }
  return decodeInStep(table, start, ENDS, (literalCount + 3) >> 2);
}

/** Literals by a Huffman code, the block's own or the one before. */
function readCompressed(state: usize, type: u32, src: usize, end: usize): i32 {
  const format = (<u32>load<u8>(src) >> 2) & 3;
  const headerBytes: usize = format == 0 ? 3 : <usize>format + 2;
  if (headerBytes > end - src) return CORRUPT;
  const sizeBits: u64 = format < 2 ? 10 : format == 2 ? 14 : 18;
  const sizes = load<u64>(src) >> 4;
  const mask: u64 = (<u64>1 << sizeBits) - 1;
  literalCount = <usize>(sizes & mask);
  const stored = <usize>((sizes >> sizeBits) & mask);
  let at = src + headerBytes;
  if (stored > end - at || literalCount > <usize>load<u32>(state + BLOCK_MAX)) return CORRUPT;
  literalsEnd = at + stored;
  literals = LITERALS;
  const table = state + HUFFMAN_TABLE;
  if (type != TREELESS) {
    store<u32>(state + HUFFMAN_READY, 0);
    const taken = readHuffmanTable(table, at, stored);
    if (taken < 0) return ~taken;
    at += <usize>taken;
    store<u32>(state + HUFFMAN_READY, 1);
  }
  if (load<u32>(state + HUFFMAN_READY) == 0) return CORRUPT;
  return format == 0 ? decodeOne(table, at, literalsEnd) : decodeFour(table, at, literalsEnd);
}

/**
 * Reads the literals of the block whose content begins at `src`.
 * @returns OK with {@link literals} (SLACK behind them is readable), {@link literalCount} and {@link literalsEnd} set, or
 *   CORRUPT
 */
export function readLiterals(state: usize, src: usize, end: usize): i32 {
  if (src == end) return CORRUPT;
  const type = <u32>load<u8>(src) & 3;
  if (type > RLE) return readCompressed(state, type, src, end);
  const status = readPlain(type, src, end);
  if (status != OK) return status;
  if (literalCount > <usize>load<u32>(state + BLOCK_MAX)) return CORRUPT;
  if (type == RAW) return OK;
  memory.fill(LITERALS, load<u8>(literals), literalCount);
  literals = LITERALS;
  return OK;
}
