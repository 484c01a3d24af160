/**
 * FSE tables (RFC 8878, 4.1): descriptions, decoding tables, and the codes of sequences that their symbols stand for.
 *
 * An entry is a u64: the next state before its bits are added (16 bits), the number of these bits (8), and of the symbol
 * the number of extra bits (8) and the value that these are added to (32).
 */
import { CORRUPT } from "./abi";

const ACCURACY_LOG_MIN: u32 = 5;

const LITERAL_LENGTH_CODES: u32 = 36;
const MATCH_LENGTH_CODES: u32 = 53;
/** Offset codes go up to 31 in the format's 32-bit decoders. */
const OFFSET_CODES: u32 = 32;
/** Symbols of Huffman weights; those above 11 no valid table uses. */
const WEIGHT_CODES: u32 = 16;

/** Symbols in the order of their states, and for each symbol the next sub-state. */
const SPREAD: usize = memory.data(512);
const NEXT: usize = memory.data(106, 2);

/** Normalized counts, i16: of the table being read. */
export const COUNTS: usize = memory.data(106, 2);

/** Extra bits of the codes from the first that has any; the base of a code is where the one before ends. */
const LITERAL_LENGTH_BITS = memory.data<u8>([
  0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16,
]);
const MATCH_LENGTH_BITS = memory.data<u8>([
  0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 3,
  3, 4, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16,
]);
const MIN_MATCH: u64 = 3;

/** Default distributions (RFC 8878, 3.1.1.3.2.2), i16. */
const DEFAULT_LITERAL_LENGTHS = memory.data<i16>([
  4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2, 1, 1, 1, 1, 1, -1, -1, -1, -1,
]);
const DEFAULT_MATCH_LENGTHS = memory.data<i16>([
  1, 4, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
  1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1,
]);
const DEFAULT_OFFSETS = memory.data<i16>([
  1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1,
]);

/** What a kind of symbol means and may be: a code's upper half of a table entry (u64 each), and its limits. */
export const LITERAL_LENGTH_KIND: usize = memory.data(8 * 36, 8);
export const MATCH_LENGTH_KIND: usize = memory.data(8 * 53, 8);
export const OFFSET_KIND: usize = memory.data(8 * 32, 8);
export const WEIGHT_KIND: usize = memory.data(8 * 16, 8);

/** Tables of the default distributions, and their accuracy logs. */
export const LITERAL_LENGTH_DEFAULT: usize = memory.data(512, 16);
export const MATCH_LENGTH_DEFAULT: usize = memory.data(512, 16);
export const OFFSET_DEFAULT: usize = memory.data(256, 16);
export const LITERAL_LENGTH_DEFAULT_LOG: u32 = 6;
export const MATCH_LENGTH_DEFAULT_LOG: u32 = 6;
export const OFFSET_DEFAULT_LOG: u32 = 5;

/** How many codes a kind has. */
export function codeCount(kind: usize): u32 {
  if (kind == LITERAL_LENGTH_KIND) return LITERAL_LENGTH_CODES;
  if (kind == MATCH_LENGTH_KIND) return MATCH_LENGTH_CODES;
  return kind == OFFSET_KIND ? OFFSET_CODES : WEIGHT_CODES;
}

// @ts-ignore: decorator
@inline
function putCode(kind: usize, code: u32, base: u64, extraBits: u64): void {
  store<u64>(kind + (<usize>code << 3), (base << 32) | (extraBits << 24));
}

function fillLengthCodes(kind: usize, bits: usize, base: u64): void {
  const count = codeCount(kind);
  for (let code: u32 = 0; code < count; code++) {
    const extraBits = <u64>load<u8>(bits + code);
    putCode(kind, code, base, extraBits);
    base += <u64>1 << extraBits;
  }
}

/**
 * An offset code of 2 or more gives the distance, for which 3 is taken off the value; codes 0 and 1 give the values 1 to
 * 3 less 1, which name repeat offsets.
 */
function fillOffsetCodes(): void {
  for (let code: u32 = 0; code < OFFSET_CODES; code++) {
    const base: u64 = code < 2 ? code : (<u64>1 << code) - 3;
    putCode(OFFSET_KIND, code, base, code);
  }
}

