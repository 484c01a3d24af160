/**
 * zstd frames from pieces of any size. Input is carried over until a header or a whole block is there; a block is
 * decoded to the window and handed out from it. The window is a ring that begins anew when a block might not fit:
 * matches then reach back to its end (zstd-execute.ts).
 */
import { BUSY, CHECKSUM as CHECKSUM_FAULT, CORRUPT, OK, WINDOW as WINDOW_FAULT } from "./abi";
import { SLACK } from "./memory";
import { blockEnd, checkBlock, decodeBlock } from "./zstd-block";
import { CHECKSUM_STATE_BYTES, beginChecksum, endChecksum, updateChecksum } from "./zstd-checksum";
import { setHistory } from "./zstd-execute";
import {
  BLOCK_HEADER_BYTES,
  CHECKSUM_BYTES,
  MAGIC,
  MAGIC_BYTES,
  SKIPPABLE_HEADER_BYTES,
  beginFrame,
  frameHeaderBytes,
  isLastBlock,
  isSkippable,
  loadBlockHeader,
  storedSize,
} from "./zstd-frame";
import {
  BLOCK_LIMIT,
  BLOCK_MAX,
  CONTENT_BYTES,
  CONTENT_UNKNOWN,
  HAS_CHECKSUM,
  STATE_BYTES,
  WINDOW_BYTES,
} from "./zstd-state";

/** What comes next. */
const FRAME: u32 = 0;
const SKIP: u32 = 1;
const RING: u32 = 2;
const BLOCK: u32 = 3;
const CHECKSUM: u32 = 4;

/** A step's status: it needs more input, or an empty output. Not a fault, not OK. */
const MORE: i32 = -2;

/** Fields after the frame's, u32 if not said otherwise. */
const PHASE: usize = STATE_BYTES;
const FAULT: usize = PHASE + 4;
const WINDOW_LIMIT: usize = PHASE + 8;
/** The ring: address, bytes, and bytes that the frame at hand needs. */
const RING_START: usize = PHASE + 12;
const RING_BYTES: usize = PHASE + 16;
const RING_WANTED: usize = PHASE + 20;
/** In the ring: where the next block goes, what of it was not handed out, and the end of the turn before (0: none). */
const OUT: usize = PHASE + 24;
const PENDING: usize = PHASE + 28;
const EARLIER_END: usize = PHASE + 32;
/** Bytes left of a skippable frame. */
const SKIP_LEFT: usize = PHASE + 36;
/** Whether a frame has ended. */
const ANY_FRAME: usize = PHASE + 40;
/** What the last push took and gave. */
const CONSUMED: usize = PHASE + 44;
const PRODUCED: usize = PHASE + 48;
/** Bytes carried over. */
const CARRIED: usize = PHASE + 52;
/** Bytes of the frame's content so far, u64. */
const CONTENT_SO_FAR: usize = PHASE + 56;
const CHECK_STATE: usize = PHASE + 64;
/** Bytes carried over: a block and its header at most, and slack. */
const CARRY: usize = CHECK_STATE + CHECKSUM_STATE_BYTES;
const CARRY_BYTES: usize = BLOCK_LIMIT + BLOCK_HEADER_BYTES;

/** The push at hand: what is left of its input, and of its room for output. */
let input: usize = 0;
let inputEnd: usize = 0;
let output: usize = 0;
let outputEnd: usize = 0;

/** Bytes of a stream's state; its ring comes later. */
export function zstdStreamBytes(): usize {
  return CARRY + CARRY_BYTES;
}

/** Begins a stream. */
export function zstdStreamBegin(state: usize, windowLimit: u32): void {
  memory.fill(state + STATE_BYTES, 0, CARRY - STATE_BYTES);
  store<u32>(state + FAULT, OK);
  store<u32>(state + WINDOW_LIMIT, windowLimit);
}

/** `bytes` of input in one piece, carried or as they were pushed; 0 when there are not as many yet. */
function gather(state: usize, bytes: usize): usize {
  const carried = <usize>load<u32>(state + CARRIED);
  if (carried == 0 && inputEnd - input >= bytes) return input;
  if (carried < bytes) {
    const more = min(bytes - carried, inputEnd - input);
    memory.copy(state + CARRY + carried, input, more);
    input += more;
    store<u32>(state + CARRIED, <u32>(carried + more));
    if (carried + more < bytes) return 0;
  }
  return state + CARRY;
}

