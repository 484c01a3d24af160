/**
 * Deflate streams and gzip files, at once or piece by piece. The state machine stops wherever its input ends or its
 * output is full, and goes on there; inflate-blocks.ts and inflate-gzip.ts have its steps.
 *
 * Behind the last gzip member zeros may follow, as GNU gzip allows. Anything else that is not a member is CORRUPT:
 * gzip(1) warns and ignores it, Go's reader fails, and a layer that no other program reads whole is none. So is
 * anything behind the last block of a raw stream.
 * @see RFC 1951; RFC 1952
 */
import { CORRUPT, GZIP, OK, TOO_LARGE, TRUNCATED } from "./abi";
import { crc32 } from "./crc32";
import { stepBlock } from "./inflate-blocks";
import { stepHeader, stepTrailer } from "./inflate-gzip";
import {
  BITS,
  BLOCK,
  CHECK,
  CONSUMED,
  END,
  FAILED,
  FAULT,
  FRAMED,
  HISTORY,
  INDEX,
  INPUT,
  INPUT_END,
  LAST,
  MEMBER,
  MEMBERS,
  MODE,
  MORE_INPUT,
  MORE_OUTPUT,
  OUTPUT,
  OUTPUT_END,
  PADDING,
  PRODUCED,
  STATE_BYTES,
  TOTAL,
  TRAILER_CRC,
  UNCHECKED,
  WINDOW,
  WINDOW_BYTES,
  WINDOW_NEXT,
  WINDOW_SIZE,
  align,
} from "./inflate-state";
import { alloc } from "./memory";

/** Takes the output since the last time into the member's checksum and size. */
function checkOutput(s: usize): void {
  if (load<u32>(s, FRAMED) == 0) return;
  const from = load<u32>(s, UNCHECKED);
  const size = load<u32>(s, OUTPUT) - from;
  store<u32>(s, crc32(<usize>from, <usize>size, load<u32>(s, CHECK)), CHECK);
  store<u32>(s, load<u32>(s, TOTAL) + size, TOTAL);
  store<u32>(s, from + size, UNCHECKED);
}

/** Between blocks: begins the next one, or what comes behind the last. */
function stepBetween(s: usize): i32 {
  checkOutput(s);
  if (load<u32>(s, LAST) == 0) return stepBlock(s, BLOCK);
  align(s);
  store<u32>(s, 0, LAST);
  store<u32>(s, load<u32>(s, FRAMED) != 0 ? TRAILER_CRC : END, MODE);
  return OK;
}

/** Does the next step. @returns OK to go on, MORE_INPUT, MORE_OUTPUT or a fault */
function step(s: usize): i32 {
  const mode = load<u32>(s, MODE);
  if (mode < BLOCK) return stepHeader(s, mode);
  if (mode == BLOCK) return stepBetween(s);
  if (mode < TRAILER_CRC) return stepBlock(s, mode);
  if (mode < END) return stepTrailer(s, mode);
  if (mode == FAILED) return <i32>load<u32>(s, FAULT);
  return load<u32>(s, BITS) == 0 && load<u32>(s, INPUT) == load<u32>(s, INPUT_END) ? MORE_INPUT : CORRUPT;
}

/** Decodes until input or output end. @returns MORE_INPUT, MORE_OUTPUT or a fault, which stays */
function run(s: usize, src: usize, size: usize, dst: usize, limit: usize): i32 {
  store<u32>(s, <u32>src, INPUT);
  store<u32>(s, <u32>(src + size), INPUT_END);
  store<u32>(s, <u32>dst, OUTPUT);
  store<u32>(s, <u32>(dst + limit), OUTPUT_END);
  store<u32>(s, <u32>dst, HISTORY);
  store<u32>(s, <u32>dst, UNCHECKED);
  let status = OK;
  while (status == OK) status = step(s);
  store<u32>(s, load<u32>(s, INPUT) - <u32>src, CONSUMED);
  store<u32>(s, load<u32>(s, OUTPUT) - <u32>dst, PRODUCED);
  if (status != MORE_INPUT && status != MORE_OUTPUT) {
    store<u32>(s, <u32>status, FAULT);
    store<u32>(s, FAILED, MODE);
  }
  return status;
}

/** Keeps the last 32 KiB of this member's output for the next push. */
function keepWindow(s: usize): void {
  const end = <usize>load<u32>(s, OUTPUT);
  const all = end - <usize>load<u32>(s, HISTORY);
  const size = min<usize>(all, WINDOW_BYTES);
  const next = <usize>load<u32>(s, WINDOW_NEXT);
  const first = min<usize>(size, WINDOW_BYTES - next);
  memory.copy(s + WINDOW + next, end - size, first);
  memory.copy(s + WINDOW, end - size + first, size - first);
  store<u32>(s, <u32>((next + size) & (WINDOW_BYTES - 1)), WINDOW_NEXT);
  store<u32>(s, <u32>min<usize>(<usize>load<u32>(s, WINDOW_SIZE) + size, WINDOW_BYTES), WINDOW_SIZE);
}

/**
 * Decodes a raw deflate stream or gzip members that give exactly `size` bytes.
 * @param format GZIP or RAW_DEFLATE
 * @param src may be read up to SLACK bytes past its end
 * @param dst `size` bytes and SLACK behind them are writable
 * @returns OK or a fault: TOO_LARGE when there is more output, TRUNCATED when there is less
 */
export function inflate(format: u32, src: usize, srcSize: usize, dst: usize, size: usize): i32 {
  const s = alloc(STATE_BYTES);
  if (s == 0) return TOO_LARGE;
  inflateStreamBegin(s, format == GZIP);
  const status = run(s, src, srcSize, dst, size);
  if (status == MORE_OUTPUT) return TOO_LARGE;
  if (status != MORE_INPUT) return status;
  return inflateStreamAtBoundary(s) && inflateStreamProduced(s) == size ? OK : TRUNCATED;
}

/** The bytes of one stream's state: tables, and the window of 32 KiB. */
export function inflateStreamBytes(): usize {
  return STATE_BYTES;
}

/** Begins a stream in memory of any content. */
export function inflateStreamBegin(state: usize, gzip: bool): void {
  memory.fill(state, 0, WINDOW);
  store<u32>(state, <u32>gzip, FRAMED);
  store<u32>(state, gzip ? MEMBER : BLOCK, MODE);
}

/**
 * Decodes at most `limit` bytes of output to `dst`. Input may be left when these are full.
 * @param src may be read up to SLACK bytes past its end
 * @param dst SLACK bytes behind `limit` are writable
 * @returns OK, or a fault: again for each push after it
 */
export function inflateStreamPush(state: usize, src: usize, size: usize, dst: usize, limit: usize): i32 {
  const status = run(state, src, size, dst, limit);
  if (status != MORE_INPUT && status != MORE_OUTPUT) return status;
  checkOutput(state);
  keepWindow(state);
  return OK;
}

/** Bytes of the input that the last push took. */
export function inflateStreamConsumed(state: usize): usize {
  return <usize>load<u32>(state, CONSUMED);
}

/** Bytes of output that the last push gave. */
export function inflateStreamProduced(state: usize): usize {
  return <usize>load<u32>(state, PRODUCED);
}

/** Whether the input may end after the last push: behind a whole member, padding, or the last block of a raw stream. */
export function inflateStreamAtBoundary(state: usize): bool {
  const mode = load<u32>(state, MODE);
  if (mode == MEMBER) return load<u32>(state, MEMBERS) != 0 && load<u32>(state, INDEX) == 0;
  return mode == PADDING || mode == END;
}