fillLengthCodes(LITERAL_LENGTH_KIND, LITERAL_LENGTH_BITS, 0);
fillLengthCodes(MATCH_LENGTH_KIND, MATCH_LENGTH_BITS, MIN_MATCH);
fillOffsetCodes();
for (let weight: u32 = 0; weight < WEIGHT_CODES; weight++) putCode(WEIGHT_KIND, weight, weight, 0);
buildTable(LITERAL_LENGTH_DEFAULT, DEFAULT_LITERAL_LENGTHS, 36, LITERAL_LENGTH_DEFAULT_LOG, LITERAL_LENGTH_KIND);
buildTable(MATCH_LENGTH_DEFAULT, DEFAULT_MATCH_LENGTHS, 53, MATCH_LENGTH_DEFAULT_LOG, MATCH_LENGTH_KIND);
buildTable(OFFSET_DEFAULT, DEFAULT_OFFSETS, 29, OFFSET_DEFAULT_LOG, OFFSET_KIND);

/**
 * Builds the decoding table of a distribution that adds up to 2^log (-1, "less than one", counts 1).
 * @param counts `symbols` normalized counts, i16
 */
export function buildTable(table: usize, counts: usize, symbols: u32, log: u32, kind: usize): void {
  const size: u32 = 1 << log;
  const mask = size - 1;
  let high = mask;
  for (let symbol: u32 = 0; symbol < symbols; symbol++) {
    const count = load<i16>(counts + (symbol << 1));
    store<u16>(NEXT + (symbol << 1), count < 0 ? 1 : count);
    if (count < 0) store<u8>(SPREAD + high--, <u8>symbol);
  }
  const step = (size >> 1) + (size >> 3) + 3;
  let position: u32 = 0;
  for (let symbol: u32 = 0; symbol < symbols; symbol++) {
    for (let left = load<i16>(counts + (symbol << 1)); left > 0; left--) {
      store<u8>(SPREAD + position, <u8>symbol);
      do position = (position + step) & mask;
      while (position > high);
    }
  }
  for (let state: u32 = 0; state < size; state++) {
    const symbol = <u32>load<u8>(SPREAD + state);
    const subState = <u32>load<u16>(NEXT + (symbol << 1));
    store<u16>(NEXT + (symbol << 1), <u16>(subState + 1));
    const bits = log - (31 - clz(subState));
    const next = (subState << bits) - size;
    store<u64>(table + (<usize>state << 3), load<u64>(kind + (<usize>symbol << 3)) | (bits << 16) | next);
  }
}

/** A table of one symbol, which takes no bits. */
export function buildSingle(table: usize, symbol: u32, kind: usize): void {
  store<u64>(table, load<u64>(kind + (<usize>symbol << 3)));
}

/** What {@link readCounts} found: symbols with a count, and the accuracy log. */
export let symbolCount: u32 = 0;
export let accuracyLog: u32 = 0;

/**
 * Reads the description of a distribution to {@link COUNTS}.
 * @param symbolLimit how many symbols there may be, at most 53
 * @returns bytes taken, or `~CORRUPT`
 */
export function readCounts(src: usize, size: usize, symbolLimit: u32, logMax: u32): i32 {
  if (size == 0) return ~CORRUPT;
  const bitsEnd = <u32>(size << 3);
  accuracyLog = (<u32>load<u8>(src) & 15) + ACCURACY_LOG_MIN;
  if (accuracyLog > logMax) return ~CORRUPT;
  let at: u32 = 4;
  let symbol: u32 = 0;
  let remaining: u32 = (1 << accuracyLog) + 1;
  let threshold: u32 = 1 << accuracyLog;
  let width = accuracyLog + 1;
  while (remaining > 1) {
    if (symbol >= symbolLimit || at >= bitsEnd) return ~CORRUPT;
    const bits = load<u32>(src + (at >> 3)) >> (at & 7);
    const short: u32 = 2 * threshold - 1 - remaining;
    let value = bits & (threshold - 1);
    at += width - 1;
    if (value >= short) {
      at++;
      value = bits & (2 * threshold - 1);
      if (value >= threshold) value -= short;
    }
    const count = <i32>value - 1;
    remaining -= <u32>abs(count);
    store<i16>(COUNTS + (symbol << 1), <i16>count);
    symbol++;
    for (; remaining < threshold; threshold >>= 1) width--;
    if (count != 0) continue;
    let repeat: u32 = 3;
    while (repeat == 3) {
      if (at >= bitsEnd) return ~CORRUPT;
      repeat = (load<u32>(src + (at >> 3)) >> (at & 7)) & 3;
      at += 2;
      if (symbol + repeat > symbolLimit) return ~CORRUPT;
      for (let i: u32 = 0; i < repeat; i++) store<i16>(COUNTS + (symbol++ << 1), 0);
    }
  }
  if (at > bitsEnd) return ~CORRUPT;
  symbolCount = symbol;
  return <i32>((at + 7) >> 3);
}
