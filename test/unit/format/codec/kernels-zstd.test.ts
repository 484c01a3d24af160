import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { constants, zstdCompressSync } from "node:zlib";
import { type ErrorCode, NydusError } from "../../../../src/base/errors.ts";
import { loadKernels } from "../../../../src/format/codec/kernels.ts";
import { mutate, Random } from "../../../kit/random.ts";
import { concat, frameHeader, littleEndian, noteForms } from "../../../kit/zstd-frames.ts";

const kernels = await loadKernels();

setDefaultTimeout(60_000); // for busy machines; each test takes a second or two

const SEED = 0x8878;
console.log(`kernels-zstd.test.ts: seed ${SEED}`);

const hasZstd = spawnSync("zstd", ["--version"]).status === 0;

interface Parameters {
  readonly checksum?: boolean;
  readonly contentSize?: boolean;
  readonly windowLog?: number;
  readonly longDistance?: boolean;
}

function compress(data: Uint8Array, level: number, parameters: Parameters = {}): Uint8Array {
  const { checksum = false, contentSize = true, windowLog, longDistance = false } = parameters;
  const params = {
    [constants.ZSTD_c_compressionLevel]: level,
    [constants.ZSTD_c_checksumFlag]: Number(checksum),
    [constants.ZSTD_c_contentSizeFlag]: Number(contentSize),
    [constants.ZSTD_c_enableLongDistanceMatching]: Number(longDistance),
    ...(windowLog === undefined ? {} : { [constants.ZSTD_c_windowLog]: windowLog }),
  };
  return new Uint8Array(zstdCompressSync(data, { params }));
}

function zstdProgram(args: readonly string[], input: Uint8Array): Uint8Array {
  const { stdout, stderr, status } = spawnSync("zstd", ["-q", "-c", ...args], { input, maxBuffer: 1 << 28 });
  if (status !== 0) throw new Error(`zstd ${args.join(" ")}: ${stderr}`);
  return new Uint8Array(stdout);
}

/** Words with a skewed distribution, as text has. */
function textOf(random: Random, length: number): Uint8Array {
  const words = Array.from({ length: 400 }, () =>
    String.fromCharCode(
      ...Array.from({ length: random.between(2, 9) }, () => 97 + random.below(random.between(3, 26))),
    ),
  );
  const parts: string[] = [];
  for (let size = 0; size < length; size += 4)
    parts.push(words[random.below(random.between(1, words.length))] as string);
  return new TextEncoder().encode(parts.join(" ")).subarray(0, length);
}

/** Records of 16 bytes: a counter, a small number, a pointer-like number, flags. */
function recordsOf(random: Random, length: number): Uint8Array {
  const bytes = new Uint8Array(length + 16);
  const view = new DataView(bytes.buffer);
  for (let at = 0; at < length; at += 16) {
    view.setUint32(at, at, true);
    view.setUint16(at + 4, random.below(50), true);
    view.setUint32(at + 8, 0x400000 + random.below(1 << 12) * 8, true);
    view.setUint8(at + 12, random.pick([0, 1, 4]));
  }
  return bytes.subarray(0, length);
}

/** Stretches of all kinds. */
function mixedOf(random: Random, length: number): Uint8Array {
  const kinds = [textOf, recordsOf, (r: Random, n: number) => r.bytes(n), (r: Random, n: number) => r.bytes(n).fill(7)];
  const parts: Uint8Array[] = [];
  for (let size = 0; size < length; ) {
    const part = random.pick(kinds)(random, random.between(1, 40_000));
    parts.push(part);
    size += part.length;
  }
  return concat(...parts).subarray(0, length);
}

