import { constants } from "node:zlib";
import { EMPTY, utf8 } from "./deflate-writer.ts";
import { Random } from "./random.ts";

/** Runs, copies from near and far, noise and text, such as an LZ coder meets. */
export function compressible(random: Random, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length; ) {
    const end = Math.min(length, at + random.between(1, random.chance(0.1) ? 700 : 40));
    const kind = random.below(4);
    const distance = random.between(1, random.chance(0.5) ? 20 : 32_768);
    for (; at < end; at++) {
      const fresh = kind === 0 ? random.below(256) : 97 + random.below(6);
      bytes[at] = kind < 2 ? fresh : (bytes[at - distance] ?? fresh);
    }
  }
  return bytes;
}

/** Bytes whose frequencies grow like Fibonacci's numbers: their Huffman code is as long as deflate allows. */
export function skewed(random: Random, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let i = 0; i < length; i++) {
    let value = 0;
    while (value < 255 && random.chance(0.6)) value++;
    bytes[i] = value;
  }
  return bytes;
}

export const STRATEGIES = {
  default: constants.Z_DEFAULT_STRATEGY,
  filtered: constants.Z_FILTERED,
  "huffman only": constants.Z_HUFFMAN_ONLY,
  rle: constants.Z_RLE,
  fixed: constants.Z_FIXED,
};

/** Data by what it is like, the same for the same seed. */
export function deflateSamples(seed: number): Readonly<Record<string, Uint8Array>> {
  const random = new Random(seed);
  return {
    empty: EMPTY,
    "one byte": Uint8Array.of(7),
    "a short text": utf8("to be or not to be, that is the question"),
    "mixed data": compressible(random, 300_000),
    "random bytes": random.bytes(150_000),
    zeros: new Uint8Array(200_000),
    "skewed bytes": skewed(random, 200_000),
  };
}
