/**
 * BLAKE3, the plain hash with 32 bytes of output.
 * @see https://github.com/BLAKE3-team/BLAKE3-specs
 */
import { compressLanes } from "./blake3-lanes";
import {
  BLOCK_BYTES,
  CHUNK_BYTES,
  CHUNK_END,
  CHUNK_START,
  CV_BYTES,
  IV0,
  IV1,
  IV2,
  IV3,
  IV4,
  IV5,
  IV6,
  IV7,
  PARENT,
  ROOT,
  SCHEDULE,
  SCHEDULE_BYTES,
  rotr12,
  rotr16,
  rotr7,
  rotr8,
} from "./blake3-rounds";
import { alloc } from "./memory";

/** A chunk's last block, padded with zeros. */
const LAST_BLOCK: usize = memory.data(64, 16);

/** Message words number `i`, `i + 2`, `i + 4` and `i + 6` of a round. */
// @ts-ignore: decorator
@inline
function gather(block: usize, s: usize, i: usize): v128 {
  const words = v128.load32_zero(block + (<usize>load<u8>(s + i) >> 2));
  const three = v128.load_lane<i32>(block + (<usize>load<u8>(s + i + 2) >> 2), words, 1);
  const four = v128.load_lane<i32>(block + (<usize>load<u8>(s + i + 4) >> 2), three, 2);
  return v128.load_lane<i32>(block + (<usize>load<u8>(s + i + 6) >> 2), four, 3);
}

/** Compresses one block, a row of the state in each vector; `out` gets the new chaining value and may be `cv`. */
function compress(cv: usize, block: usize, size: u32, counter: u32, flags: u32, out: usize): void {
  let a = v128.load(cv);
  let b = v128.load(cv, 16);
  let c = i32x4(IV0, IV1, IV2, IV3);
  let d = i32x4.replace_lane(i32x4.splat(0), 0, counter);
  d = i32x4.replace_lane(i32x4.replace_lane(d, 2, size), 3, flags);
  for (let s = SCHEDULE; s < SCHEDULE + SCHEDULE_BYTES; s += 16) {
    for (let half: usize = 0; half < 16; half += 8) {
      a = i32x4.add(i32x4.add(a, gather(block, s, half)), b);
      d = rotr16(v128.xor(d, a));
      c = i32x4.add(c, d);
      b = rotr12(v128.xor(b, c));
      a = i32x4.add(i32x4.add(a, gather(block, s, half + 1)), b);
      d = rotr8(v128.xor(d, a));
      c = i32x4.add(c, d);
      b = rotr7(v128.xor(b, c));
      // columns become diagonals, then diagonals become columns again
      const left = half == 0;
      b = left ? v128.shuffle<i32>(b, b, 1, 2, 3, 0) : v128.shuffle<i32>(b, b, 3, 0, 1, 2);
      c = v128.shuffle<i32>(c, c, 2, 3, 0, 1);
      d = left ? v128.shuffle<i32>(d, d, 3, 0, 1, 2) : v128.shuffle<i32>(d, d, 1, 2, 3, 0);
    }
  }
  v128.store(out, v128.xor(a, c));
  v128.store(out, v128.xor(b, d), 16);
}

/** Sets a chaining value to the initial one. */
function begin(cv: usize): void {
  v128.store(cv, i32x4(IV0, IV1, IV2, IV3));
  v128.store(cv, i32x4(IV4, IV5, IV6, IV7), 16);
}

/** The chaining value of one chunk of at most 1024 bytes; `root` is ROOT when it is the whole input, else 0. */
function hashChunk(src: usize, size: u32, counter: u32, root: u32, out: usize): void {
  begin(out);
  let flags = CHUNK_START;
  while (size > BLOCK_BYTES) {
    compress(out, src, BLOCK_BYTES, counter, flags, out);
    flags = 0;
    src += BLOCK_BYTES;
    size -= BLOCK_BYTES;
  }
  memory.fill(LAST_BLOCK, 0, BLOCK_BYTES);
  memory.copy(LAST_BLOCK, src, size);
  compress(out, LAST_BLOCK, size, counter, flags | CHUNK_END | root, out);
}

/** The chaining value of the two at `pair`; `out` may be `pair`, which is read before. */
function hashParent(pair: usize, root: u32, out: usize): void {
  memory.copy(LAST_BLOCK, pair, BLOCK_BYTES);
  begin(out);
  compress(out, LAST_BLOCK, BLOCK_BYTES, 0, PARENT | root, out);
}

/** The chaining values of all chunks; `cvs` has room for them. */
function hashChunks(src: usize, size: usize, cvs: usize): void {
  let counter: u32 = 0;
  while (size >= 4 * CHUNK_BYTES) {
    compressLanes(src, CHUNK_BYTES, CHUNK_BYTES / BLOCK_BYTES, counter, 0, cvs);
    counter += 4;
    cvs += 4 * CV_BYTES;
    src += 4 * CHUNK_BYTES;
    size -= 4 * CHUNK_BYTES;
  }
  while (size > 0) {
    const part = min<usize>(size, CHUNK_BYTES);
    hashChunk(src, <u32>part, counter, 0, cvs);
    counter++;
    cvs += CV_BYTES;
    src += part;
    size -= part;
  }
}

/** Puts the parents of neighbours in the place of the `count` values, an odd last one up as it is. @returns how many */
function hashLevel(cvs: usize, count: usize): usize {
  const pairs = count >> 1;
  let i: usize = 0;
  for (; i + 4 <= pairs; i += 4) {
    compressLanes(cvs + i * BLOCK_BYTES, BLOCK_BYTES, 1, 0, PARENT, cvs + i * CV_BYTES);
  }
  for (; i < pairs; i++) hashParent(cvs + i * BLOCK_BYTES, 0, cvs + i * CV_BYTES);
  if ((count & 1) == 0) return pairs;
  memory.copy(cvs + pairs * CV_BYTES, cvs + (count - 1) * CV_BYTES, CV_BYTES);
  return pairs + 1;
}

/**
 * Hashes `size` bytes; 32 bytes go to `out`. Scratch of a 32nd of the size comes from the arena.
 * The tree is built level by level: joining neighbours, an odd one waiting for the next level, gives the same tree as
 * the specification's left subtrees of a power of two.
 */
export function blake3(src: usize, size: usize, out: usize): void {
  if (size <= CHUNK_BYTES) {
    hashChunk(src, <u32>size, 0, ROOT, out);
    return;
  }
  let count = (size + CHUNK_BYTES - 1) / CHUNK_BYTES;
  const cvs = alloc(count * CV_BYTES);
  if (cvs == 0) unreachable();
  hashChunks(src, size, cvs);
  while (count > 2) count = hashLevel(cvs, count);
  hashParent(cvs, ROOT, out);
}
