import { afterAll, describe, expect, test } from "bun:test";
import * as zlib from "node:zlib";
import { NydusError } from "../../../../src/base/errors.ts";
import { loadKernels } from "../../../../src/format/codec/kernels.ts";
import { codeOf, faultOf, streamOf, TRUNCATED } from "../../../kit/decode-stream.ts";
import { compressible, deflateSamples, STRATEGIES } from "../../../kit/deflate-samples.ts";
import { concat, EMPTY, MiB, member, utf8 } from "../../../kit/deflate-writer.ts";
import { mutate, Random } from "../../../kit/random.ts";

const kernels = await loadKernels();
type Format = "gzip" | "raw-deflate";

const stream = streamOf(kernels);

/** For tests of many cases on a busy machine. */
const SLOW_MS = 60_000;

const SEED = 0x1951;
console.log(`kernels-inflate-stream.test.ts: seed ${SEED}`);
const random = new Random(SEED);
const samples = deflateSamples(SEED);

describe("input that ends too early", () => {
  const data = compressible(random, 2500);

  test.each<[string, Format, Uint8Array]>([
    [
      "gzip with all fields",
      "gzip",
      member(data, { extra: random.bytes(9), name: "n", comment: "c", headerCrc: true }),
    ],
    ["raw, dynamic", "raw-deflate", zlib.deflateRawSync(data)],
    ["raw, fixed", "raw-deflate", zlib.deflateRawSync(data, { strategy: zlib.constants.Z_FIXED })],
    ["raw, stored", "raw-deflate", zlib.deflateRawSync(data, { level: 0 })],
  ])("%s, cut at every byte, is truncated", (_, format, compressed) => {
    for (let end = 0; end < compressed.length; end++) {
      const cut = compressed.subarray(0, end);
      expect(faultOf(() => kernels.inflate(format, cut, data.length))).toBe(TRUNCATED);
      const { output, mayEnd } = stream(format, cut, MiB, MiB);
      expect(mayEnd).toBe(false);
      expect(output).toEqual(data.subarray(0, output.length));
    }
  });

  test("a stream of members may end between them only", () => {
    const [first, second] = [member(data), member(data, { name: "n" })];
    const both = concat(first, second);
    using decoder = kernels.openDecoder("gzip", 0);
    expect(decoder.push(EMPTY, 10).atBoundary).toBe(false);
    const ends: number[] = [];
    for (const [i, byte] of both.entries()) {
      if (decoder.push(Uint8Array.of(byte), MiB).atBoundary) ends.push(i + 1);
    }
    expect(ends).toEqual([first.length, both.length]);
    expect(decoder.push(EMPTY, 10)).toEqual({ output: EMPTY, consumed: 0, atBoundary: true });
  });
});

describe("openDecoder()", () => {
  const small = compressible(random, 400);
  const forms: readonly [string, Format, Uint8Array][] = [
    ["gzip", "gzip", member(small, { extra: random.bytes(5), name: "name", comment: "comment", headerCrc: true })],
    ["two members", "gzip", concat(member(small.subarray(0, 99)), member(small.subarray(99)))],
    ["dynamic", "raw-deflate", zlib.deflateRawSync(small)],
    ["fixed", "raw-deflate", zlib.deflateRawSync(small, { strategy: zlib.constants.Z_FIXED })],
    ["stored", "raw-deflate", zlib.deflateRawSync(small, { level: 0 })],
  ];

  test.each(forms)(
    "%s in pieces of every size gives the same",
    (_, format, compressed) => {
      for (let size = 1; size <= compressed.length; size++) {
        for (const limit of [1, 301, MiB]) {
          const pieces = stream(format, compressed, size, limit);
          expect(pieces).toEqual({ output: small, mayEnd: true });
        }
      }
    },
    SLOW_MS,
  );

  test.each(Object.entries(samples))(
    "%s, in random pieces, gives the same",
    (_, data) => {
      const pieces = new Random(SEED);
      for (const level of [0, 1, 6, 9]) {
        for (const most of [40, 3000, 100_000]) {
          const split = stream(
            "gzip",
            zlib.gzipSync(data, { level }),
            () => pieces.between(0, most),
            () => pieces.between(1, most),
          );
          expect(split).toEqual({ output: data, mayEnd: true });
        }
      }
    },
    SLOW_MS,
  );

  test("a limit of nothing takes input and gives nothing", () => {
    using decoder = kernels.openDecoder("gzip", 0);
    expect(decoder.push(zlib.gzipSync(small), 0).output).toEqual(EMPTY);
    expect(decoder.push(EMPTY, 0)).toEqual({ output: EMPTY, consumed: 0, atBoundary: false });
  });

  test("two at once do not mix", () => {
    const [one, two] = [compressible(random, 50_000), compressible(random, 50_000)];
    const [gzOne, gzTwo] = [zlib.gzipSync(one), zlib.deflateRawSync(two)];
    using first = kernels.openDecoder("gzip", 0);
    using second = kernels.openDecoder("raw-deflate", 0);
    const [outOne, outTwo] = [[EMPTY], [EMPTY]];
    for (let at = 0; at < Math.max(gzOne.length, gzTwo.length); at += 700) {
      outOne.push(first.push(gzOne.subarray(at, at + 700), MiB).output);
      outTwo.push(second.push(gzTwo.subarray(at, at + 700), MiB).output);
    }
    expect(concat(...outOne)).toEqual(one);
    expect(concat(...outTwo)).toEqual(two);
  });

  test("a decoder that failed fails again, and a new one in its place starts clean", () => {
    for (let i = 0; i < 100; i++) {
      using decoder = kernels.openDecoder("gzip", 0);
      expect(decoder.push(zlib.gzipSync(small), MiB).atBoundary).toBe(true);
      expect(codeOf(() => decoder.push(utf8("no gzip member"), MiB))).toBe("EUCLEAN");
      expect(codeOf(() => decoder.push(EMPTY, MiB))).toBe("EUCLEAN");
    }
    expect(stream("gzip", zlib.gzipSync(small), MiB, MiB)).toEqual({ output: small, mayEnd: true });
  });
});

