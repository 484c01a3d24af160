/**
 * What one inflate decoder remembers: a block of memory of {@link STATE_BYTES}, its fields at the offsets below, all
 * u32 unless said otherwise. Functions of inflate-*.ts take its address as `s`. Here too: the bit reader.
 */

/** Bits that were read and not used (u64, the next bit lowest, zeros above) and their number, at most 63. */
export const HOLD: usize = 0;
export const BITS: usize = 8;
/** What comes next, one of the modes below. */
export const MODE: usize = 12;
/** This push's input and output: the next byte and the end of each. */
export const INPUT: usize = 16;
export const INPUT_END: usize = 20;
export const OUTPUT: usize = 24;
export const OUTPUT_END: usize = 28;
/** Where this push's output of this member begins; what was before lies in the window. */
export const HISTORY: usize = 32;
/** The output from here on is not in CHECK and TOTAL yet. */
export const UNCHECKED: usize = 36;
/** CRC-32 of this member's output, and its bytes modulo 2^32. */
export const CHECK: usize = 40;
export const TOTAL: usize = 44;
/** 1 for gzip, 0 for raw deflate. */
export const FRAMED: usize = 48;
/** Whole members so far; saturates at 1. */
export const MEMBERS: usize = 52;
/** FLG of the member's header and the CRC-32 of the header's bytes. */
export const FLAGS: usize = 56;
export const HEADER_CHECK: usize = 60;
/** 1 in the last block of a deflate stream. */
export const LAST: usize = 64;
/** Bytes left of a stored block, a match or a field of the gzip header. */
export const LEFT: usize = 68;
/** The distance of the match that is LEFT. */
export const DISTANCE: usize = 72;
/** The index of the next code length, or of the next byte of a gzip header's field. */
export const INDEX: usize = 76;
/** How many lengths a dynamic block gives for its three codes. */
export const LITLEN_COUNT: usize = 80;
export const DISTANCE_COUNT: usize = 84;
export const PRECODE_COUNT: usize = 88;
/** Addresses of the tables in use. */
export const LITLEN_TABLE: usize = 92;
export const DISTANCE_TABLE: usize = 96;
/** The window is a ring: where its next byte goes, and how many of its bytes belong to this member. */
export const WINDOW_NEXT: usize = 100;
export const WINDOW_SIZE: usize = 104;
/** The fault that ended decoding, in mode FAILED. */
export const FAULT: usize = 108;
/** What the last push took and gave. */
export const CONSUMED: usize = 112;
export const PRODUCED: usize = 116;
/** Code lengths, u8: of the precode, and of both other codes end to end. */
export const PRECODE_LENGTHS: usize = 128;
export const LENGTHS: usize = 160;
/** Decoding tables of a dynamic block, as inflate-tables.ts makes them. */
export const PRECODE_ENTRIES: usize = 480;
export const LITLEN_ENTRIES: usize = PRECODE_ENTRIES + 128 * 4;
export const DISTANCE_ENTRIES: usize = LITLEN_ENTRIES + 2344 * 4;
/** The last 32 KiB of output before this push. */
export const WINDOW: usize = DISTANCE_ENTRIES + 404 * 4;
export const WINDOW_BYTES: usize = 32768;
export const STATE_BYTES: usize = WINDOW + WINDOW_BYTES;

/** Modes: first those of a gzip header in its order, */
export const MEMBER: u32 = 0;
export const EXTRA_SIZE: u32 = 1;
export const EXTRA: u32 = 2;
export const NAME: u32 = 3;
export const COMMENT: u32 = 4;
export const HEADER_CRC: u32 = 5;
/** then deflate's, */
export const BLOCK: u32 = 6;
export const STORED_SIZE: u32 = 7;
export const STORED: u32 = 8;
export const CODE_COUNTS: u32 = 9;
export const PRECODE: u32 = 10;
export const CODE_LENGTHS: u32 = 11;
export const SYMBOLS: u32 = 12;
/** then what follows a member, */
export const TRAILER_CRC: u32 = 13;
export const TRAILER_SIZE: u32 = 14;
export const PADDING: u32 = 15;
/** and the end of a raw stream, or of everything. */
export const END: u32 = 16;
export const FAILED: u32 = 17;

/** Statuses beside OK and the faults: the push's input is used up, or its output is full and there is more. */
export const MORE_INPUT: i32 = 16;
export const MORE_OUTPUT: i32 = 17;

/** Reads bytes until at least `count` (at most 56) bits are held. @returns false when the input ends before */
export function need(s: usize, count: u32): bool {
  let bits = load<u32>(s, BITS);
  if (bits >= count) return true;
  let hold = load<u64>(s, HOLD);
  let input = <usize>load<u32>(s, INPUT);
  const end = <usize>load<u32>(s, INPUT_END);
  while (bits < count && input < end) {
    hold |= <u64>load<u8>(input++) << bits;
    bits += 8;
  }
  store<u64>(s, hold, HOLD);
  store<u32>(s, bits, BITS);
  store<u32>(s, <u32>input, INPUT);
  return bits >= count;
}

/** Drops `count` held bits. */
export function drop(s: usize, count: u32): void {
  store<u64>(s, load<u64>(s, HOLD) >> count, HOLD);
  store<u32>(s, load<u32>(s, BITS) - count, BITS);
}

/** Takes `count` held bits, at most 32. */
export function take(s: usize, count: u32): u32 {
  const value = <u32>(load<u64>(s, HOLD) & (((<u64>1) << count) - 1));
  drop(s, count);
  return value;
}

/** Drops the bits before the next whole byte. */
export function align(s: usize): void {
  drop(s, load<u32>(s, BITS) & 7);
}
