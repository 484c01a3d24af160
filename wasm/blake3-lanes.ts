/**
 * BLAKE3's compression of four inputs at once, one in each 32-bit lane of a vector: four chunks, or four parents.
 * @see https://github.com/BLAKE3-team/BLAKE3-specs section 5.3
 */
import {
  BLOCK_BYTES,
  CHUNK_END,
  CHUNK_START,
  IV0,
  IV1,
  IV2,
  IV3,
  IV4,
  IV5,
  IV6,
  IV7,
  PARENT,
  SCHEDULE,
  SCHEDULE_BYTES,
  rotr12,
  rotr16,
  rotr7,
  rotr8,
} from "./blake3-rounds";

/** The 16 message words of the four blocks at hand, word by word: 16 vectors. */
const WORDS: usize = memory.data(256, 16);

// @ts-ignore: decorator
@inline
function add(a: v128, b: v128): v128 {
  return i32x4.add(a, b);
}

/** Message word number `i` of the round whose schedule is at `s`. */
// @ts-ignore: decorator
@inline
function m(s: usize, i: usize): v128 {
  return v128.load(WORDS + <usize>load<u8>(s + i));
}

/** Transposes a 4 x 4 matrix of words given by its rows into columns `step` bytes apart. */
// @ts-ignore: decorator
@inline
function storeColumns(out: usize, step: usize, a: v128, b: v128, c: v128, d: v128): void {
  const abLow = v128.shuffle<i32>(a, b, 0, 4, 1, 5);
  const cdLow = v128.shuffle<i32>(c, d, 0, 4, 1, 5);
  const abHigh = v128.shuffle<i32>(a, b, 2, 6, 3, 7);
  const cdHigh = v128.shuffle<i32>(c, d, 2, 6, 3, 7);
  v128.store(out, v128.shuffle<i64>(abLow, cdLow, 0, 2));
  v128.store(out + step, v128.shuffle<i64>(abLow, cdLow, 1, 3));
  v128.store(out + 2 * step, v128.shuffle<i64>(abHigh, cdHigh, 0, 2));
  v128.store(out + 3 * step, v128.shuffle<i64>(abHigh, cdHigh, 1, 3));
}

/** Brings the blocks of 64 bytes at `src`, `src + stride`, ... into WORDS. */
// @ts-ignore: decorator
@inline
function loadWords(src: usize, stride: usize): void {
  for (let at: usize = 0; at < 64; at += 16) {
    const p = src + at;
    const a = v128.load(p);
    const b = v128.load(p + stride);
    const c = v128.load(p + 2 * stride);
    const d = v128.load(p + 3 * stride);
    storeColumns(WORDS + (at << 2), 16, a, b, c, d);
  }
}

/**
 * Chaining values of four inputs of `blocks` whole blocks each, `stride` bytes apart.
 * The rounds are a loop and the columns go in pairs, 0 1 3 2: JavaScriptCore's register allocator does best with just
 * that (1.46 GB/s; other orders 1.2, unrolled rounds 0.4).
 * @param counter chunk number of the first input; the lanes count up; 0 for parents
 * @param flags PARENT, or 0 for chunks
 * @param out 4 x 32 bytes; may be `src`, as all is read before
 */