const CORPORA: Readonly<Record<string, (random: Random, length: number) => Uint8Array>> = {
  "a run": (_, length) => new Uint8Array(length).fill(0x61),
  "a short period": (_, length) => Uint8Array.from({ length }, (_, i) => (i % 11) * 3),
  noise: (random, length) => random.bytes(length),
  "few letters": (random, length) => Uint8Array.from({ length }, () => 97 + random.below(6)),
  "records of noise and constants": (random, length) => {
    const bytes = Uint8Array.from({ length: length + 32 }, (_, i) => i % 32);
    for (let at = 0; at < length; at += 32) bytes.set(random.bytes(8), at);
    return bytes.subarray(0, length);
  },
  "words of three bytes": (random, length) => {
    const words = Array.from({ length: 64 }, () => random.bytes(3));
    return concat(...Array.from({ length: Math.ceil(length / 3) }, () => random.pick(words))).subarray(0, length);
  },
  text: textOf,
  records: recordsOf,
  mixed: mixedOf,
  "a real program": (_, length) => readFileSync(process.execPath).subarray(2_000_000, 2_000_000 + length),
};

/** Compares without printing megabytes. */
function expectSame(found: Uint8Array, wanted: Uint8Array): void {
  expect(found.length).toBe(wanted.length);
  expect(Buffer.compare(found, wanted)).toBe(0);
}

function failure(fn: () => unknown): { code: ErrorCode; message: string } | undefined {
  try {
    fn();
    return undefined;
  } catch (error) {
    if (!(error instanceof NydusError)) throw error;
    return { code: error.code, message: error.message };
  }
}

/** What the runtime's decoder gives; undefined when it refuses. */
function nativeDecode(frame: Uint8Array): Uint8Array | undefined {
  try {
    return new Uint8Array(Bun.zstdDecompressSync(frame));
  } catch {
    return undefined;
  }
}

describe("zstdDecompress() gives back what zstd compressed", () => {
  const random = new Random(SEED);

  test.each(Object.keys(CORPORA))("%s, at every level", (name) => {
    const data = (CORPORA[name] as (typeof CORPORA)[string])(random, 200_000);
    for (let level = -5; level <= 22; level++) {
      const frame = compress(data, level, { checksum: level % 2 === 0, contentSize: level % 3 !== 0 });
      expectSame(kernels.zstdDecompress(frame, data.length), data);
    }
  });

  test.each(Object.keys(CORPORA))("%s, at every size from 0 to 300 and about block boundaries", (name) => {
    const whole = (CORPORA[name] as (typeof CORPORA)[string])(random, 262_150);
    const sizes = [...Array(301).keys(), 1023, 1024, 1025, 16_383, 16_384, 65_791, 65_792];
    for (const size of [...sizes, 131_071, 131_072, 131_073, 262_143, 262_144, 262_145]) {
      const data = whole.subarray(0, size);
      for (const level of [1, 3, 19]) {
        const frame = compress(data, level, { checksum: true, contentSize: size % 2 === 0 });
        expectSame(kernels.zstdDecompress(frame, size), data);
      }
    }
  });

  test("several MiB, with windows from 1 KiB to 8 MiB and long distance matching", () => {
    const part = mixedOf(random, 3_000_000);
    const data = concat(part, random.bytes(500_000), part);
    for (const windowLog of [10, 11, 13, 17, 20, 23]) {
      for (const level of [1, 3, 6]) {
        const frame = compress(data, level, { windowLog, longDistance: level === 6, checksum: true });
        expectSame(kernels.zstdDecompress(frame, data.length), data);
      }
    }
  });

  test("all forms of blocks, literals and tables that the encoder has are among them", () => {
    const forms = new Set<string>();
    const small = [...Array(200).keys()].map((i) => textOf(random, 40 + 5 * i));
    for (const data of [mixedOf(random, 1_000_000), ...Object.values(CORPORA).map((make) => make(random, 300_000))]) {
      for (const level of [1, 3, 19]) noteForms(compress(data, level), forms);
    }
    for (const data of small) noteForms(compress(data, 19), forms);
    const tables = ["literal lengths", "offsets", "match lengths"].flatMap((kind) =>
      ["predefined", "rle", "fse", "repeat"].map((mode) => `${kind} ${mode}`),
    );
    const literals = [
      "raw",
      "compressed, 1 streams",
      "compressed, 4 streams",
      "treeless, 1 streams",
      "treeless, 4 streams",
    ];
    const blocks = ["block raw", "block rle", "block compressed", "no sequences"];
    const counts = ["sequences counted by 1 bytes", "sequences counted by 2 bytes"];
    const wanted = [...tables, ...literals.map((type) => `literals ${type}`), ...blocks, ...counts];
    expect(wanted.filter((form) => !forms.has(form))).toEqual([]);
    expect([...forms]).toContain("weights fse");
  });

  test("frames end to end, empty ones, and skippable ones before, between and after them", () => {
    const parts = [textOf(random, 5000), new Uint8Array(0), recordsOf(random, 140_000)];
    const skippable = (low: number, size: number) =>
      concat(littleEndian(0x184d2a50 + low, 4), littleEndian(size, 4), random.bytes(size));
    const frames = parts.flatMap((part, i) => [skippable(i * 5, i * 100), compress(part, 3, { checksum: true })]);
    const input = concat(...frames, skippable(15, 70_000), skippable(1, 0));
    const wanted = concat(...parts);
    expectSame(kernels.zstdDecompress(input, wanted.length), wanted);
    expectSame(kernels.zstdDecompress(skippable(3, 9), 0), new Uint8Array(0));
  });

  test.skipIf(!hasZstd)("what the zstd program writes: --ultra -22 --long=27, --no-check, --fast, many threads", () => {
    const part = mixedOf(random, 400_000);
    const data = concat(part, random.bytes(300_000), part, textOf(random, 1_500_000));
    const flags = [
      ["--ultra", "-22", "--long=27"],
      ["--no-check"],
      ["--fast=7"],
      ["-T2", "-B65536"],
      ["--no-content-size"],
    ];
    for (const args of flags) expectSame(kernels.zstdDecompress(zstdProgram(args, data), data.length), data);
  });
});

