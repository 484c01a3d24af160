/**
 * SHA-256, of whole inputs and of streams.
 * @see FIPS 180-4 sections 4.1.2, 5.1.1 and 6.2
 */

const BLOCK_BYTES: usize = 64;
/** A digest, and the eight words of the state. */
const STATE_BYTES: usize = 32;

const K: usize = memory.data<u32>([
  0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
  0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
  0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
  0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
  0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
  0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
  0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
  0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
], 16);

/** The message schedule, 64 words. */
const W: usize = memory.data(256, 16);

// @ts-ignore: decorator
@inline
function sum0(x: u32): u32 {
  return rotr<u32>(x, 2) ^ rotr<u32>(x, 13) ^ rotr<u32>(x, 22);
}

// @ts-ignore: decorator
@inline
function sum1(x: u32): u32 {
  return rotr<u32>(x, 6) ^ rotr<u32>(x, 11) ^ rotr<u32>(x, 25);
}

// @ts-ignore: decorator
@inline
function sigma0(x: u32): u32 {
  return rotr<u32>(x, 7) ^ rotr<u32>(x, 18) ^ (x >>> 3);
}

// @ts-ignore: decorator
@inline
function sigma1(x: u32): u32 {
  return rotr<u32>(x, 17) ^ rotr<u32>(x, 19) ^ (x >>> 10);
}

// @ts-ignore: decorator
@inline
function choose(x: u32, y: u32, z: u32): u32 {
  return z ^ (x & (y ^ z));
}

// @ts-ignore: decorator
@inline
function majority(x: u32, y: u32, z: u32): u32 {
  return (x & y) | (z & (x | y));
}

/** The constant and schedule word of round `i` after the round at offset `t` (4 bytes a round). */
// @ts-ignore: decorator
@inline
function kw(t: usize, i: usize): u32 {
  return load<u32>(K + t + 4 * i) + load<u32>(W + t + 4 * i);
}

/** The four big-endian words at `ptr`. */
// @ts-ignore: decorator
@inline
function swapWords(ptr: usize): v128 {
  const x = v128.load(ptr);
  return i8x16.shuffle(x, x, 3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12);
}

/** Expands the block at `src` into W. */
// @ts-ignore: decorator
@inline
function schedule(src: usize): void {
  for (let i: usize = 0; i < BLOCK_BYTES; i += 16) v128.store(W + i, swapWords(src + i));
  for (let w = W; w < W + 192; w += 8) {
    store<u32>(w, load<u32>(w) + sigma0(load<u32>(w, 4)) + load<u32>(w, 36) + sigma1(load<u32>(w, 56)), 64);
    store<u32>(w, load<u32>(w, 4) + sigma0(load<u32>(w, 8)) + load<u32>(w, 40) + sigma1(load<u32>(w, 60)), 68);
  }
}

/** Takes `blocks` whole blocks into the state. */
function compress(state: usize, src: usize, blocks: usize): void {
  let a = load<u32>(state), b = load<u32>(state, 4), c = load<u32>(state, 8), d = load<u32>(state, 12);
  let e = load<u32>(state, 16), f = load<u32>(state, 20), g = load<u32>(state, 24), h = load<u32>(state, 28);
  for (const end = src + blocks * BLOCK_BYTES; src < end; src += BLOCK_BYTES) {
    schedule(src);
    for (let t: usize = 0; t < 256; t += 32) {
      h += sum1(e) + choose(e, f, g) + kw(t, 0); d += h; h += sum0(a) + majority(a, b, c);
      g += sum1(d) + choose(d, e, f) + kw(t, 1); c += g; g += sum0(h) + majority(h, a, b);
      f += sum1(c) + choose(c, d, e) + kw(t, 2); b += f; f += sum0(g) + majority(g, h, a);
      e += sum1(b) + choose(b, c, d) + kw(t, 3); a += e; e += sum0(f) + majority(f, g, h);
      d += sum1(a) + choose(a, b, c) + kw(t, 4); h += d; d += sum0(e) + majority(e, f, g);
      c += sum1(h) + choose(h, a, b) + kw(t, 5); g += c; c += sum0(d) + majority(d, e, f);
      b += sum1(g) + choose(g, h, a) + kw(t, 6); f += b; b += sum0(c) + majority(c, d, e);
      a += sum1(f) + choose(f, g, h) + kw(t, 7); e += a; a += sum0(b) + majority(b, c, d);
    }
    a += load<u32>(state); b += load<u32>(state, 4); c += load<u32>(state, 8); d += load<u32>(state, 12);
    e += load<u32>(state, 16); f += load<u32>(state, 20); g += load<u32>(state, 24); h += load<u32>(state, 28);
    store<u32>(state, a); store<u32>(state, b, 4); store<u32>(state, c, 8); store<u32>(state, d, 12);
    store<u32>(state, e, 16); store<u32>(state, f, 20); store<u32>(state, g, 24); store<u32>(state, h, 28);
  }
}

