/** The sequences section of a compressed block (RFC 8878, 3.1.1.3.2): its tables, and the sequences in batches. */
import { CORRUPT, OK } from "./abi";
import {
  COUNTS,
  LITERAL_LENGTH_DEFAULT,
  LITERAL_LENGTH_DEFAULT_LOG,
  LITERAL_LENGTH_KIND,
  MATCH_LENGTH_DEFAULT,
  MATCH_LENGTH_DEFAULT_LOG,
  MATCH_LENGTH_KIND,
  OFFSET_DEFAULT,
  OFFSET_DEFAULT_LOG,
  OFFSET_KIND,
  accuracyLog,
  buildSingle,
  buildTable,
  codeCount,
  readCounts,
  symbolCount,
} from "./zstd-fse";
import {
  LITERAL_LENGTHS,
  LITERAL_LENGTH_LOG_MAX,
  LITERAL_LENGTH_TABLE,
  MATCH_LENGTHS,
  MATCH_LENGTH_LOG_MAX,
  MATCH_LENGTH_TABLE,
  OFFSETS,
  OFFSET_LOG_MAX,
  OFFSET_TABLE,
  REPEATS,
} from "./zstd-state";

/** Modes of a table. */
const PREDEFINED: u32 = 0;
const RLE: u32 = 1;
const FSE: u32 = 2;

/** Sequences are decoded this many at a time: what keeps them in the fastest cache. */
export const BATCH: u32 = 1024;
/** Literal length, match length and distance, u32 each. */
export const SEQUENCE_BYTES: usize = 12;
export const SEQUENCES: usize = memory.data(1024 * 12, 16);

/** What {@link readSequencesHeader} found. */
export let sequenceCount: u32 = 0;

/** The next byte of the section, while tables are read. */
let next: usize = 0;

function useTable(slot: usize, table: usize, log: u32): void {
  store<u32>(slot, <u32>table);
  store<u32>(slot, log, 4);
}

/**
 * Puts one table in force as its mode says, for the predefined mode `fallback`.
 * @param slot of the state: which table is in force
 * @param table of the state: room for one that the block brings
 */
function readTable(mode: u32, end: usize, slot: usize, table: usize, kind: usize, logMax: u32): i32 {
  if (mode == FSE) {
    const taken = readCounts(next, end - next, codeCount(kind), logMax);
    if (taken < 0) return ~taken;
    next += <usize>taken;
    buildTable(table, COUNTS, symbolCount, accuracyLog, kind);
    useTable(slot, table, accuracyLog);
    return OK;
  }
  if (mode != RLE) return load<u32>(slot) == 0 ? CORRUPT : OK;
  if (next == end) return CORRUPT;
  const symbol = <u32>load<u8>(next++);
  if (symbol >= codeCount(kind)) return CORRUPT;
  buildSingle(table, symbol, kind);
  useTable(slot, table, 0);
  return OK;
}

function readTables(state: usize, modes: u32, end: usize): i32 {
  const lengths = modes >> 6;
  const offsets = (modes >> 4) & 3;
  const matches = (modes >> 2) & 3;
  if ((modes & 3) != 0) return CORRUPT;
  const literalSlot = state + LITERAL_LENGTHS;
  const offsetSlot = state + OFFSETS;
  const matchSlot = state + MATCH_LENGTHS;
  if (lengths == PREDEFINED) useTable(literalSlot, LITERAL_LENGTH_DEFAULT, LITERAL_LENGTH_DEFAULT_LOG);
  if (offsets == PREDEFINED) useTable(offsetSlot, OFFSET_DEFAULT, OFFSET_DEFAULT_LOG);
  if (matches == PREDEFINED) useTable(matchSlot, MATCH_LENGTH_DEFAULT, MATCH_LENGTH_DEFAULT_LOG);
  const literalTable = state + LITERAL_LENGTH_TABLE;
  const matchTable = state + MATCH_LENGTH_TABLE;
  let status = readTable(lengths, end, literalSlot, literalTable, LITERAL_LENGTH_KIND, LITERAL_LENGTH_LOG_MAX);
  if (status == OK) status = readTable(offsets, end, offsetSlot, state + OFFSET_TABLE, OFFSET_KIND, OFFSET_LOG_MAX);
  if (status != OK) return status;
  return readTable(matches, end, matchSlot, matchTable, MATCH_LENGTH_KIND, MATCH_LENGTH_LOG_MAX);
}

/** Reads the number of sequences. @returns false when the section ends too early */
function readCount(end: usize): bool {
  const first = <u32>load<u8>(next);
  const bytes: usize = first < 128 ? 1 : first < 255 ? 2 : 3;
  if (bytes > end - next) return false;
  if (bytes == 1) sequenceCount = first;
  else if (bytes == 2) sequenceCount = ((first - 128) << 8) + load<u8>(next, 1);
  else sequenceCount = <u32>load<u16>(next, 1) + 0x7f00;
  next += bytes;
  return true;
}

/** The backward bit stream: where it begins, the 8 bytes that are read, how many of their upper bits were. */
let start: usize = 0;
let at: usize = 0;
let consumed: u64 = 0;