describe("zstdDecompress() refuses", () => {
  const random = new Random(SEED + 1);
  const data = textOf(random, 3000);
  const frame = compress(data, 3, { checksum: true });

  test("a frame that is cut after any of its bytes", () => {
    for (let length = 0; length < frame.length; length++) {
      const { code, message } = failure(() => kernels.zstdDecompress(frame.subarray(0, length), data.length)) ?? {};
      expect(code).toBe("EUCLEAN");
      expect(message).toContain("ends too early");
    }
  });

  test("another size than the frame gives", () => {
    for (const contentSize of [true, false]) {
      const sized = compress(data, 3, { contentSize });
      for (const size of [0, 1, data.length - 1]) {
        const { code, message } = failure(() => kernels.zstdDecompress(sized, size)) ?? {};
        expect(code).toBe("EUCLEAN");
        expect(message).toContain("larger than expected");
      }
      for (const size of [data.length + 1, data.length + 100_000]) {
        expect(failure(() => kernels.zstdDecompress(sized, size))?.message).toContain("ends too early");
      }
    }
  });

  test("a checksum that does not match, in each of its bits", () => {
    for (let bit = 0; bit < 32; bit++) {
      const bytes = frame.slice();
      const at = bytes.length - 4 + (bit >> 3);
      bytes[at] = (bytes[at] as number) ^ (1 << (bit & 7));
      expect(failure(() => kernels.zstdDecompress(bytes, data.length))?.code).toBe("EBADMSG");
    }
  });

  test("frames of older versions, without a magic number, gzip data, and bytes after the last frame", () => {
    const magics = [0xfd2fb527, 0xfd2fb522, 0x1eb52ffd, 0x184d2a4f, 0x184d2a60];
    const inputs = magics.map((magic) => concat(littleEndian(magic, 4), frame.subarray(4)));
    for (const input of [...inputs, frame.subarray(4), Bun.gzipSync(data.slice()), concat(frame, random.bytes(9))]) {
      expect(failure(() => kernels.zstdDecompress(input, data.length))?.code).toBe("EUCLEAN");
    }
  });

  test("a content size of 2^63 bytes, before it is looked for memory", () => {
    const input = concat(frameHeader({ contentBytes: 1n << 63n, extraFlags: 0x20 }), littleEndian(1, 3));
    expect(failure(() => kernels.zstdDecompress(input, 100))?.message).toContain("larger than expected");
  });

  test.skipIf(!hasZstd)("frames that were made with a dictionary of the zstd program", () => {
    const dir = mkdtempSync(join(tmpdir(), "nydus-zstd-"));
    try {
      const samples = Array.from({ length: 300 }, (_, i) => join(dir, `sample-${i}`));
      for (const path of samples)
        writeFileSync(path, textOf(new Random(1 + random.below(5)), random.between(200, 900)));
      const dictionary = join(dir, "dictionary");
      const args = ["-q", "--train", ...samples, "--maxdict=4096", "-o", dictionary];
      expect(spawnSync("zstd", args).status).toBe(0);
      const made = zstdProgram(["-D", dictionary], data);
      expect(failure(() => kernels.zstdDecompress(made, data.length))?.code).toBe("ENOTSUP");
      expectSame(zstdProgram(["-d", "-D", dictionary], made), data);
    } finally {
      rmSync(dir, { recursive: true });
    }
  });
});