/** A stream: its state, then the bytes that fill no block yet, their total (u64), and whether a handle holds it. */
const BUFFER: usize = STATE_BYTES;
const TOTAL: usize = BUFFER + BLOCK_BYTES;
const OPEN: usize = TOTAL + 8;
const STREAM_BYTES: usize = 112;

const MAX_OPEN: u32 = 16;
const STREAMS: usize = memory.data(16 * 112, 16);
/** The stream of one-shot calls. */
const ONE_SHOT: usize = memory.data(112, 16);

function begin(stream: usize): void {
  v128.store(stream, i32x4(0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a));
  v128.store(stream, i32x4(0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19), 16);
  store<u64>(stream + TOTAL, 0);
}

function update(stream: usize, src: usize, size: usize): void {
  const used = <usize>load<u64>(stream + TOTAL) & (BLOCK_BYTES - 1);
  store<u64>(stream + TOTAL, load<u64>(stream + TOTAL) + size);
  if (used + size < BLOCK_BYTES) {
    memory.copy(stream + BUFFER + used, src, size);
    return;
  }
  if (used > 0) {
    const part = BLOCK_BYTES - used;
    memory.copy(stream + BUFFER + used, src, part);
    compress(stream, stream + BUFFER, 1);
    src += part;
    size -= part;
  }
  const whole = size & ~(BLOCK_BYTES - 1);
  compress(stream, src, whole / BLOCK_BYTES);
  memory.copy(stream + BUFFER, src + whole, size - whole);
}

/** Pads and writes the digest: a 1 bit, zeros, and the length in bits as a big-endian u64. */
function finish(stream: usize, dst: usize): void {
  const total = load<u64>(stream + TOTAL);
  const buffer = stream + BUFFER;
  const used = <usize>total & (BLOCK_BYTES - 1);
  store<u8>(buffer + used, 0x80);
  memory.fill(buffer + used + 1, 0, BLOCK_BYTES - used - 1);
  if (used >= BLOCK_BYTES - 8) {
    compress(stream, buffer, 1);
    memory.fill(buffer, 0, BLOCK_BYTES);
  }
  store<u64>(buffer, bswap<u64>(total << 3), BLOCK_BYTES - 8);
  compress(stream, buffer, 1);
  v128.store(dst, swapWords(stream));
  v128.store(dst, swapWords(stream + 16), 16);
}

/** Hashes `size` bytes; 32 bytes go to `dst`. */
export function sha256(src: usize, size: usize, dst: usize): void {
  begin(ONE_SHOT);
  update(ONE_SHOT, src, size);
  finish(ONE_SHOT, dst);
}

/** Begins a stream. @returns its handle, or -1 when all are taken */
export function sha256Open(): i32 {
  for (let handle: u32 = 0; handle < MAX_OPEN; handle++) {
    const stream = STREAMS + handle * STREAM_BYTES;
    if (load<u32>(stream + OPEN) != 0) continue;
    begin(stream);
    store<u32>(stream + OPEN, 1);
    return handle;
  }
  return -1;
}

/** The open stream of a handle, or 0. */
function streamOf(handle: u32): usize {
  if (handle >= MAX_OPEN) return 0;
  const stream = STREAMS + handle * STREAM_BYTES;
  return load<u32>(stream + OPEN) != 0 ? stream : 0;
}

/** Takes the next bytes of a stream; an unknown handle is left alone. */
export function sha256Update(handle: u32, src: usize, size: usize): void {
  const stream = streamOf(handle);
  if (stream != 0) update(stream, src, size);
}

/** Digests what a stream was given so far; 32 bytes go to `dst`, zeros for an unknown handle. */
export function sha256Peek(handle: u32, dst: usize): void {
  const stream = streamOf(handle);
  if (stream == 0) {
    memory.fill(dst, 0, STATE_BYTES);
    return;
  }
  memory.copy(ONE_SHOT, stream, STREAM_BYTES);
  finish(ONE_SHOT, dst);
}

/** Ends a stream; 32 bytes go to `dst`, zeros for an unknown handle. */
export function sha256Finish(handle: u32, dst: usize): void {
  const stream = streamOf(handle);
  if (stream == 0) {
    memory.fill(dst, 0, STATE_BYTES);
    return;
  }
  finish(stream, dst);
  store<u32>(stream + OPEN, 0);
}
