/**
 * Decoding tables of deflate's Huffman codes: one lookup by the next bits, and for longer codes a second one in a
 * subtable. An entry (u32, loaded as signed) tells all about a code:
 *
 *     bit 31      a literal
 *     bits 16-30  the literal, the length's or distance's base, or where the subtable begins (in entries)
 *     bit 15      something else: with bit 14 a subtable, else the end of the block (value 1) or no code (value 0)
 *     bits 8-13   bits of the code without its extra bits; of a subtable: bits of its index
 *     bits 0-5    bits of the code with its extra bits; of a subtable: bits before its index
 *
 * A code in a subtable does not count the bits before. Shifts by a whole entry, or by one shifted by 8, use the low
 * six bits only, as WebAssembly's shifts do.
 * @see RFC 1951 sections 3.2.2, 3.2.5 and 3.2.6
 */
import { CORRUPT, OK } from "./abi";

export const LITERAL: u32 = 0x8000_0000;
export const SPECIAL: u32 = 0x8000;
export const SUBTABLE: u32 = 0x4000;

/** Bits of the first lookup. */
export const LITLEN_BITS: u32 = 11;
export const DISTANCE_BITS: u32 = 8;
export const PRECODE_BITS: u32 = 7;

const MAX_BITS: u32 = 15;
const LITLEN_SYMBOLS: usize = 288;
const DISTANCE_SYMBOLS: usize = 32;
const PRECODE_SYMBOLS: usize = 19;
/** Entries that the worst complete code of so many symbols takes, subtables included: 2342 and 402, from zlib's enough.c. */
const LITLEN_ROOM: u32 = 2344;
const DISTANCE_ROOM: u32 = 404;
const PRECODE_ROOM: u32 = 128;

const END_OF_BLOCK: u32 = 256;
const END_ENTRY: u32 = (1 << 16) | SPECIAL;
const NO_CODE: u32 = SPECIAL;
/** Where a code is incomplete: its one code has one bit, and so has what is not a code. */
const NO_CODE_OF_ONE_BIT: u32 = NO_CODE | (1 << 8) | 1;

/** Entries by symbol, without the bits of the code. */
const LITLEN_SYMBOL_ENTRIES: usize = memory.data(288 * 4, 16);
const DISTANCE_SYMBOL_ENTRIES: usize = memory.data(32 * 4, 16);
const PRECODE_SYMBOL_ENTRIES: usize = memory.data(19 * 4, 16);

/** Tables of the fixed codes. */
export const FIXED_LITLEN: usize = memory.data(2344 * 4, 16);
export const FIXED_DISTANCE: usize = memory.data(404 * 4, 16);

/** By length of code, u32: how many codes, and the next one. */
const counts: usize = memory.data(16 * 4, 16);
const nextCodes: usize = memory.data(16 * 4, 16);

/** Counts codes by length. @returns false when they are no code: too many, or too few where that is not allowed */
function countCodes(lengths: usize, symbols: usize, mayBeIncomplete: bool): bool {
  memory.fill(counts, 0, 64);
  for (let i: usize = 0; i < symbols; i++) {
    const entry = counts + (<usize>load<u8>(lengths + i) << 2);
    store<u32>(entry, load<u32>(entry) + 1);
  }
  store<u32>(counts, 0);
  let room: i32 = 1;
  let code: u32 = 0;
  let longest: u32 = 0;
  for (let length: u32 = 1; length <= MAX_BITS; length++) {
    const count = load<u32>(counts + (<usize>length << 2));
    code = (code + load<u32>(counts + (<usize>(length - 1) << 2))) << 1;
    store<u32>(nextCodes + (<usize>length << 2), code);
    room = (room << 1) - <i32>count;
    if (room < 0) return false;
    if (count != 0) longest = length;
  }
  return room == 0 || (mayBeIncomplete && longest <= 1);
}

/** The lowest `length` bits of `code`, in the order in which deflate sends them: the highest first. */
// @ts-ignore: decorator
@inline
function reverse(code: u32, length: u32): u32 {
  code = ((code & 0x5555) << 1) | ((code >>> 1) & 0x5555);
  code = ((code & 0x3333) << 2) | ((code >>> 2) & 0x3333);
  code = ((code & 0x0f0f) << 4) | ((code >>> 4) & 0x0f0f);
  code = ((code & 0x00ff) << 8) | (code >>> 8);
  return code >>> (16 - length);
}

/** Takes the next code of `length` bits. */
// @ts-ignore: decorator
@inline
function takeCode(length: u32): u32 {
  const next = nextCodes + (<usize>length << 2);
  const code = load<u32>(next);
  store<u32>(next, code + 1);
  return reverse(code, length);
}

/** Writes `entry` to each place of the table whose low `length` bits are `code`. */
function fill(table: usize, code: u32, length: u32, size: u32, entry: u32): void {
  for (let at = code; at < size; at += 1 << length) store<u32>(table + (<usize>at << 2), entry);
}

