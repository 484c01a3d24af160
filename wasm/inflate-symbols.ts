/**
 * Literals and matches of compressed blocks: a fast loop while input and output have room for whole rounds, and a
 * careful one that stops before any symbol whose bits have not all come, or after any byte of output.
 * @see RFC 1951 section 3.2.3
 */
import { CORRUPT, OK } from "./abi";
import { copyMatch } from "./copy";
import {
  BITS,
  BLOCK,
  DISTANCE,
  DISTANCE_TABLE,
  HISTORY,
  HOLD,
  INPUT,
  INPUT_END,
  LEFT,
  LITLEN_TABLE,
  MODE,
  MORE_INPUT,
  MORE_OUTPUT,
  OUTPUT,
  OUTPUT_END,
  WINDOW,
  WINDOW_BYTES,
  WINDOW_NEXT,
  WINDOW_SIZE,
  drop,
  need,
} from "./inflate-state";
import { DISTANCE_BITS, LITLEN_BITS, SPECIAL, SUBTABLE } from "./inflate-tables";

/** The fast loop needs so much left of the input (three refills of 7 bytes) and of the output (a match and literals). */
const FAST_INPUT: usize = 24;
const FAST_OUTPUT: usize = 300;
/** Bits of the longest match: 15 + 5 for its length, 15 + 13 for its distance. */
const MATCH_BITS: u32 = 48;

/**
 * Copies a match that begins before this push's output, in the window.
 * @param out the end of the output so far
 * @returns false when it begins before the window
 */
function copyFromWindow(s: usize, out: usize, distance: usize, size: usize): bool {
  const before = distance - (out - <usize>load<u32>(s, HISTORY));
  if (before > <usize>load<u32>(s, WINDOW_SIZE)) return false;
  const length = min<usize>(size, before);
  const from = (<usize>load<u32>(s, WINDOW_NEXT) - before) & (WINDOW_BYTES - 1);
  const first = min<usize>(length, WINDOW_BYTES - from);
  memory.copy(out, s + WINDOW + from, first);
  memory.copy(out + first, s + WINDOW, length - first);
  if (length < size) copyMatch(out + length, distance, size - length);
  return true;
}

/** The low bits of `hold` that an entry's extra bits are: behind its code, up to all of its bits. */
// @ts-ignore: decorator
@inline
function extraBits(hold: u64, entry: i64): usize {
  return <usize>((hold & (((<u64>1) << entry) - 1)) >> ((<u64>entry) >> 8));
}

/** The entry at `index` bits of `hold` in a table. */
// @ts-ignore: decorator
@inline
function lookUp(table: usize, hold: u64, index: u32): i64 {
  return <i64>load<i32>(table + ((<usize>hold & ((1 << index) - 1)) << 2));
}

/** The entry in the subtable that `entry` leads to; its bits are gone from `hold`. */
// @ts-ignore: decorator
@inline
function lookUpSubtable(table: usize, hold: u64, entry: i64): i64 {
  const index = <usize>(hold & (((<u64>1) << ((<u64>entry) >> 8)) - 1));
  return <i64>load<i32>(table + ((<usize>(entry >>> 16) + index) << 2));
}

/**
 * Decodes symbols while at least {@link FAST_INPUT} and {@link FAST_OUTPUT} bytes are left.
 * `bits` has the number of held bits in its low six bits and nonsense above; shifts do not mind, and after a refill
 * at least 56 are held, one symbol's lot and more.
 */
function decodeFast(s: usize): i32 {
  const litlens = <usize>load<u32>(s, LITLEN_TABLE);
  const distances = <usize>load<u32>(s, DISTANCE_TABLE);
  const history = <usize>load<u32>(s, HISTORY);
  const inputStop = <usize>load<u32>(s, INPUT_END) - FAST_INPUT;
  const outputStop = <usize>load<u32>(s, OUTPUT_END) - FAST_OUTPUT;
  let input = <usize>load<u32>(s, INPUT);
  let out = <usize>load<u32>(s, OUTPUT);
  let hold = load<u64>(s, HOLD);
  let bits = <u64>load<u32>(s, BITS);
  let status = OK;

  hold |= load<u64>(input) << bits;
  input += <usize>((~bits >> 3) & 7);
  bits |= 56;
  let entry = lookUp(litlens, hold, LITLEN_BITS);
  do {
    if (entry < 0) {
      hold >>= entry;
      bits -= entry;
      store<u8>(out++, <u8>(entry >> 16));
      entry = lookUp(litlens, hold, LITLEN_BITS);
      if (entry < 0) {
        hold >>= entry;
        bits -= entry;
        store<u8>(out++, <u8>(entry >> 16));
        entry = lookUp(litlens, hold, LITLEN_BITS);
      }
      hold |= load<u64>(input) << bits;
      input += <usize>((~bits >> 3) & 7);
      bits |= 56;
      if (entry < 0) {
        hold >>= entry;
        bits -= entry;
        store<u8>(out++, <u8>(entry >> 16));
        entry = lookUp(litlens, hold, LITLEN_BITS);
        continue;
      }
    }
    let before = hold;
    hold >>= entry;
    bits -= entry;
    if ((entry & SPECIAL) != 0) {
      if ((entry & SUBTABLE) != 0) {
        entry = lookUpSubtable(litlens, hold, entry);
        before = hold;
        hold >>= entry;
        bits -= entry;
        if (entry < 0) {
          store<u8>(out++, <u8>(entry >> 16));
          hold |= load<u64>(input) << bits;
          input += <usize>((~bits >> 3) & 7);
          bits |= 56;
          entry = lookUp(litlens, hold, LITLEN_BITS);
          continue;
        }
      }
      if ((entry & SPECIAL) != 0) {
        if (entry >> 16 == 0) status = CORRUPT;
        else store<u32>(s, BLOCK, MODE);
        break;
      }
    }
    const length = <usize>(entry >> 16) + extraBits(before, entry);
    entry = lookUp(distances, hold, DISTANCE_BITS);
    if ((entry & SPECIAL) != 0) {
      if ((entry & SUBTABLE) != 0) {
        hold >>= entry;
        bits -= entry;
        entry = lookUpSubtable(distances, hold, entry);
      }
      if ((entry & SPECIAL) != 0) {
        status = CORRUPT;
        break;
      }
    }
    const distance = <usize>(entry >> 16) + extraBits(hold, entry);
    hold >>= entry;
    bits -= entry;
    hold |= load<u64>(input) << bits;
    input += <usize>((~bits >> 3) & 7);
    bits |= 56;
    entry = lookUp(litlens, hold, LITLEN_BITS);
    if (distance <= out - history) {
      copyMatch(out, distance, length);
    } else if (!copyFromWindow(s, out, distance, length)) {
      status = CORRUPT;
      break;
    }
    out += length;
  } while (input < inputStop && out < outputStop);

  bits &= 63;
  store<u64>(s, hold & (((<u64>1) << bits) - 1), HOLD);
  store<u32>(s, <u32>bits, BITS);
  store<u32>(s, <u32>input, INPUT);
  store<u32>(s, <u32>out, OUTPUT);
  return status;
}

