/** The content checksum of a frame that is decoded piece by piece: XXH64's accumulators, and what fills no stripe yet. */
import { xxh64Begin, xxh64End, xxh64Stripes } from "./xxh64";

const STRIPE_BYTES: usize = 32;
const STRIPE_MASK: usize = 31;
/** After the accumulators: the bytes after the last whole stripe. */
const REST: usize = 32;

export const CHECKSUM_STATE_BYTES: usize = 64;

export function beginChecksum(state: usize): void {
  xxh64Begin(state, 0);
}

/** Takes `size` bytes; `before` came earlier. */
export function updateChecksum(state: usize, before: u64, src: usize, size: usize): void {
  const end = src + size;
  const held = <usize>before & STRIPE_MASK;
  if (held != 0) {
    const fill = min(STRIPE_BYTES - held, size);
    memory.copy(state + REST + held, src, fill);
    src += fill;
    if (held + fill < STRIPE_BYTES) return;
    xxh64Stripes(state, state + REST, STRIPE_BYTES);
  }
  const striped = (end - src) & ~STRIPE_MASK;
  xxh64Stripes(state, src, striped);
  memory.copy(state + REST, src + striped, end - src - striped);
}

/** The frame's checksum after `total` bytes. */
export function endChecksum(state: usize, total: u64): u32 {
  return <u32>xxh64End(state, 0, total, state + REST);
}
