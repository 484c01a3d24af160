/**
 * Huffman tables (RFC 8878, 4.2). The decoding table always has 2^11 entries, whatever the longest code: a u16 with the
 * symbol in its upper and the code's length in its lower byte.
 */
import { CORRUPT, OK } from "./abi";
import { COUNTS, WEIGHT_KIND, accuracyLog, buildTable, readCounts, symbolCount } from "./zstd-fse";

export const HUFFMAN_LOG: u32 = 11;

const SYMBOLS_MAX: u32 = 256;
/** Weights are below 16 as they are stored; above 11 they make a code that is too long. */
const WEIGHT_SYMBOLS: u32 = 16;
const WEIGHT_LOG_MAX: u32 = 6;
/** A header byte from here on: this many weights plus 127 follow as they are, four bits each. */
const DIRECT: u32 = 128;

/** Weights by symbol, u8; two more than a table has, as the FSE decoder writes pairs. */
const WEIGHTS: usize = memory.data(258);
/** By weight: how many symbols have it, later the next entry of one, u32. */
const RANKS: usize = memory.data(64, 4);
const WEIGHT_TABLE: usize = memory.data(512, 16);

/** Weights that were read, without the last one, which is implied. */
let weightCount: u32 = 0;

/** Four bits a weight, the upper ones first. */
function readDirectWeights(src: usize, count: u32): void {
  for (let i: u32 = 0; i < count; i += 2) {
    const pair = load<u8>(src + (i >> 1));
    store<u8>(WEIGHTS + i, pair >> 4);
    store<u8>(WEIGHTS + i, pair & 15, 1);
  }
  weightCount = count;
}

/** Bits of the stream of weights that were not read yet, and where it begins. */
let bitsLeft: i32 = 0;
let bitsStart: usize = 0;

/** The next `count` bits, backwards; when the stream ends before, {@link bitsLeft} is negative. */
function takeBits(count: u32): u32 {
  bitsLeft -= <i32>count;
  if (bitsLeft < 0) return 0;
  return (load<u32>(bitsStart + (<usize>bitsLeft >> 3)) >> (<u32>bitsLeft & 7)) & ((1 << count) - 1);
}

// @ts-ignore: decorator
@inline
function weightEntry(state: u32): u64 {
  return load<u64>(WEIGHT_TABLE + (<usize>state << 3));
}

/** Weights by two FSE states in turn, until a state wants more bits than there are: then the other one's is the last. */
function readFseWeights(src: usize, size: usize): i32 {
  const taken = readCounts(src, size, WEIGHT_SYMBOLS, WEIGHT_LOG_MAX);
  if (taken < 0 || <usize>taken >= size) return CORRUPT;
  const last = <u32>load<u8>(src + size - 1);
  if (last == 0) return CORRUPT;
  buildTable(WEIGHT_TABLE, COUNTS, symbolCount, accuracyLog, WEIGHT_KIND);
  bitsStart = src + <usize>taken;
  bitsLeft = <i32>((size - <usize>taken) << 3) - 8 + (31 - <i32>clz(last));
  let state = takeBits(accuracyLog);
  let other = takeBits(accuracyLog);
  if (bitsLeft < 0) return CORRUPT;
  let count: u32 = 0;
  while (count < SYMBOLS_MAX - 1) {
    const entry = weightEntry(state);
    store<u8>(WEIGHTS + count++, <u8>(entry >> 32));
    state = other;
    other = <u32>(entry & 0xffff) + takeBits(<u32>(entry >> 16) & 255);
    if (bitsLeft >= 0) continue;
    store<u8>(WEIGHTS + count++, <u8>(weightEntry(state) >> 32));
    weightCount = count;
    return count < SYMBOLS_MAX ? OK : CORRUPT;
  }
  return CORRUPT;
}

/** Adds the implied last weight and counts {@link RANKS}. @returns bits of the longest code, 0 if corrupt */
function completeWeights(): u32 {
  memory.fill(RANKS, 0, 64);
  let total: u32 = 0;
  for (let i: u32 = 0; i < weightCount; i++) {
    const weight = <u32>load<u8>(WEIGHTS + i);
    store<u32>(RANKS + (weight << 2), load<u32>(RANKS + (weight << 2)) + 1);
    total += (1 << weight) >> 1;
  }
  if (total == 0) return 0;
  const bits: u32 = 32 - clz(total);
  if (bits > HUFFMAN_LOG) return 0;
  const rest = (<u32>1 << bits) - total;
  if (popcnt(rest) != 1) return 0;
  const last: u32 = ctz(rest) + 1;
  store<u8>(WEIGHTS + weightCount++, <u8>last);
  store<u32>(RANKS + (last << 2), load<u32>(RANKS + (last << 2)) + 1);
  const longest = load<u32>(RANKS, 4);
  return longest < 2 || (longest & 1) != 0 ? 0 : bits;
}

/** Fills `count` u16 entries, a power of two. */
// @ts-ignore: decorator
@inline
function fillEntries(at: usize, entry: u16, count: u32): void {
  if (count < 8) {
    for (const end = at + (count << 1); at < end; at += 2) store<u16>(at, entry);
    return;
  }
  const vector = i16x8.splat(<i16>entry);
  for (const end = at + (count << 1); at < end; at += 16) v128.store(at, vector);
}

/** Codes go to symbols by rising weight, then by symbol; a symbol's entries are 2^(weight - 1), stretched to 11 bits. */
function fillTable(table: usize, bits: u32): void {
  const stretch = HUFFMAN_LOG - bits;
  let next: u32 = 0;
  for (let weight: u32 = 1; weight <= bits; weight++) {
    const count = load<u32>(RANKS + (weight << 2));
    store<u32>(RANKS + (weight << 2), next);
    next += count << (weight - 1 + stretch);
  }
  for (let symbol: u32 = 0; symbol < weightCount; symbol++) {
    const weight = <u32>load<u8>(WEIGHTS + symbol);
    if (weight == 0) continue;
    const first = load<u32>(RANKS + (weight << 2));
    const count: u32 = 1 << (weight - 1 + stretch);
    fillEntries(table + (first << 1), <u16>((symbol << 8) | (bits + 1 - weight)), count);
    store<u32>(RANKS + (weight << 2), first + count);
  }
}

/**
 * Reads a Huffman table description and builds the decoding table.
 * @returns bytes taken, or `~CORRUPT`
 */
export function readHuffmanTable(table: usize, src: usize, size: usize): i32 {
  if (size == 0) return ~CORRUPT;
  const header = <u32>load<u8>(src);
  const direct = header >= DIRECT;
  const bytes: usize = direct ? (header - DIRECT + 2) >> 1 : header;
  if (bytes == 0 || bytes > size - 1) return ~CORRUPT;
  if (direct) readDirectWeights(src + 1, header - DIRECT + 1);
  else if (readFseWeights(src + 1, bytes) != OK) return ~CORRUPT;
  const bits = completeWeights();
  if (bits == 0) return ~CORRUPT;
  fillTable(table, bits);
  return <i32>(bytes + 1);
}
