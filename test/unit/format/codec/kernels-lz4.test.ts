import { afterAll, describe, expect, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { NydusError } from "../../../../src/base/errors.ts";
import { loadKernels } from "../../../../src/format/codec/kernels.ts";

const kernels = await loadKernels();

const SEED = 0x1247;
console.log(`kernels-lz4.test.ts: seed ${SEED}`);

/** A generator of u32 (mulberry32). */
function randomOf(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return (t ^ (t >>> 14)) >>> 0;
  };
}

/** Fills `bytes` from `at` to `end` with a run, a copy of what was before, noise, or text of six letters. */
function fillPart(random: () => number, bytes: Uint8Array, at: number, end: number): void {
  const kind = random() % 4;
  const distance = 1 + (random() % (random() % 2 === 0 ? 20 : 70_000));
  if (kind === 0) bytes.fill(random(), at, end);
  else if (kind === 1) for (let i = at; i < end; i++) bytes[i] = bytes[i - distance] ?? 0;
  else for (let i = at; i < end; i++) bytes[i] = kind === 2 ? random() : 97 + (random() % 6);
}

/** Bytes such as an LZ coder meets. */
function compressible(random: () => number, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length; ) {
    const end = Math.min(length, at + 1 + (random() % (random() % 8 === 0 ? 700 : 40)));
    fillPart(random, bytes, at, end);
    at = end;
  }
  return bytes;
}

/** Bytes of a block, read one by one; past the end it throws. */
function readerOf(block: Uint8Array) {
  let at = 0;
  const byte = (): number => {
    if (at === block.length) throw new RangeError("the block ends");
    return block[at++] as number;
  };
  /** The length whose first part is `nibble`. */
  const length = (nibble: number): number => {
    let sum = nibble;
    for (let more = nibble === 15 ? 255 : 0; more === 255; sum += more) more = byte();
    return sum;
  };
  return { byte, length, atEnd: () => at === block.length };
}

/** The block format a byte at a time, from its description; undefined for what is no block of `size` bytes. */
function decodeByBytes(block: Uint8Array, size: number): Uint8Array | undefined {
  const { byte, length, atEnd } = readerOf(block);
  const out: number[] = [];
  const put = (value: number | undefined): void => {
    if (value === undefined || out.length === size) throw new RangeError("no such byte, or one too many");
    out.push(value);
  };
  try {
    for (;;) {
      const token = byte();
      for (let left = length(token >> 4); left > 0; left--) put(byte());
      if (atEnd()) return out.length === size ? Uint8Array.from(out) : undefined;
      const distance = byte() + byte() * 256;
      for (let left = length(token & 15) + 4; left > 0; left--) put(out[out.length - (distance || -1)]);
    }
  } catch {
    return undefined;
  }
}

/** A block that was cut at a random place, or had up to three bytes changed. */
function mutated(random: () => number, block: Uint8Array): Uint8Array {
  const copy = random() % 8 === 0 ? block.slice(0, random() % (block.length + 1)) : block.slice();
  for (let flips = random() % 4; flips > 0 && copy.length > 0; flips--) copy[random() % copy.length] = random();
  return copy;
}

/** What decompressing gives: the bytes, or the code of the NydusError; anything else thrown fails the test. */
function decompress(block: Uint8Array, size: number): Uint8Array | string {
  try {
    return kernels.lz4Decompress(block, size);
  } catch (error) {
    if (error instanceof NydusError) return error.code;
    throw error;
  }
}

const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");
const latin1 = (value: string): Uint8Array => Uint8Array.from(value, (char) => char.charCodeAt(0));

