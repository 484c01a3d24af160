/**
 * Blocks of a deflate stream: their headers, code lengths, and stored ones whole.
 * @see RFC 1951 sections 3.2.3, 3.2.4 and 3.2.7
 */
import { CORRUPT, OK } from "./abi";
import {
  BITS,
  BLOCK,
  CODE_COUNTS,
  CODE_LENGTHS,
  DISTANCE_COUNT,
  DISTANCE_ENTRIES,
  DISTANCE_TABLE,
  HOLD,
  INDEX,
  INPUT,
  INPUT_END,
  LAST,
  LEFT,
  LENGTHS,
  LITLEN_COUNT,
  LITLEN_ENTRIES,
  LITLEN_TABLE,
  MODE,
  MORE_INPUT,
  MORE_OUTPUT,
  OUTPUT,
  OUTPUT_END,
  PRECODE,
  PRECODE_COUNT,
  PRECODE_ENTRIES,
  PRECODE_LENGTHS,
  STORED,
  STORED_SIZE,
  SYMBOLS,
  align,
  drop,
  need,
  take,
} from "./inflate-state";
import {
  FIXED_DISTANCE,
  FIXED_LITLEN,
  PRECODE_BITS,
  buildDistance,
  buildLitlen,
  buildPrecode,
} from "./inflate-tables";
import { decodeSymbols } from "./inflate-symbols";

const PRECODE_SYMBOLS: usize = 19;
/** Lengths that HLIT and HDIST can say and deflate does not have. */
const LITLEN_MAX: u32 = 286;
const DISTANCE_MAX: u32 = 30;
/** A code length's code and its extra bits. */
const LENGTH_CODE_BITS: u32 = 14;
/** Code lengths' codes that repeat: the length before, zeros, and many zeros. */
const REPEAT: u32 = 16;
const ZEROS: u32 = 17;

/** The order in which the precode's lengths come. */
const PRECODE_ORDER: usize = memory.data<u8>([16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15]);

/** Reads the three bits that begin a block. The caller has seen to the block before being the last. */
function beginBlock(s: usize): i32 {
  if (!need(s, 3)) return MORE_INPUT;
  store<u32>(s, take(s, 1), LAST);
  const kind = take(s, 2);
  store<u32>(s, 0, LEFT);
  if (kind == 0) {
    align(s);
    store<u32>(s, STORED_SIZE, MODE);
  } else if (kind == 1) {
    store<u32>(s, <u32>FIXED_LITLEN, LITLEN_TABLE);
    store<u32>(s, <u32>FIXED_DISTANCE, DISTANCE_TABLE);
    store<u32>(s, SYMBOLS, MODE);
  } else if (kind == 2) {
    store<u32>(s, CODE_COUNTS, MODE);
  } else {
    return CORRUPT;
  }
  return OK;
}

function readStoredSize(s: usize): i32 {
  if (!need(s, 32)) return MORE_INPUT;
  const both = take(s, 32);
  if ((both & 0xffff) != ((both >>> 16) ^ 0xffff)) return CORRUPT;
  store<u32>(s, both & 0xffff, LEFT);
  store<u32>(s, STORED, MODE);
  return OK;
}

/** Copies a stored block: first the bytes that are held, then from the input. */
function copyStored(s: usize): i32 {
  let left = <usize>load<u32>(s, LEFT);
  let out = <usize>load<u32>(s, OUTPUT);
  const end = <usize>load<u32>(s, OUTPUT_END);
  for (; left > 0 && out < end && load<u32>(s, BITS) != 0; left--) store<u8>(out++, <u8>take(s, 8));
  const input = <usize>load<u32>(s, INPUT);
  const size = min<usize>(left, min<usize>(end - out, <usize>load<u32>(s, INPUT_END) - input));
  memory.copy(out, input, size);
  left -= size;
  store<u32>(s, <u32>(input + size), INPUT);
  store<u32>(s, <u32>(out + size), OUTPUT);
  store<u32>(s, <u32>left, LEFT);
  if (left != 0) return out + size == end ? MORE_OUTPUT : MORE_INPUT;
  store<u32>(s, BLOCK, MODE);
  return OK;
}