/** What {@link decodeCode} found: the entry, and held bits used up to its code and its extra bits. */
let foundEntry: i64 = 0;
let foundBits: u32 = 0;
let foundValue: usize = 0;

/**
 * Looks up the code that begins `skip` bits into the held ones: {@link foundEntry}, {@link foundBits} (with `skip`)
 * and {@link foundValue} with the extra bits.
 * @returns false when not all of its bits are held
 */
function findCode(s: usize, skip: u32, table: usize, index: u32): bool {
  let hold = load<u64>(s, HOLD) >> skip;
  let used = skip;
  let entry = lookUp(table, hold, index);
  if ((entry & (SPECIAL | SUBTABLE)) == (SPECIAL | SUBTABLE)) {
    hold >>= index;
    used += index;
    entry = lookUpSubtable(table, hold, entry);
  }
  foundEntry = entry;
  foundBits = used + (<u32>entry & 63);
  foundValue = <usize>((entry >> 16) & 0x7fff) + extraBits(hold, entry);
  return foundBits <= load<u32>(s, BITS);
}

/** Copies what is left of a match, as far as there is room. @returns OK, MORE_OUTPUT or CORRUPT */
function copyLeft(s: usize): i32 {
  const left = <usize>load<u32>(s, LEFT);
  const distance = <usize>load<u32>(s, DISTANCE);
  const out = <usize>load<u32>(s, OUTPUT);
  const length = min<usize>(left, <usize>load<u32>(s, OUTPUT_END) - out);
  if (length == 0) return MORE_OUTPUT;
  if (distance <= out - <usize>load<u32>(s, HISTORY)) copyMatch(out, distance, length);
  else if (!copyFromWindow(s, out, distance, length)) return CORRUPT;
  store<u32>(s, <u32>(out + length), OUTPUT);
  store<u32>(s, <u32>(left - length), LEFT);
  return length == left ? OK : MORE_OUTPUT;
}

/** Writes a literal if there is room. @returns OK or MORE_OUTPUT */
function putLiteral(s: usize, literal: u8): i32 {
  const out = <usize>load<u32>(s, OUTPUT);
  if (out == <usize>load<u32>(s, OUTPUT_END)) return MORE_OUTPUT;
  store<u8>(out, literal);
  store<u32>(s, <u32>(out + 1), OUTPUT);
  return OK;
}

/** Decodes one symbol, or what is left of a match. @returns OK, MORE_INPUT, MORE_OUTPUT or CORRUPT */
function decodeOne(s: usize): i32 {
  if (load<u32>(s, LEFT) != 0) return copyLeft(s);
  need(s, MATCH_BITS);
  if (!findCode(s, 0, <usize>load<u32>(s, LITLEN_TABLE), LITLEN_BITS)) return MORE_INPUT;
  if (foundEntry < 0) {
    const status = putLiteral(s, <u8>(foundEntry >> 16));
    if (status == OK) drop(s, foundBits);
    return status;
  }
  if ((foundEntry & SPECIAL) != 0) {
    if (foundEntry >> 16 == 0) return CORRUPT;
    drop(s, foundBits);
    store<u32>(s, BLOCK, MODE);
    return OK;
  }
  const length = foundValue;
  if (!findCode(s, foundBits, <usize>load<u32>(s, DISTANCE_TABLE), DISTANCE_BITS)) return MORE_INPUT;
  if ((foundEntry & SPECIAL) != 0) return CORRUPT;
  store<u32>(s, <u32>length, LEFT);
  store<u32>(s, <u32>foundValue, DISTANCE);
  drop(s, foundBits);
  return copyLeft(s);
}

/** Decodes symbols up to the end of the block. @returns OK there, MORE_INPUT, MORE_OUTPUT or CORRUPT */
export function decodeSymbols(s: usize): i32 {
  while (load<u32>(s, MODE) != BLOCK) {
    const fast =
      load<u32>(s, LEFT) == 0 &&
      load<u32>(s, INPUT_END) - load<u32>(s, INPUT) > <u32>FAST_INPUT &&
      load<u32>(s, OUTPUT_END) - load<u32>(s, OUTPUT) > <u32>FAST_OUTPUT;
    const status = fast ? decodeFast(s) : decodeOne(s);
    if (status != OK) return status;
  }
  return OK;
}