/** Takes what {@link gather} gave. */
function take(state: usize, bytes: usize): void {
  if (load<u32>(state + CARRIED) == 0) input += bytes;
  else store<u32>(state + CARRIED, 0);
}

function enter(state: usize, phase: u32): i32 {
  store<u32>(state + PHASE, phase);
  return OK;
}

/** Hands out what the last block gave. @returns whether all of it found room */
function flush(state: usize): bool {
  const pending = <usize>load<u32>(state + PENDING);
  const size = min(<usize>load<u32>(state + OUT) - pending, outputEnd - output);
  if (size > 0) memory.copy(output, pending, size);
  output += size;
  store<u32>(state + PENDING, <u32>(pending + size));
  return pending + size == <usize>load<u32>(state + OUT);
}

function stepFrame(state: usize): i32 {
  let at = gather(state, MAGIC_BYTES);
  if (at == 0) return MORE;
  const magic = load<u32>(at);
  if (isSkippable(magic)) return beginSkip(state);
  if (magic != MAGIC) return CORRUPT;
  at = gather(state, MAGIC_BYTES + 1);
  if (at == 0) return MORE;
  const bytes = frameHeaderBytes(load<u8>(at, MAGIC_BYTES));
  at = gather(state, bytes);
  if (at == 0) return MORE;
  const status = beginFrame(state, at);
  if (status != OK) return status;
  const window = load<u32>(state + WINDOW_BYTES);
  if (window > load<u32>(state + WINDOW_LIMIT)) return WINDOW_FAULT;
  const ringBytes = window + BLOCK_LIMIT + 2 * <u32>SLACK;
  if (ringBytes > load<u32>(state + RING_BYTES)) {
    store<u32>(state + RING_WANTED, ringBytes);
    take(state, bytes);
    return enter(state, RING); // it is claimed when this push has ended
  }
  take(state, bytes);
  beginContent(state);
  return OK;
}

/** The window is empty, the first block comes. */
function beginContent(state: usize): void {
  const ring = load<u32>(state + RING_START);
  store<u32>(state + OUT, ring);
  store<u32>(state + PENDING, ring);
  store<u32>(state + EARLIER_END, 0);
  store<u64>(state + CONTENT_SO_FAR, 0);
  beginChecksum(state + CHECK_STATE);
  enter(state, BLOCK);
}

function beginSkip(state: usize): i32 {
  const at = gather(state, SKIPPABLE_HEADER_BYTES);
  if (at == 0) return MORE;
  store<u32>(state + SKIP_LEFT, load<u32>(at, MAGIC_BYTES));
  take(state, SKIPPABLE_HEADER_BYTES);
  return enter(state, SKIP);
}

function stepSkip(state: usize): i32 {
  const left = load<u32>(state + SKIP_LEFT);
  const size = min(left, <u32>(inputEnd - input));
  input += size;
  store<u32>(state + SKIP_LEFT, left - size);
  return left == size ? endFrame(state) : MORE;
}

function endFrame(state: usize): i32 {
  store<u32>(state + ANY_FRAME, 1);
  return enter(state, FRAME);
}

/** Where the next block goes: the ring begins anew when this one might not fit. */
function placeBlock(state: usize): usize {
  const ring = <usize>load<u32>(state + RING_START);
  const ringEnd = ring + load<u32>(state + RING_BYTES) - SLACK;
  let out = <usize>load<u32>(state + OUT);
  if (ringEnd - out < <usize>load<u32>(state + BLOCK_MAX)) {
    store<u32>(state + EARLIER_END, <u32>out);
    out = ring;
  }
  const earlier = <usize>load<u32>(state + EARLIER_END);
  setHistory(ring, earlier, earlier == 0 ? 0 : earlier - ring, <usize>load<u32>(state + WINDOW_BYTES));
  return out;
}

function stepBlock(state: usize): i32 {
  let at = gather(state, BLOCK_HEADER_BYTES);
  if (at == 0) return MORE;
  const header = loadBlockHeader(at);
  let status = checkBlock(state, header);
  if (status != OK) return status;
  const bytes = BLOCK_HEADER_BYTES + storedSize(header);
  at = gather(state, bytes);
  if (at == 0) return MORE;
  const out = placeBlock(state);
  status = decodeBlock(state, header, at + BLOCK_HEADER_BYTES, out, <usize>load<u32>(state + BLOCK_MAX));
  if (status != OK) return status;
  take(state, bytes);
  return endBlock(state, header, out, blockEnd - out);
}