const SAMPLE = latin1(
  `${Array.from({ length: 120 }, (_, i) => `chunk ${i} of blob ${(i * i) % 7}; `).join("")}${"\0".repeat(100)}${String.fromCharCode(...Array(64).keys())}`,
);
/** Blocks of SAMPLE by lz4 1.9.4, `lz4 -l -1` and `lz4 -l -12` without the legacy frame's eight bytes. */
const BLOCKS_OF_C = {
  fast: "8gRjaHVuayAwIG9mIGJsb2IgMDsgEwAVMRMAFDETABUyEwAUNBMAFTMTABQyEwAeNBMAFTUTAAU5ABU2EwAFXwAVNxMABYUAFTgTAAUmABU5EwAFTAAWMb8ABYYAFjHAAAYUAA/BAAAWMcIABWMAFjHDAAWKABYxxAAGKAAGxQAGjAAGxgAGeAAGxwAGFAAPyAAAFjLIAAVkABYyyAAFjAAWMsgABigABsgABYwAFjLIAAV4ABYyyAAGFAAPyAAAFjLIAAZkAAbIAAaMAAbIAAUoABYzyAAFjAAWM8gABXgAFjPIAAYUAA/IAAAWM8gABmQABsgABYwAFjPIAAYoAAbIAAaMAAbIAAZ4AAbIAAUUAB80yAAAFjTIAAVkABY0yAAFjAAWNMgABigABsgABYwAFjTIAAZ4AAbIAAYUAA/IAAAWNMgABmQABsgABYwAFjXIAAUoABY1yAAFjAAWNcgABXgAFjXIAAYUAA/IAAAWNcgABmQABsgABowABsgABigABsgABowABsgABXgAFjbIAAYUAA/IAAAWNsgABWQAFjbIAAWMABY2yAAGKAAGyAAFjAAWNsgABngABsgABhQAD8gAABY2yAAFZAAWN8gABYwAFjfIAAYoAAbIAAWMABY3yAAFeAAWN8gABhQAD8gAABY3yAAGZAAGyAAGjAAGyAAGKAAGyAAFjAAWOMgABXgAFjjIAAYUAA/IAAAWOMgABWQAFjjIAAWMABY4yAAGKAAGyAAGjAAGyAAGeAAGyAAGFAAPyAAAFjnIAAVkABY5yAAFjAAWOcgAFDHuBhY5yAAFjAAWOcgABXgAFjnIAAYUAA/IAAAWOcgABmQABsgABowABsgABSgAJjEwyQAFjQAmMTDKAAV6ACYxMMsABxUAD8wAACYxMM0AB2kABs4ABZIAJjEwzwAHKgAG0AAHkwAG0QAHfgAG0gAGFQAH2wcGPwAH3AcGaQAWMdIABpMAD94HAgffBwdUAAbSAAd+AAbSAAcVAA/SAAEWMdIAB5MABtIATzA7IAABAFHwMAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw==",
  best: "8gRjaHVuayAwIG9mIGJsb2IgMDsgEwAVMRMAFDETABUyEwAUNBMAFTMTABQyEwAeNBMAHjU5AB42XwAeN4UAHjgmAB45TAAuMTBzAD4xMSAUAC4yIDwAHjNjAD4xNCAPAS41ICgALjYgUAAuNyB4AC44IBQAHjk8AD4yMCB0AR4xjAA+MjIgKAAuMyBQAB40eAA+MjUgFAAuNiA8AC43IGQALjggjAAeOSgAPjMwICkCHjF4AD4zMiAUAC4zIDwALjQgZAAeNYwAPjM2ICgALjcgUAAuOCB4AC45IMoCHjA8AC40MWQALjQyjAA+NDMgKAAuNCBQAC41IHgALjYgFAAuNyA8AC44IGQAHjmMAC41MCgALjUxUAA+NTIguwMuMyAUAC40IDwALjUgZAAuNiCMAC43ICgALjggUAAeOXgAPjYwIBQALjEgXAQeMmQALjYzjAA+NjQgKAAPrAQBLjYgeAAuNyAUAC44IDwALjkg6QQeMIwAPjcxICgAHjJQAC43M3gAPjc0IBQALjUgPAAPdQUBLjcgjAAuOCAoAB45UAAuODB4AD44MSAUAC4yIDwAHjNkAD44NCACBi41ICgALjYgUAAuNyB4AC44IBQAHjk8AD45MCBnBh4xjAA+OTIgKAAuMyBQAB40eAA+OTUgFAAuNiA8AC43IGQALjggjAANWAIACAcfMB0HAQ8KBwEvMDIVAAEfMz8AAR80aQABDX4FABUAHzYqAAEfN1QAAR84fgABHznGBwEP0gABB9wHBmkAB90HBpMAD94HAgffBwdUAB81fgABHzYVAAEP0gABB+MHB2kACYwFHwABAFHwMAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw==",
};

const hasLz4 = spawnSync("lz4", ["--version"]).status === 0;