/** Whether the first frame's window is of 256 MiB or more. */
function hasHugeWindow(frame: Uint8Array): boolean {
  const [descriptor = 0, windowByte = 0] = frame.subarray(4);
  return (descriptor & 0x20) === 0 && windowByte >> 3 >= 28 - 10;
}

describe("mutated frames", () => {
  const random = new Random(SEED + 2);

  /** Small frames of all kinds: without checksums, or no mutation would get far. */
  function victims(): { data: Uint8Array; frame: Uint8Array }[] {
    const sizes = [30, 400, 3000, 9000];
    const inputs = Object.values(CORPORA).flatMap((make) => sizes.map((size) => make(random, size)));
    const blocks = concat(textOf(random, 135_000), recordsOf(random, 4000));
    return [...inputs, blocks].flatMap((data) =>
      [1, 19].map((level) => ({ data, frame: compress(data, level, { contentSize: random.chance(0.5) }) })),
    );
  }

  test("give bytes of the right number or a NydusError, and nothing that the runtime's decoder does not give", () => {
    const frames = victims();
    let given = 0;
    for (let i = 0; i < 6000; i++) {
      const { data, frame } = random.pick(frames);
      const mutated = mutate(frame, random);
      let found: Uint8Array | undefined;
      const refused = failure(() => {
        found = kernels.zstdDecompress(mutated, data.length);
      });
      if (refused !== undefined) expect(["EUCLEAN", "EBADMSG", "ENOTSUP"]).toContain(refused.code);
      if (found === undefined) continue; // the runtime's takes a little more: Huffman streams that end too early
      expect(found.length).toBe(data.length);
      if (hasHugeWindow(mutated)) continue; // the runtime's takes a little less: the window does not matter here
      given++;
      const native = nativeDecode(mutated);
      if (native === undefined || Buffer.compare(native, found) !== 0)
        throw new Error(`case ${i}: the runtime differs`);
    }
    expect(given).toBeGreaterThan(50);
  });

  test("leave the core as it was: the next whole frame is decoded right", () => {
    const data = mixedOf(random, 300_000);
    const frame = compress(data, 3, { checksum: true });
    for (let i = 0; i < 100; i++) {
      failure(() => kernels.zstdDecompress(mutate(frame, random), data.length));
      if (i % 10 === 0) expectSame(kernels.zstdDecompress(frame, data.length), data);
    }
  });
});

afterAll(() => {
  if (!hasZstd) console.log("kernels-zstd.test.ts: no zstd program, its tests were skipped");
});