/** Accounts for the `size` bytes at `out` that a block gave. */
function endBlock(state: usize, header: u32, out: usize, size: usize): i32 {
  const before = load<u64>(state + CONTENT_SO_FAR);
  const content = load<u64>(state + CONTENT_BYTES);
  const hasChecksum = load<u32>(state + HAS_CHECKSUM) != 0;
  if (content != CONTENT_UNKNOWN) {
    if (before + size > content || (isLastBlock(header) && before + size < content)) return CORRUPT;
  }
  if (hasChecksum) updateChecksum(state + CHECK_STATE, before, out, size);
  store<u64>(state + CONTENT_SO_FAR, before + size);
  store<u32>(state + PENDING, <u32>out);
  store<u32>(state + OUT, <u32>(out + size));
  if (!isLastBlock(header)) return OK;
  return hasChecksum ? enter(state, CHECKSUM) : endFrame(state);
}

function stepChecksum(state: usize): i32 {
  const at = gather(state, CHECKSUM_BYTES);
  if (at == 0) return MORE;
  const wanted = endChecksum(state + CHECK_STATE, load<u64>(state + CONTENT_SO_FAR));
  if (load<u32>(at) != wanted) return CHECKSUM_FAULT;
  take(state, CHECKSUM_BYTES);
  return endFrame(state);
}

function step(state: usize): i32 {
  const phase = load<u32>(state + PHASE);
  if (phase == BLOCK) return stepBlock(state);
  if (phase == FRAME) return stepFrame(state);
  if (phase == CHECKSUM) return stepChecksum(state);
  return phase == SKIP ? stepSkip(state) : MORE;
}

/**
 * Decodes at most `limit` bytes to `dst` (SLACK behind them is writable). When {@link zstdStreamWants} is not 0 after it,
 * the next one needs {@link zstdStreamGive} before.
 * @returns OK or a fault, which stays
 */
export function zstdStreamPush(state: usize, src: usize, size: usize, dst: usize, limit: usize): i32 {
  input = src;
  inputEnd = src + size;
  output = dst;
  outputEnd = dst + limit;
  let status = <i32>load<u32>(state + FAULT);
  while (status == OK && flush(state)) status = step(state);
  if (status == MORE) status = OK;
  store<u32>(state + FAULT, status);
  store<u32>(state + CONSUMED, <u32>(input - src));
  store<u32>(state + PRODUCED, <u32>(output - dst));
  return status;
}

/** Bytes of input that the last push took. */
export function zstdStreamConsumed(state: usize): usize {
  return <usize>load<u32>(state + CONSUMED);
}

/** Bytes of output that the last push gave. */
export function zstdStreamProduced(state: usize): usize {
  return <usize>load<u32>(state + PRODUCED);
}

/** Whether the input may end here: after a frame, and nothing is left to hand out. */
export function zstdStreamAtBoundary(state: usize): bool {
  const between = load<u32>(state + PHASE) == FRAME && load<u32>(state + CARRIED) == 0;
  return between && load<u32>(state + ANY_FRAME) != 0 && load<u32>(state + PENDING) == load<u32>(state + OUT);
}

/** Bytes of a ring that the stream must be given before it goes on; 0: none. */
export function zstdStreamWants(state: usize): usize {
  return <usize>load<u32>(state + RING_WANTED);
}

/** The stream's ring, to be released with it; 0: none. */
export function zstdStreamRing(state: usize): usize {
  return <usize>load<u32>(state + RING_START);
}

/** Gives the ring that was wanted, instead of an earlier one; 0 when there is no memory: the stream is BUSY for good. */
export function zstdStreamGive(state: usize, ring: usize): void {
  store<u32>(state + RING_START, <u32>ring);
  store<u32>(state + RING_BYTES, ring == 0 ? 0 : load<u32>(state + RING_WANTED));
  store<u32>(state + RING_WANTED, 0);
  if (ring == 0) store<u32>(state + FAULT, BUSY);
  else beginContent(state);
}
