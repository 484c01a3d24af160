/** The handles of all streaming decoders: a slot each, memory claimed while they are open. */
import { BUSY, CORRUPT, GZIP, OK, ZSTD } from "./abi";
import {
  inflateStreamAtBoundary,
  inflateStreamBegin,
  inflateStreamBytes,
  inflateStreamConsumed,
  inflateStreamProduced,
  inflateStreamPush,
} from "./inflate";
import { claim, endCall, release } from "./memory";
import {
  zstdStreamAtBoundary,
  zstdStreamBegin,
  zstdStreamBytes,
  zstdStreamConsumed,
  zstdStreamGive,
  zstdStreamProduced,
  zstdStreamPush,
  zstdStreamRing,
  zstdStreamWants,
} from "./zstd-stream";

/** Streams open at once. */
const SLOTS: u32 = 8;
/** State (u32; 0: free) and format (u32) of each. */
const slots: usize = memory.data(8 * 8, 8);

/** zstd windows are never larger, whatever the caller allows. */
const WINDOW_MAX: u32 = 128 << 20;

/** What the last successful push gave: bytes written, bytes taken, and whether the input may end here. */
export let pushedBytes: usize = 0;
export let consumedBytes: usize = 0;
export let atBoundary: bool = false;

// @ts-ignore: decorator
@inline
function slotOf(handle: u32): usize {
  return slots + (<usize>handle << 3);
}

/** The state of an open stream; 0: there is none. */
function stateOf(handle: u32): usize {
  return handle < SLOTS ? <usize>load<u32>(slotOf(handle)) : 0;
}

/** Opens a decoder. @returns its handle, or `~BUSY` when the slots or the memory of streams are in use */
export function streamOpen(format: u32, windowLimit: u32): i32 {
  let handle: u32 = 0;
  while (handle < SLOTS && stateOf(handle) != 0) handle++;
  if (handle == SLOTS) return ~BUSY;
  const state = claim(format == ZSTD ? zstdStreamBytes() : inflateStreamBytes());
  if (state == 0) return ~BUSY;
  if (format == ZSTD) zstdStreamBegin(state, min(windowLimit, WINDOW_MAX));
  else inflateStreamBegin(state, format == GZIP);
  store<u32>(slotOf(handle), <u32>state);
  store<u32>(slotOf(handle), format, 4);
  return handle;
}

/** Claims the ring that a zstd stream wants, maybe where this push's output lies: nothing writes there before the next. */
function giveRing(state: usize): i32 {
  const earlier = zstdStreamRing(state);
  if (earlier != 0) release(earlier);
  endCall();
  const ring = claim(zstdStreamWants(state));
  zstdStreamGive(state, ring);
  return ring == 0 ? BUSY : OK;
}

function pushZstd(state: usize, src: usize, srcSize: usize, dst: usize, limit: usize): i32 {
  const status = zstdStreamPush(state, src, srcSize, dst, limit);
  if (status != OK) return status;
  pushedBytes = zstdStreamProduced(state);
  consumedBytes = zstdStreamConsumed(state);
  atBoundary = zstdStreamAtBoundary(state);
  return zstdStreamWants(state) == 0 ? OK : giveRing(state);
}

function pushInflate(state: usize, src: usize, srcSize: usize, dst: usize, limit: usize): i32 {
  const status = inflateStreamPush(state, src, srcSize, dst, limit);
  if (status != OK) return status;
  pushedBytes = inflateStreamProduced(state);
  consumedBytes = inflateStreamConsumed(state);
  atBoundary = inflateStreamAtBoundary(state);
  return OK;
}

/**
 * Decodes at most `limit` bytes to `dst` (SLACK behind them are writable). It may end the call: only reading `dst` is
 * possible after it.
 * @returns OK with {@link pushedBytes}, {@link consumedBytes} and {@link atBoundary} set, or a fault
 */
export function streamPush(handle: u32, src: usize, srcSize: usize, dst: usize, limit: usize): i32 {
  const state = stateOf(handle);
  if (state == 0) return CORRUPT;
  const isZstd = load<u32>(slotOf(handle), 4) == ZSTD;
  return isZstd ? pushZstd(state, src, srcSize, dst, limit) : pushInflate(state, src, srcSize, dst, limit);
}

/** Closes a decoder; an unknown handle is left alone. */
export function streamClose(handle: u32): void {
  const state = stateOf(handle);
  if (state == 0) return;
  const ring = load<u32>(slotOf(handle), 4) == ZSTD ? zstdStreamRing(state) : 0;
  if (ring != 0) release(ring);
  release(state);
  store<u32>(slotOf(handle), 0);
}
