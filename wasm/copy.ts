/** Copies for LZ decoders: they step by vectors and may read and write a little past the end (SLACK in memory.ts). */

const VECTOR: usize = 16;

/** For each distance below 16 the byte indices that repeat its bytes over a vector. */
const PATTERNS: usize = memory.data(256, 16);
/** For each distance below 16 its largest multiple that a vector holds. */
const STEPS: usize = memory.data(16);

for (let distance: usize = 1; distance < VECTOR; distance++) {
  store<u8>(STEPS + distance, <u8>(VECTOR - (VECTOR % distance)));
  for (let i: usize = 0; i < VECTOR; i++) store<u8>(PATTERNS + (distance << 4) + i, <u8>(i % distance));
}

/** Copies `size` bytes, at least one vector: up to 15 more than `size` are read and written. */
// @ts-ignore: decorator
@inline
export function wildCopy(dst: usize, src: usize, size: usize): void {
  const end = dst + size;
  do {
    v128.store(dst, v128.load(src));
    dst += VECTOR;
    src += VECTOR;
  } while (dst < end);
}

/** A match nearer than a vector: its bytes, repeated over a vector, are written again and again. */
function copyPattern(dst: usize, distance: usize, size: usize): void {
  const pattern = i8x16.swizzle(v128.load(dst - distance), v128.load(PATTERNS + (distance << 4)));
  const step = <usize>load<u8>(STEPS + distance);
  for (const end = dst + size; dst < end; dst += step) v128.store(dst, pattern);
}

/**
 * Copies a match that may overlap what it writes; up to 15 bytes more than `size` are written.
 * @param distance at least 1
 */
// @ts-ignore: decorator
@inline
export function copyMatch(dst: usize, distance: usize, size: usize): void {
  if (distance >= VECTOR) {
    wildCopy(dst, dst - distance, size);
  } else {
    copyPattern(dst, distance, size);
  }
}
