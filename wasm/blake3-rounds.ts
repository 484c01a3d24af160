/**
 * What BLAKE3's one-block and four-lane compressions share.
 * @see https://github.com/BLAKE3-team/BLAKE3-specs sections 2.1 and 2.2
 */

export const IV0: i32 = 0x6a09e667;
export const IV1: i32 = 0xbb67ae85;
export const IV2: i32 = 0x3c6ef372;
export const IV3: i32 = 0xa54ff53a;
export const IV4: i32 = 0x510e527f;
export const IV5: i32 = 0x9b05688c;
export const IV6: i32 = 0x1f83d9ab;
export const IV7: i32 = 0x5be0cd19;

export const CHUNK_START: u32 = 1;
export const CHUNK_END: u32 = 2;
export const PARENT: u32 = 4;
export const ROOT: u32 = 8;

export const BLOCK_BYTES: u32 = 64;
export const CHUNK_BYTES: u32 = 1024;
/** Bytes of a chaining value, and of the digest. */
export const CV_BYTES: usize = 32;

/** Which message word each step of each round takes, times 16: seven rounds of the permutation in table 2. */
export const SCHEDULE: usize = memory.data<u8>([
    0,  16,  32,  48,  64,  80,  96, 112, 128, 144, 160, 176, 192, 208, 224, 240,
   32,  96,  48, 160, 112,   0,  64, 208,  16, 176, 192,  80, 144, 224, 240, 128,
   48,  64, 160, 192, 208,  32, 112, 224,  96,  80, 144,   0, 176, 240, 128,  16,
  160, 112, 192, 144, 224,  48, 208, 240,  64,   0, 176,  32,  80, 128,  16,  96,
  192, 208, 144, 176, 240, 160, 224, 128, 112,  32,  80,  48,   0,  16,  96,  64,
  144, 224, 176,  80, 128, 192, 240,  16, 208,  48,   0, 160,  32,  96,  64, 112,
  176, 240,  80,   0,  16, 144, 128,  96, 224, 160,  32, 192,  48,  64, 112, 208,
], 16);
export const SCHEDULE_BYTES: usize = 112;

// Rotations by whole bytes are shuffles: JavaScriptCore makes one instruction of each, but four of a shift.

// @ts-ignore: decorator
@inline
export function rotr16(x: v128): v128 {
  return i8x16.shuffle(x, x, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
}

// @ts-ignore: decorator
@inline
export function rotr8(x: v128): v128 {
  return i8x16.shuffle(x, x, 1, 2, 3, 0, 5, 6, 7, 4, 9, 10, 11, 8, 13, 14, 15, 12);
}

// @ts-ignore: decorator
@inline
export function rotr12(x: v128): v128 {
  return v128.or(i32x4.shr_u(x, 12), i32x4.shl(x, 20));
}

/** By 8, then left by 1: doubled, and 1 more where the top bit was set. */
// @ts-ignore: decorator
@inline
export function rotr7(x: v128): v128 {
  const y = rotr8(x);
  return i32x4.sub(i32x4.add(y, y), i32x4.lt_s(y, i32x4.splat(0)));
}
