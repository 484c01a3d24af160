/**
 * The LZ4 block format, both ways.
 * @see https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md
 */
import { CORRUPT, OK, TOO_LARGE, TRUNCATED } from "./abi";
import { copyMatch, wildCopy } from "./copy";

const MIN_MATCH: usize = 4;
const MAX_DISTANCE: usize = 65535;
/** The last bytes of a block are literals: this many, */
const LAST_LITERALS: usize = 5;
/** and no match begins this near to the end. */
const MATCH_MARGIN: usize = 12;
/** A length that fills its four bits goes on in bytes after. */
const LENGTH_MASK: usize = 15;

/** Positions by hash, u32 from the start of the input. */
const HASH_BITS: u64 = 13;
const TABLE: usize = memory.data(32768, 16);
const TABLE_BYTES: usize = 32768;
/** After each 2^6 misses in a row the search steps one byte wider. */
const SKIP_SHIFT: usize = 6;

/** The largest block that `size` bytes can give. */
export function lz4Bound(size: usize): usize {
  return size + size / 255 + 16;
}

/** The table entry of the five bytes at `ptr`. */
// @ts-ignore: decorator
@inline
function slot(ptr: usize): usize {
  return TABLE + (<usize>(((load<u64>(ptr) << 24) * 889523592379) >> (64 - HASH_BITS)) << 2);
}

/** How many bytes from `a` on equal those from `b` on, up to `end`. */
// @ts-ignore: decorator
@inline
function matchLength(a: usize, b: usize, end: usize): usize {
  const start = a;
  while (a + 8 <= end) {
    const difference = load<u64>(a) ^ load<u64>(b);
    if (difference != 0) return a - start + (<usize>ctz(difference) >> 3);
    a += 8;
    b += 8;
  }
  while (a < end && load<u8>(a) == load<u8>(b)) {
    a++;
    b++;
  }
  return a - start;
}

/** Writes what a length has beyond its four bits. @returns the next byte to write */
// @ts-ignore: decorator
@inline
function putLength(dst: usize, length: usize): usize {
  if (length < LENGTH_MASK) return dst;
  length -= LENGTH_MASK;
  for (; length >= 255; length -= 255) store<u8>(dst++, 255);
  store<u8>(dst, <u8>length);
  return dst + 1;
}

/** Writes the token's literal half, lengths and literals. @returns the next byte to write; the token is at `dst` */
// @ts-ignore: decorator
@inline
function putLiterals(dst: usize, src: usize, size: usize): usize {
  store<u8>(dst, <u8>(min<usize>(size, LENGTH_MASK) << 4));
  const to = putLength(dst + 1, size);
  wildCopy(to, src, size);
  return to + size;
}

/**
 * Compresses `size` bytes greedily, one candidate by hash for each position.
 * @param dst {@link lz4Bound} bytes and SLACK behind them are writable
 * @returns bytes written
 */
export function lz4Compress(src: usize, size: usize, dst: usize): usize {
  const end = src + size;
  let out = dst;
  let anchor = src;
  if (size > MATCH_MARGIN) {
    const searchEnd = end - MATCH_MARGIN;
    const matchEnd = end - LAST_LITERALS;
    memory.fill(TABLE, 0, TABLE_BYTES);
    let at = src + 1;
    let misses: usize = 1 << SKIP_SHIFT;
    while (at <= searchEnd) {
      const entry = slot(at);
      let match = src + load<u32>(entry);
      store<u32>(entry, <u32>(at - src));
      if (load<u32>(match) != load<u32>(at) || at - match > MAX_DISTANCE) {
        at += misses >> SKIP_SHIFT;
        misses++;
        continue;
      }
      while (at > anchor && match > src && load<u8>(at - 1) == load<u8>(match - 1)) {
        at--;
        match--;
      }
      const token = out;
      out = putLiterals(out, anchor, at - anchor);
      store<u16>(out, <u16>(at - match));
      const length = matchLength(at + MIN_MATCH, match + MIN_MATCH, matchEnd);
      store<u8>(token, load<u8>(token) | <u8>min<usize>(length, LENGTH_MASK));
      out = putLength(out + 2, length);
      at += length + MIN_MATCH;
      anchor = at;
      misses = 1 << SKIP_SHIFT;
      if (at <= searchEnd) store<u32>(slot(at - 2), <u32>(at - 2 - src));
    }
  }
  return putLiterals(out, anchor, end - anchor) - dst;
}

/** The next byte to read after {@link takeLength}. */
let lengthEnd: usize = 0;

/** The rest of a length that filled its four bits; `limit` or more when the input ends or the sum passes `limit`. */
function takeLength(src: usize, end: usize, limit: usize): usize {
  let length: usize = LENGTH_MASK;
  while (src < end && length <= limit) {
    const byte = load<u8>(src++);
    length += byte;
    if (byte != 255) {
      lengthEnd = src;
      return length;
    }
  }
  lengthEnd = src;
  return src < end ? limit + 1 : <usize>-1;
}

/**
 * Decompresses one block of exactly `size` bytes.
 * @param src may be read up to SLACK bytes past its end
 * @param dst `size` bytes and SLACK behind them are writable
 * @returns OK or a fault
 */
export function lz4Decompress(src: usize, srcSize: usize, dst: usize, size: usize): i32 {
  const srcEnd = src + srcSize;
  const dstEnd = dst + size;
  let out = dst;
  while (src < srcEnd) {
    const token = <usize>load<u8>(src++);
    let literals = token >> 4;
    if (literals == LENGTH_MASK) {
      literals = takeLength(src, srcEnd, size);
      src = lengthEnd;
    }
    if (literals > srcEnd - src) return TRUNCATED;
    if (literals > dstEnd - out) return TOO_LARGE;
    wildCopy(out, src, literals);
    src += literals;
    out += literals;
    if (src == srcEnd) return out == dstEnd ? OK : TRUNCATED;
    if (srcEnd - src < 2) return TRUNCATED;
    const distance = <usize>load<u16>(src);
    src += 2;
    if (distance == 0 || distance > out - dst) return CORRUPT;
    let length = token & LENGTH_MASK;
    if (length == LENGTH_MASK) {
      length = takeLength(src, srcEnd, size);
      src = lengthEnd;
      if (length == <usize>-1) return TRUNCATED;
    }
    length += MIN_MATCH;
    if (length > dstEnd - out) return TOO_LARGE;
    copyMatch(out, distance, length);
    out += length;
  }
  return TRUNCATED;
}