/** A legacy frame of one block (lz4_Frame_format.md, Legacy frame), which has no checksum. */
function legacyFrame(block: Uint8Array): Uint8Array {
  const frame = new Uint8Array(8 + block.length);
  new DataView(frame.buffer).setUint32(0, 0x184c2102, true);
  new DataView(frame.buffer).setUint32(4, block.length, true);
  frame.set(block, 8);
  return frame;
}

describe("lz4Decompress()", () => {
  test.each(Object.entries(BLOCKS_OF_C))("decodes a block that C lz4 made (%s)", (_, base64) => {
    expect(decompress(Uint8Array.fromBase64(base64), SAMPLE.length)).toEqual(SAMPLE);
  });

  test.skipIf(!hasLz4)("decodes blocks of lz4 -1, -9 and -12 over generated data", () => {
    const random = randomOf(SEED);
    for (const level of ["-1", "-9", "-12"]) {
      for (const length of [13, 100, 5000, 70_000, 1_000_000]) {
        const data = compressible(random, length);
        const frame = spawnSync("lz4", ["-l", level, "-c"], { input: data, maxBuffer: 1 << 26 }).stdout;
        expect(decompress(frame.subarray(8), length)).toEqual(data);
      }
    }
  });

  test("copies matches that overlap themselves, at every distance to 40 and length to 80", () => {
    const literals = Uint8Array.from({ length: 40 }, (_, i) => i * 5 + 1);
    for (let distance = 1; distance <= 40; distance++) {
      for (let length = 4; length <= 80; length++) {
        const more = length - 4 < 15 ? [] : [length - 19];
        const block = Uint8Array.of(0xf0 | Math.min(15, length - 4), 25, ...literals, distance, 0, ...more, 0x10, 9);
        const wanted = decodeByBytes(block, 41 + length);
        expect(wanted).toBeDefined();
        expect(decompress(block, 41 + length)).toEqual(wanted as Uint8Array);
      }
    }
  });

  test.each([
    ["no input", [], 0, "the input ends too early"],
    ["literals that are not there", [0x50, 1, 2], 5, "the input ends too early"],
    ["half an offset", [0x10, 1, 1], 9, "the input ends too early"],
    ["an end after a match", [0x10, 1, 1, 0], 5, "the input ends too early"],
    ["less than wanted", [0x30, 1, 2, 3], 4, "the input ends too early"],
    ["a literal length that never ends", [0xf0, ...Array(99).fill(255)], 1e6, "the input ends too early"],
    ["a match length that never ends", [0x1f, 1, 1, 0, ...Array(99).fill(255)], 1e6, "the input ends too early"],
    ["an offset of zero", [0x10, 1, 0, 0, 0x00], 5, "the input is malformed"],
    ["an offset before the output", [0x10, 1, 2, 0, 0x00], 5, "the input is malformed"],
    ["more literals than wanted", [0x30, 1, 2, 3], 2, "the output is larger than expected"],
    ["a longer match than wanted", [0x10, 1, 1, 0, 0x00], 4, "the output is larger than expected"],
    ["a match of far more than wanted", [0x1f, 1, 1, 0, 255, 255, 0, 0x00], 9, "the output is larger than expected"],
  ] as const)("refuses %s and says what was wanted", (_, block, size, found) => {
    expect(decompress(Uint8Array.from(block), size)).toBe("EUCLEAN");
    expect(() => kernels.lz4Decompress(Uint8Array.from(block), size)).toThrow(
      `Cannot decompress lz4 block: ${found}, ${size} bytes wanted from ${block.length} compressed`,
    );
  });

  test.each([-1, 0.5, Number.NaN, 2 ** 32])("refuses %d as a size", (size) => {
    expect(decompress(Uint8Array.of(0), size)).toBe("EINVAL");
  });

  test("length bytes whose sum passes 2^32 are refused, not wrapped", () => {
    const wrapping = Math.floor(2 ** 32 / 255); // 15 and these sum to 2^32 + 14
    const block = new Uint8Array(2 + wrapping + 14).fill(255, 1, 1 + wrapping);
    block[0] = 0xf0;
    expect(decompress(block, 14)).toBe("EUCLEAN");
  });

  test("mutated blocks give what the format says, or a NydusError, and nothing else", () => {
    const random = randomOf(SEED);
    let decoded = 0;
    for (let round = 0; round < 4000; round++) {
      const size = random() % 600;
      const block = mutated(random, kernels.lz4Compress(compressible(random, size)));
      const wanted = decodeByBytes(block, size);
      if (wanted !== undefined) decoded++;
      expect([round, decompress(block, size)]).toEqual([round, wanted ?? "EUCLEAN"]);
    }
    expect(decoded).toBeGreaterThan(1000);
  });
});

