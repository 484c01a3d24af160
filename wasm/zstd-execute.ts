/** Sequences carried out (RFC 8878, 3.1.1.4): literals and matches, into memory that holds what came before. */
import { CORRUPT, OK, TOO_LARGE } from "./abi";
import { copyMatch, wildCopy } from "./copy";
import { SEQUENCES, SEQUENCE_BYTES } from "./zstd-sequences";

/**
 * What matches may reach: the frame's bytes from `segment` on, and before these the last `earlierBytes` that end at
 * `earlierEnd` (a window's ring that began anew; it lies behind what is written by SLACK or more).
 */
let segment: usize = 0;
let earlierEnd: usize = 0;
let earlierBytes: usize = 0;
let windowBytes: usize = 0;

/** Sets what matches of the next sequences may reach. */
export function setHistory(from: usize, earlier: usize, bytes: usize, window: usize): void {
  segment = from;
  earlierEnd = earlier;
  earlierBytes = bytes;
  windowBytes = window;
}

/** Where the next literal comes from, and where the next byte goes. */
export let literalAt: usize = 0;
export let outAt: usize = 0;

/** Sets both before a block's first sequences. */
export function setPlaces(literal: usize, out: usize): void {
  literalAt = literal;
  outAt = out;
}

/** A match that begins before `segment`. @returns whether there is such a byte */
function copyEarlier(out: usize, distance: usize, size: usize): bool {
  const back = distance - (out - segment);
  if (back > earlierBytes) return false;
  const first = min(back, size);
  wildCopy(out, earlierEnd - back, first);
  if (size > first) copyMatch(out + first, out + first - segment, size - first);
  return true;
}

/**
 * Carries out the first `count` of {@link SEQUENCES}, from {@link literalAt} to {@link outAt}.
 * @param literalsEnd SLACK behind is readable
 * @param outEnd SLACK behind is writable
 * @returns OK, CORRUPT, or TOO_LARGE when it would pass `outEnd`
 */
export function executeSequences(count: u32, literalsEnd: usize, outEnd: usize): i32 {
  const from = segment;
  const window = windowBytes;
  let literal = literalAt;
  let out = outAt;
  let sequence = SEQUENCES;
  for (const end = SEQUENCES + <usize>count * SEQUENCE_BYTES; sequence < end; sequence += SEQUENCE_BYTES) {
    const literalLength = <usize>load<u32>(sequence);
    const matchLength = <usize>load<u32>(sequence, 4);
    const distance = <usize>load<u32>(sequence, 8);
    if (literalLength > literalsEnd - literal) return CORRUPT;
    if (literalLength + matchLength > outEnd - out) return TOO_LARGE;
    wildCopy(out, literal, literalLength);
    out += literalLength;
    literal += literalLength;
    if (distance > window) return CORRUPT;
    if (distance > out - from) {
      if (!copyEarlier(out, distance, matchLength)) return CORRUPT;
    } else {
      copyMatch(out, distance, matchLength);
    }
    out += matchLength;
  }
  literalAt = literal;
  outAt = out;
  return OK;
}