export function compressLanes(src: usize, stride: usize, blocks: u32, counter: u32, flags: u32, out: usize): void {
  const counters = flags == PARENT ? i32x4.splat(0) : add(i32x4.splat(counter), i32x4(0, 1, 2, 3));
  let h0 = i32x4.splat(IV0), h1 = i32x4.splat(IV1), h2 = i32x4.splat(IV2), h3 = i32x4.splat(IV3);
  let h4 = i32x4.splat(IV4), h5 = i32x4.splat(IV5), h6 = i32x4.splat(IV6), h7 = i32x4.splat(IV7);
  for (let block: u32 = 0; block < blocks; block++) {
    let blockFlags = flags;
    if (flags != PARENT && block == 0) blockFlags |= CHUNK_START;
    if (flags != PARENT && block == blocks - 1) blockFlags |= CHUNK_END;
    loadWords(src + block * BLOCK_BYTES, stride);
    let v0 = h0, v1 = h1, v2 = h2, v3 = h3, v4 = h4, v5 = h5, v6 = h6, v7 = h7;
    let v8 = i32x4.splat(IV0), v9 = i32x4.splat(IV1), va = i32x4.splat(IV2), vb = i32x4.splat(IV3);
    let vc = counters, vd = i32x4.splat(0), ve = i32x4.splat(BLOCK_BYTES), vf = i32x4.splat(blockFlags);
    for (let s = SCHEDULE; s < SCHEDULE + SCHEDULE_BYTES; s += 16) {
      // columns
      v0 = add(add(v0, m(s, 0)), v4); v1 = add(add(v1, m(s, 2)), v5);
      vc = rotr16(v128.xor(vc, v0)); vd = rotr16(v128.xor(vd, v1));
      v8 = add(v8, vc); v9 = add(v9, vd);
      v4 = rotr12(v128.xor(v4, v8)); v5 = rotr12(v128.xor(v5, v9));
      v0 = add(add(v0, m(s, 1)), v4); v1 = add(add(v1, m(s, 3)), v5);
      vc = rotr8(v128.xor(vc, v0)); vd = rotr8(v128.xor(vd, v1));
      v8 = add(v8, vc); v9 = add(v9, vd);
      v4 = rotr7(v128.xor(v4, v8)); v5 = rotr7(v128.xor(v5, v9));
      v3 = add(add(v3, m(s, 6)), v7); v2 = add(add(v2, m(s, 4)), v6);
      vf = rotr16(v128.xor(vf, v3)); ve = rotr16(v128.xor(ve, v2));
      vb = add(vb, vf); va = add(va, ve);
      v7 = rotr12(v128.xor(v7, vb)); v6 = rotr12(v128.xor(v6, va));
      v3 = add(add(v3, m(s, 7)), v7); v2 = add(add(v2, m(s, 5)), v6);
      vf = rotr8(v128.xor(vf, v3)); ve = rotr8(v128.xor(ve, v2));
      vb = add(vb, vf); va = add(va, ve);
      v7 = rotr7(v128.xor(v7, vb)); v6 = rotr7(v128.xor(v6, va));
      // diagonals
      v0 = add(add(v0, m(s, 8)), v5); v1 = add(add(v1, m(s, 10)), v6);
      vf = rotr16(v128.xor(vf, v0)); vc = rotr16(v128.xor(vc, v1));
      va = add(va, vf); vb = add(vb, vc);
      v5 = rotr12(v128.xor(v5, va)); v6 = rotr12(v128.xor(v6, vb));
      v0 = add(add(v0, m(s, 9)), v5); v1 = add(add(v1, m(s, 11)), v6);
      vf = rotr8(v128.xor(vf, v0)); vc = rotr8(v128.xor(vc, v1));
      va = add(va, vf); vb = add(vb, vc);
      v5 = rotr7(v128.xor(v5, va)); v6 = rotr7(v128.xor(v6, vb));
      v3 = add(add(v3, m(s, 14)), v4); v2 = add(add(v2, m(s, 12)), v7);
      ve = rotr16(v128.xor(ve, v3)); vd = rotr16(v128.xor(vd, v2));
      v9 = add(v9, ve); v8 = add(v8, vd);
      v4 = rotr12(v128.xor(v4, v9)); v7 = rotr12(v128.xor(v7, v8));
      v3 = add(add(v3, m(s, 15)), v4); v2 = add(add(v2, m(s, 13)), v7);
      ve = rotr8(v128.xor(ve, v3)); vd = rotr8(v128.xor(vd, v2));
      v9 = add(v9, ve); v8 = add(v8, vd);
      v4 = rotr7(v128.xor(v4, v9)); v7 = rotr7(v128.xor(v7, v8));
    }
    h0 = v128.xor(v0, v8); h1 = v128.xor(v1, v9); h2 = v128.xor(v2, va); h3 = v128.xor(v3, vb);
    h4 = v128.xor(v4, vc); h5 = v128.xor(v5, vd); h6 = v128.xor(v6, ve); h7 = v128.xor(v7, vf);
  }
  storeColumns(out, 32, h0, h1, h2, h3);
  storeColumns(out + 16, 32, h4, h5, h6, h7);
}