describe("lz4Compress()", () => {
  test("gives blocks that the format's description decodes, at every length to 100 and some above", () => {
    const random = randomOf(SEED);
    for (const length of [...Array(100).keys(), 255, 270, 4096, 65_535, 65_536, 65_550, 200_000]) {
      for (const data of [compressible(random, length), new Uint8Array(length), Uint8Array.from({ length }, random)]) {
        const block = kernels.lz4Compress(data);
        expect(decodeByBytes(block, length)).toEqual(data);
        expect(decompress(block, length)).toEqual(data);
      }
    }
  });

  test.skipIf(!hasLz4)("gives blocks that C lz4 decodes", () => {
    const random = randomOf(SEED);
    for (const length of [1, 12, 13, 14, 100, 5000, 70_000, 4_000_000]) {
      const data = compressible(random, length);
      const lz4 = spawnSync("lz4", ["-d", "-c"], { input: legacyFrame(kernels.lz4Compress(data)), maxBuffer: 1 << 26 });
      expect(sha256(lz4.stdout)).toBe(sha256(data));
    }
  });

  test.each([65_534, 65_535, 65_536, 65_537])("a repetition %d bytes on is decoded right", (distance) => {
    const random = randomOf(SEED);
    const data = new Uint8Array(distance + 100);
    for (let i = 0; i < 60; i++) data[i] = random() | 1;
    data.copyWithin(distance, 0, 60);
    const block = kernels.lz4Compress(data);
    expect(decodeByBytes(block, data.length)).toEqual(data);
    expect(block.length < 400).toBe(true);
  });

  test("a block ends in five literals and begins no match in its last twelve bytes, as C decoders count on", () => {
    for (let length = 13; length < 60; length++) {
      const block = kernels.lz4Compress(new Uint8Array(length));
      expect(block.subarray(-5)).toEqual(new Uint8Array(5));
      expect((block.at(-6) as number) >> 4).toBeGreaterThanOrEqual(5);
    }
  });

  test("the same input gives the same bytes, whatever came before, on any machine", async () => {
    const data = compressible(randomOf(SEED), 300_000);
    const first = kernels.lz4Compress(data);
    kernels.lz4Compress(compressible(randomOf(SEED + 1), 500_000));
    expect(kernels.lz4Compress(data)).toEqual(first);
    expect((await loadKernels()).lz4Compress(data)).toEqual(first);
    expect(sha256(kernels.lz4Compress(SAMPLE))).toBe(
      "862f65fd58aed55c1e9f2f40a7b38c3a8c104e07f0e76d90e3095acf0b5fd856",
    );
  });

  test("does not compress worse than C lz4 by more than a fiftieth", () => {
    expect(kernels.lz4Compress(SAMPLE).length).toBeLessThan(Uint8Array.fromBase64(BLOCKS_OF_C.fast).length * 1.02);
  });

  test("incompressible input grows by no more than the format's bound", () => {
    const data = Uint8Array.from({ length: 100_000 }, randomOf(SEED));
    expect(kernels.lz4Compress(data).length).toBeLessThanOrEqual(data.length + Math.ceil(data.length / 255) + 16);
  });
});

test("64 MiB go through both ways, after which small calls still work", () => {
  const data = new Uint8Array(64 << 20);
  data.set(compressible(randomOf(SEED), 1 << 20), 32 << 20);
  const block = kernels.lz4Compress(data);
  expect(sha256(kernels.lz4Decompress(block, data.length))).toBe(sha256(data));
  expect(decompress(Uint8Array.of(0x10, 7), 1)).toEqual(Uint8Array.of(7));
});

afterAll(() => {
  if (!hasLz4) console.log("kernels-lz4.test.ts: no lz4 program, its differential tests were skipped");
});
