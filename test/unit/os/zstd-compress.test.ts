import { expect, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { NydusError } from "../../../src/base/errors.ts";
import { loadCodecs } from "../../../src/os/codecs.ts";
import { zstdCompressor } from "../../../src/os/zstd-compress.ts";

/** Bytes that compress, but not to nothing. */
function sample(length: number, seed: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(length);
  let state = seed;
  for (let i = 0; i < length; i++) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    bytes[i] = i % 7 === 0 ? state >>> 24 : "nydus".charCodeAt(i % 5);
  }
  return bytes;
}

const SIZES = [0, 1, 511, 4096, 70_000, 1 << 20, 3_000_001];

test.each([1, 2, 5, 9])("one context makes the frames of level %d that a context each makes", (level) => {
  const compress = zstdCompressor();
  for (const size of SIZES) {
    const data = sample(size, size + level);
    expect(Buffer.compare(compress(data, level), Bun.zstdCompressSync(data, { level }))).toBe(0);
  }
});

test("frames of level 3 declare their size, decode, and are at most 2 % larger than zstd's own", () => {
  const compress = zstdCompressor();
  for (const size of SIZES) {
    const data = sample(size, size);
    const frame = compress(data, 3).slice();
    expect(Buffer.compare(Bun.zstdDecompressSync(frame), data)).toBe(0);
    expect(frame.length).toBeLessThanOrEqual(Bun.zstdCompressSync(data, { level: 3 }).length * 1.02);
    const listed = spawnSync("zstd", ["-d", "-c"], { input: frame, maxBuffer: 1 << 24 });
    if (listed.error === undefined) expect(Buffer.compare(listed.stdout, data)).toBe(0);
  }
});

test("what a context makes does not depend on what it made before", () => {
  const compress = zstdCompressor();
  const data = sample(300_000, 1);
  const first = compress(data, 3).slice();
  for (const [i, size] of SIZES.entries()) compress(sample(size, i), i % 2 === 0 ? 3 : 7);
  expect(Buffer.compare(compress(data, 3), first)).toBe(0);
});

test.each([0, 23, -1, 2.5, Number.NaN])("refuses level %d", (level) => {
  expect(() => zstdCompressor()(sample(10, 1), level)).toThrow(NydusError);
});

test("compress() gives bytes of its own, compressToView() may give the same memory again", async () => {
  const codecs = await loadCodecs();
  const [one, two] = [sample(5000, 1), sample(5000, 2)];
  const kept = codecs.compress("zstd", one, 3);
  const before = kept.slice();
  expect(codecs.compressToView("zstd", one, 3)).toEqual(kept);
  codecs.compressToView("zstd", two, 3);
  expect(kept).toEqual(before);
});
