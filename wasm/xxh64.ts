/**
 * XXH64.
 * @see https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md
 */

const PRIME1: u64 = 0x9e3779b185ebca87;
const PRIME2: u64 = 0xc2b2ae3d27d4eb4f;
const PRIME3: u64 = 0x165667b19e3779f9;
const PRIME4: u64 = 0x85ebca77c2b2ae63;
const PRIME5: u64 = 0x27d4eb2f165667c5;

// @ts-ignore: decorator
@inline
function round(accumulator: u64, lane: u64): u64 {
  return rotl<u64>(accumulator + lane * PRIME2, 31) * PRIME1;
}

// @ts-ignore: decorator
@inline
function mergeRound(accumulator: u64, lane: u64): u64 {
  return (accumulator ^ round(0, lane)) * PRIME1 + PRIME4;
}

/** The accumulators of whole inputs; a decoder that checks its output piece by piece keeps its own. */
const ACCUMULATORS: usize = memory.data(32, 16);

/** Takes whole stripes of 32 bytes into the four accumulators (u64) at `accumulators`; `size` is a multiple of 32. */
export function xxh64Stripes(accumulators: usize, src: usize, size: usize): void {
  let a = load<u64>(accumulators);
  let b = load<u64>(accumulators, 8);
  let c = load<u64>(accumulators, 16);
  let d = load<u64>(accumulators, 24);
  for (const end = src + size; src < end; src += 32) {
    a = round(a, load<u64>(src));
    b = round(b, load<u64>(src, 8));
    c = round(c, load<u64>(src, 16));
    d = round(d, load<u64>(src, 24));
  }
  store<u64>(accumulators, a);
  store<u64>(accumulators, b, 8);
  store<u64>(accumulators, c, 16);
  store<u64>(accumulators, d, 24);
}

/** Sets the four accumulators at `accumulators` to begin a hash. */
export function xxh64Begin(accumulators: usize, seed: u64): void {
  store<u64>(accumulators, seed + PRIME1 + PRIME2);
  store<u64>(accumulators, seed + PRIME2, 8);
  store<u64>(accumulators, seed, 16);
  store<u64>(accumulators, seed - PRIME1, 24);
}

/**
 * Ends a hash.
 * @param total bytes of the whole input
 * @param rest the bytes after the last whole stripe, `total` modulo 32 of them
 */
export function xxh64End(accumulators: usize, seed: u64, total: u64, rest: usize): u64 {
  let hash = seed + PRIME5;
  if (total >= 32) {
    const a = load<u64>(accumulators);
    const b = load<u64>(accumulators, 8);
    const c = load<u64>(accumulators, 16);
    const d = load<u64>(accumulators, 24);
    hash = rotl<u64>(a, 1) + rotl<u64>(b, 7) + rotl<u64>(c, 12) + rotl<u64>(d, 18);
    hash = mergeRound(mergeRound(mergeRound(mergeRound(hash, a), b), c), d);
  }
  hash += total;
  const end = rest + <usize>(total & 31);
  for (; rest + 8 <= end; rest += 8) {
    hash = rotl<u64>(hash ^ round(0, load<u64>(rest)), 27) * PRIME1 + PRIME4;
  }
  if (rest + 4 <= end) {
    hash = rotl<u64>(hash ^ (<u64>load<u32>(rest) * PRIME1), 23) * PRIME2 + PRIME3;
    rest += 4;
  }
  for (; rest < end; rest++) hash = rotl<u64>(hash ^ (<u64>load<u8>(rest) * PRIME5), 11) * PRIME1;
  hash = (hash ^ (hash >> 33)) * PRIME2;
  hash = (hash ^ (hash >> 29)) * PRIME3;
  return hash ^ (hash >> 32);
}

/** The XXH64 of `size` bytes. */
export function xxh64(src: usize, size: usize, seed: u64): u64 {
  const striped = size & ~31;
  xxh64Begin(ACCUMULATORS, seed);
  xxh64Stripes(ACCUMULATORS, src, striped);
  return xxh64End(ACCUMULATORS, seed, size, src + striped);
}