/** What zlib makes of a raw stream: undefined unless it is whole and nothing follows. */
function zlibRaw(raw: Uint8Array): Uint8Array | undefined {
  try {
    const { buffer, engine } = zlib.inflateRawSync(raw, { info: true, maxOutputLength: MiB }) as unknown as {
      buffer: Buffer;
      engine: { bytesWritten: number };
    };
    return engine.bytesWritten === raw.length ? new Uint8Array(buffer) : undefined;
  } catch {
    return undefined;
  }
}

/** What the core makes of it, in pieces; undefined for a NydusError or an end too early. */
function coreRaw(raw: Uint8Array, pieces: Random): Uint8Array | undefined {
  const most = pieces.pick([3, 100, 100_000]);
  try {
    const { output, mayEnd } = stream(
      "raw-deflate",
      raw,
      () => pieces.between(1, most),
      () => pieces.between(1, most),
    );
    return mayEnd ? output : undefined;
  } catch (error) {
    if (error instanceof NydusError) return undefined;
    throw error;
  }
}

describe("damaged input", () => {
  test(
    `raw streams with seeded faults give what zlib gives, or a NydusError (seed ${SEED})`,
    () => {
      const faults = new Random(SEED);
      const strategies = Object.values(STRATEGIES);
      let whole = 0;
      for (let i = 0; i < 1500; i++) {
        const data = compressible(faults, faults.below(2500));
        const raw = zlib.deflateRawSync(data, { level: faults.pick([1, 6, 9]), strategy: faults.pick(strategies) });
        const bad = mutate(new Uint8Array(raw), faults);
        const wanted = zlibRaw(bad);
        const found = coreRaw(bad, faults);
        if (!Bun.deepEquals(found, wanted)) throw new Error(`case ${i} of seed ${SEED}: zlib and the core differ`);
        if (wanted === undefined)
          expect(codeOf(() => kernels.inflate("raw-deflate", bad, data.length))).not.toBe("none");
        else expect(kernels.inflate("raw-deflate", bad, wanted.length)).toEqual(wanted);
        if (wanted !== undefined) whole++;
      }
      expect(whole).toBeGreaterThan(20);
    },
    SLOW_MS,
  );

  test(
    `gzip files with seeded faults give their data or a NydusError (seed ${SEED})`,
    () => {
      const faults = new Random(SEED + 1);
      for (let i = 0; i < 1500; i++) {
        const data = compressible(faults, faults.below(3000));
        const bad = mutate(concat(member(data, { name: "n", headerCrc: true }), member(data)), faults);
        const code = codeOf(() => {
          const output = kernels.inflate("gzip", bad, data.length * 2);
          expect(output).toEqual(concat(data, data));
        });
        expect(["none", "EUCLEAN", "EBADMSG"]).toContain(code);
      }
    },
    SLOW_MS,
  );

  test(
    `random bytes end in a NydusError or as zlib ends (seed ${SEED})`,
    () => {
      const noise = new Random(SEED + 2);
      for (let i = 0; i < 10_000; i++) {
        const bytes = noise.bytes(noise.between(0, 400));
        // begin with a dynamic or fixed block often
        if (bytes.length > 0 && noise.chance(0.7)) bytes[0] = ((bytes[0] as number) & 0xf8) | noise.pick([2, 3, 4, 5]);
        if (!Bun.deepEquals(coreRaw(bytes, noise), zlibRaw(bytes))) {
          throw new Error(`case ${i} of seed ${SEED + 2}: zlib and the core differ`);
        }
        expect(codeOf(() => kernels.inflate("gzip", bytes, 1000))).toBe("EUCLEAN");
      }
    },
    SLOW_MS,
  );
});

afterAll(() => {
  expect(kernels.inflate("gzip", zlib.gzipSync("still well"), 10)).toEqual(utf8("still well"));
});