function readCodeCounts(s: usize): i32 {
  if (!need(s, 14)) return MORE_INPUT;
  const litlens = take(s, 5) + 257;
  const distances = take(s, 5) + 1;
  store<u32>(s, litlens, LITLEN_COUNT);
  store<u32>(s, distances, DISTANCE_COUNT);
  store<u32>(s, take(s, 4) + 4, PRECODE_COUNT);
  if (litlens > LITLEN_MAX || distances > DISTANCE_MAX) return CORRUPT;
  memory.fill(s + PRECODE_LENGTHS, 0, PRECODE_SYMBOLS);
  store<u32>(s, 0, INDEX);
  store<u32>(s, PRECODE, MODE);
  return OK;
}

function readPrecode(s: usize): i32 {
  const count = load<u32>(s, PRECODE_COUNT);
  for (let i = load<u32>(s, INDEX); i < count; store<u32>(s, ++i, INDEX)) {
    if (!need(s, 3)) return MORE_INPUT;
    store<u8>(s + PRECODE_LENGTHS + <usize>load<u8>(PRECODE_ORDER + <usize>i), <u8>take(s, 3));
  }
  store<u32>(s, 0, INDEX);
  store<u32>(s, CODE_LENGTHS, MODE);
  return buildPrecode(s + PRECODE_ENTRIES, s + PRECODE_LENGTHS);
}

/** Writes the lengths that one code gives, and its extra bits after it. @returns MORE_INPUT if these are not all held */
function readLength(s: usize, count: u32): i32 {
  const held = load<u64>(s, HOLD);
  const entry = load<u32>(s + PRECODE_ENTRIES + ((<usize>held & ((1 << PRECODE_BITS) - 1)) << 2));
  const symbol = entry >>> 16;
  const codeBits = entry & 63;
  const extra: u32 = symbol < REPEAT ? 0 : symbol == REPEAT ? 2 : symbol == ZEROS ? 3 : 7;
  if (codeBits + extra > load<u32>(s, BITS)) return MORE_INPUT;
  const index = load<u32>(s, INDEX);
  const more = <u32>(held >> codeBits) & ((1 << extra) - 1);
  const repeat: u32 = symbol < REPEAT ? 1 : more + (symbol > ZEROS ? 11 : 3);
  if (repeat > count - index || (symbol == REPEAT && index == 0)) return CORRUPT;
  const next = s + LENGTHS + <usize>index;
  const length: u8 = symbol < REPEAT ? <u8>symbol : symbol == REPEAT ? load<u8>(next - 1) : 0;
  memory.fill(next, length, repeat);
  drop(s, codeBits + extra);
  store<u32>(s, index + repeat, INDEX);
  return OK;
}

function readCodeLengths(s: usize): i32 {
  const litlens = load<u32>(s, LITLEN_COUNT);
  const count = litlens + load<u32>(s, DISTANCE_COUNT);
  while (load<u32>(s, INDEX) < count) {
    need(s, LENGTH_CODE_BITS);
    const status = readLength(s, count);
    if (status != OK) return status;
  }
  store<u32>(s, <u32>(s + LITLEN_ENTRIES), LITLEN_TABLE);
  store<u32>(s, <u32>(s + DISTANCE_ENTRIES), DISTANCE_TABLE);
  store<u32>(s, SYMBOLS, MODE);
  const status = buildLitlen(s + LITLEN_ENTRIES, s + LENGTHS, litlens);
  if (status != OK) return status;
  return buildDistance(s + DISTANCE_ENTRIES, s + LENGTHS + <usize>litlens, load<u32>(s, DISTANCE_COUNT));
}

/** Does the next step inside a deflate stream. @returns OK to go on, MORE_INPUT, MORE_OUTPUT or CORRUPT */
export function stepBlock(s: usize, mode: u32): i32 {
  if (mode == SYMBOLS) return decodeSymbols(s);
  if (mode == BLOCK) return beginBlock(s);
  if (mode == STORED_SIZE) return readStoredSize(s);
  if (mode == STORED) return copyStored(s);
  if (mode == CODE_COUNTS) return readCodeCounts(s);
  if (mode == PRECODE) return readPrecode(s);
  return readCodeLengths(s);
}