/** States of the three decoders. */
let literalState: usize = 0;
let matchState: usize = 0;
let offsetState: usize = 0;

/**
 * The next `count` bits, 0 to 31, of 64 of which the upper `taken` were read.
 */
// @ts-ignore: decorator
@inline
function peek(bits: u64, taken: u64, count: u64): u64 {
  return ((bits << taken) >> 1) >> (63 - count);
}

function firstState(slot: usize): usize {
  const log = <u64>load<u32>(slot, 4);
  const value = peek(load<u64>(at), consumed, log);
  consumed += log;
  return <usize>value;
}

/**
 * Reads the section's header, tables and first states; the section ends at `end`.
 * @returns OK with {@link sequenceCount} set, or CORRUPT
 */
export function readSequencesHeader(state: usize, src: usize, end: usize): i32 {
  next = src;
  if (src == end || !readCount(end)) return CORRUPT;
  if (sequenceCount == 0) return next == end ? OK : CORRUPT;
  if (next == end) return CORRUPT;
  const status = readTables(state, load<u8>(next++), end);
  if (status != OK) return status;
  if (next == end || load<u8>(end - 1) == 0) return CORRUPT;
  start = next;
  at = end - 8;
  consumed = <u64>clz(<u32>load<u8>(end - 1)) - 23;
  literalState = firstState(state + LITERAL_LENGTHS);
  offsetState = firstState(state + OFFSETS);
  matchState = firstState(state + MATCH_LENGTHS);
  return OK;
}

/** Whether every bit was read, and none more. */
function isAtEnd(): bool {
  return (<i32>at - <i32>start) * 8 + 64 - <i32>consumed == 0;
}

/** The offset code's value of a repeat offset, 0 to 2, one more after no literals. @returns the distance; 0: corrupt */
function repeatDistance(repeats: usize, index: u32): u32 {
  const first = load<u32>(repeats);
  if (index == 0) return first;
  const distance = index == 3 ? first - 1 : load<u32>(repeats + (<usize>index << 2));
  if (index > 1) store<u32>(repeats, load<u32>(repeats, 4), 8);
  store<u32>(repeats, first, 4);
  store<u32>(repeats, distance);
  return distance;
}

/**
 * Decodes the next `count` sequences to {@link SEQUENCES}.
 * @param last whether the section ends with them: then the states are not moved on
 */
export function decodeSequences(state: usize, count: u32, last: bool): i32 {
  const literalTable = <usize>load<u32>(state + LITERAL_LENGTHS);
  const matchTable = <usize>load<u32>(state + MATCH_LENGTHS);
  const offsetTable = <usize>load<u32>(state + OFFSETS);
  const repeats = state + REPEATS;
  const low = start - 8;
  let ptr = at;
  let taken = consumed;
  let out = SEQUENCES;
  const end = SEQUENCES + <usize>count * SEQUENCE_BYTES;
  for (;;) {
    const literal = load<u64>(literalTable + (literalState << 3));
    const match = load<u64>(matchTable + (matchState << 3));
    const offset = load<u64>(offsetTable + (offsetState << 3));
    ptr -= <usize>(taken >> 3);
    taken &= 7;
    if (ptr < low) return CORRUPT;
    let bits = load<u64>(ptr);
    const offsetBits = (offset >> 24) & 255;
    const matchBits = (match >> 24) & 255;
    const literalBits = (literal >> 24) & 255;
    const value = <u32>((offset >> 32) + peek(bits, taken, offsetBits));
    taken += offsetBits;
    const matchLength = <u32>((match >> 32) + peek(bits, taken, matchBits));
    taken += matchBits;
    if (offsetBits + matchBits + literalBits > 31) {
      ptr -= <usize>(taken >> 3);
      taken &= 7;
      bits = load<u64>(ptr);
    }
    const literalLength = <u32>((literal >> 32) + peek(bits, taken, literalBits));
    taken += literalBits;
    store<u32>(out, literalLength);
    store<u32>(out, matchLength, 4);
    let distance = value;
    if (offsetBits > 1) {
      store<u64>(repeats, load<u64>(repeats), 4);
      store<u32>(repeats, value);
    } else {
      distance = repeatDistance(repeats, value + <u32>(literalLength == 0));
      if (distance == 0) return CORRUPT;
    }
    store<u32>(out, distance, 8);
    out += SEQUENCE_BYTES;
    if (out == end && last) break;
    const literalNext = (literal >> 16) & 255;
    literalState = <usize>((literal & 0xffff) + peek(bits, taken, literalNext));
    taken += literalNext;
    const matchNext = (match >> 16) & 255;
    matchState = <usize>((match & 0xffff) + peek(bits, taken, matchNext));
    taken += matchNext;
    const offsetNext = (offset >> 16) & 255;
    offsetState = <usize>((offset & 0xffff) + peek(bits, taken, offsetNext));
    taken += offsetNext;
    if (out == end) break;
  }
  at = ptr;
  consumed = taken;
  return !last || isAtEnd() ? OK : CORRUPT;
}