/** Makes room for the subtables, each as wide as its longest code wants: these come first. */
function placeSubtables(table: usize, rootBits: u32, room: u32): bool {
  const mask: u32 = (1 << rootBits) - 1;
  let end: u32 = 1 << rootBits;
  for (let length = MAX_BITS; length > rootBits; length--) {
    const first = load<u32>(nextCodes + (<usize>length << 2));
    const count = load<u32>(counts + (<usize>length << 2));
    for (let code = first; code < first + count; code++) {
      const root = table + (<usize>(reverse(code, length) & mask) << 2);
      if ((load<u32>(root) & SUBTABLE) != 0) continue;
      const width = length - rootBits;
      if (end + (1 << width) > room) return false;
      store<u32>(root, (end << 16) | SPECIAL | SUBTABLE | (width << 8) | rootBits);
      end += 1 << width;
    }
  }
  return true;
}

/** Writes the entry of a code that is longer than the first lookup. */
function fillSubtable(table: usize, rootBits: u32, code: u32, length: u32, entry: u32): void {
  const root = load<u32>(table + (<usize>(code & ((1 << rootBits) - 1)) << 2));
  const rest = length - rootBits;
  fill(table + (<usize>(root >>> 16) << 2), code >>> rootBits, rest, 1 << ((root >>> 8) & 63), entry + rest * 0x101);
}

/** Makes a table of `symbols` code lengths. @returns OK, or CORRUPT when they give no code */
function build(
  table: usize,
  rootBits: u32,
  room: u32,
  symbolEntries: usize,
  lengths: usize,
  symbols: usize,
  mayBeIncomplete: bool,
): i32 {
  if (!countCodes(lengths, symbols, mayBeIncomplete)) return CORRUPT;
  const size: u32 = 1 << rootBits;
  fill(table, 0, 0, size, NO_CODE_OF_ONE_BIT);
  if (!placeSubtables(table, rootBits, room)) return CORRUPT;
  for (let symbol: usize = 0; symbol < symbols; symbol++) {
    const length = <u32>load<u8>(lengths + symbol);
    if (length == 0) continue;
    const entry = load<u32>(symbolEntries + (symbol << 2));
    const code = takeCode(length);
    if (length > rootBits) fillSubtable(table, rootBits, code, length, entry);
    else fill(table, code, length, size, entry + length * 0x101);
  }
  return OK;
}

/** Makes the table of the code of literals and lengths. @returns OK or CORRUPT */
export function buildLitlen(table: usize, lengths: usize, symbols: usize): i32 {
  if (symbols <= END_OF_BLOCK || load<u8>(lengths, END_OF_BLOCK) == 0) return CORRUPT;
  return build(table, LITLEN_BITS, LITLEN_ROOM, LITLEN_SYMBOL_ENTRIES, lengths, symbols, true);
}

/** Makes the table of the code of distances, which may have no code at all. @returns OK or CORRUPT */
export function buildDistance(table: usize, lengths: usize, symbols: usize): i32 {
  return build(table, DISTANCE_BITS, DISTANCE_ROOM, DISTANCE_SYMBOL_ENTRIES, lengths, symbols, true);
}

/** Makes the table of the code of code lengths, all 19. @returns OK or CORRUPT */
export function buildPrecode(table: usize, lengths: usize): i32 {
  return build(table, PRECODE_BITS, PRECODE_ROOM, PRECODE_SYMBOL_ENTRIES, lengths, PRECODE_SYMBOLS, false);
}

/** Entries of codes whose extra bits grow by one every `each` codes after the first `2 * each`. */
function putBases(entries: usize, count: usize, each: u32, base: u32): void {
  for (let i: u32 = 0; i < <u32>count; i++) {
    const extra: u32 = i < 2 * each ? 0 : i / each - 1;
    store<u32>(entries + (<usize>i << 2), (base << 16) | extra);
    base += 1 << extra;
  }
}

function putSymbolEntries(): void {
  for (let i: u32 = 0; i < END_OF_BLOCK; i++) store<u32>(LITLEN_SYMBOL_ENTRIES + (<usize>i << 2), LITERAL | (i << 16));
  store<u32>(LITLEN_SYMBOL_ENTRIES, END_ENTRY, 256 * 4);
  putBases(LITLEN_SYMBOL_ENTRIES + 257 * 4, 28, 4, 3);
  store<u32>(LITLEN_SYMBOL_ENTRIES, 258 << 16, 285 * 4);
  store<u32>(LITLEN_SYMBOL_ENTRIES, NO_CODE, 286 * 4);
  store<u32>(LITLEN_SYMBOL_ENTRIES, NO_CODE, 287 * 4);
  putBases(DISTANCE_SYMBOL_ENTRIES, 30, 2, 1);
  store<u32>(DISTANCE_SYMBOL_ENTRIES, NO_CODE, 30 * 4);
  store<u32>(DISTANCE_SYMBOL_ENTRIES, NO_CODE, 31 * 4);
  for (let i: u32 = 0; i < <u32>PRECODE_SYMBOLS; i++) store<u32>(PRECODE_SYMBOL_ENTRIES + (<usize>i << 2), i << 16);
}

function buildFixed(): void {
  const lengths = memory.data(288);
  memory.fill(lengths, 8, 144);
  memory.fill(lengths + 144, 9, 112);
  memory.fill(lengths + 256, 7, 24);
  memory.fill(lengths + 280, 8, 8);
  buildLitlen(FIXED_LITLEN, lengths, LITLEN_SYMBOLS);
  memory.fill(lengths, 5, DISTANCE_SYMBOLS);
  buildDistance(FIXED_DISTANCE, lengths, DISTANCE_SYMBOLS);
}

putSymbolEntries();
buildFixed();
