import { describe, expect, test } from "bun:test";
import { spawnSync } from "node:child_process";
import * as zlib from "node:zlib";
import { deflateSync, gzipSync } from "fflate";
import { loadKernels } from "../../../../src/format/codec/kernels.ts";
import { CORRUPT, faultOf, streamOf, TOO_LARGE, TRUNCATED } from "../../../kit/decode-stream.ts";
import { compressible, deflateSamples, STRATEGIES } from "../../../kit/deflate-samples.ts";
import {
  BitWriter,
  canonical,
  concat,
  dynamicHeader,
  EMPTY,
  lengthsOf,
  MiB,
  utf8,
} from "../../../kit/deflate-writer.ts";
import { Random } from "../../../kit/random.ts";

const kernels = await loadKernels();
const stream = streamOf(kernels);

const SEED = 0x1951;
console.log(`kernels-inflate.test.ts: seed ${SEED}`);
const random = new Random(SEED);
const samples = deflateSamples(SEED);

describe("inflate() reads what others write", () => {
  for (const [name, data] of Object.entries(samples)) {
    test.each([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])(`${name}: zlib level %d`, (level) => {
      expect(kernels.inflate("gzip", zlib.gzipSync(data, { level }), data.length)).toEqual(data);
      expect(kernels.inflate("raw-deflate", zlib.deflateRawSync(data, { level }), data.length)).toEqual(data);
    });

    test.each(Object.entries(STRATEGIES))(`${name}: zlib strategy %s`, (_, strategy) => {
      for (const memLevel of [1, 9]) {
        const raw = zlib.deflateRawSync(data, { strategy, memLevel });
        expect(kernels.inflate("raw-deflate", raw, data.length)).toEqual(data);
        expect(stream("raw-deflate", raw, MiB, MiB)).toEqual({ output: data, mayEnd: true });
      }
    });

    test(`${name}: fflate`, () => {
      for (const level of [0, 1, 6, 9] as const) {
        expect(kernels.inflate("gzip", gzipSync(data, { level, filename: "x" }), data.length)).toEqual(data);
        expect(kernels.inflate("raw-deflate", deflateSync(data, { level }), data.length)).toEqual(data);
      }
    });
  }

  test.skipIf(Bun.which("gzip") === null)("gzip(1) -1, -6 and -9", () => {
    const data = samples["mixed data"] as Uint8Array;
    for (const level of ["-1", "-6", "-9"]) {
      const { stdout } = spawnSync("gzip", [level, "-c"], { input: data, maxBuffer: MiB });
      expect(kernels.inflate("gzip", stdout, data.length)).toEqual(data);
    }
  });

  test("a stream with empty blocks between, as flushing makes them", () => {
    const [raw, data] = [[EMPTY], [EMPTY]];
    for (let i = 0; i < 50; i++) {
      const part = compressible(random, random.below(3000));
      const flushed = zlib.deflateRawSync(part, { finishFlush: zlib.constants.Z_FULL_FLUSH });
      raw.push(new Uint8Array(flushed));
      data.push(part);
    }
    raw.push(new BitWriter().number(1, 1).number(1, 2).code("0000000").bytes());
    const wanted = concat(...data);
    expect(kernels.inflate("raw-deflate", concat(...raw), wanted.length)).toEqual(wanted);
  });

  test("matches at every distance from 1 to 40 and every length, and at 32768", () => {
    for (let distance = 1; distance <= 40; distance++) {
      const unit = random.bytes(distance);
      const data = concat(...Array.from({ length: 300 }, (_, i) => concat(unit, unit, unit.subarray(0, i % distance))));
      expect(kernels.inflate("raw-deflate", zlib.deflateRawSync(data, { level: 9 }), data.length)).toEqual(data);
    }
    const far = random.bytes(32_768);
    const writer = new BitWriter().number(0, 1).number(0, 2).number(0, 5).number(32_768, 16).number(32_767, 16);
    for (const byte of far) writer.number(byte, 8);
    // a fixed block: length 258 at distance 32768, the end
    writer.number(1, 1).number(1, 2).code("11000101").code("11101").number(8191, 13).code("0000000");
    const data = concat(far, far.subarray(0, 258));
    expect(kernels.inflate("raw-deflate", writer.bytes(), data.length)).toEqual(data);
    const oneByte = stream("raw-deflate", writer.bytes(), 999, 1);
    expect(oneByte.output).toEqual(data);
  });
});

describe("codes of inflate()", () => {
  test("of 15 bits, for literals, lengths and distances", () => {
    const litlens = lengthsOf(286, { 97: 1, 98: 2, 99: 3, 100: 4, 101: 5, 102: 6, 103: 7, 104: 8, 105: 9, 106: 10 });
    for (const [i, symbol] of [107, 108, 109, 256].entries()) litlens[symbol] = 11 + i;
    litlens[284] = 15;
    litlens[285] = 15;
    const distances = lengthsOf(30, Object.fromEntries(Array.from({ length: 14 }, (_, i) => [i, i + 1])));
    distances[14] = 15;
    distances[29] = 15;
    const lit = canonical(litlens);
    const dist = canonical(distances);
    const writer = dynamicHeader(litlens, distances);
    const data: number[] = [];
    for (let i = 0; i < 30_000; i++) {
      const literal = 97 + random.below(13);
      writer.code(lit[literal] as string);
      data.push(literal);
    }
    const copy = (length: number, distance: number): void => {
      for (let i = 0; i < length; i++) data.push(data[data.length - distance] as number);
    };
    for (let i = 0; i < 500; i++) {
      const [short, long, far] = [random.below(64), random.below(31), random.below(4096)];
      writer
        .code(lit[285] as string)
        .code(dist[14] as string)
        .number(short, 6);
      copy(258, 129 + short);
      writer
        .code(lit[284] as string)
        .number(long, 5)
        .code(dist[29] as string)
        .number(far, 13);
      copy(227 + long, 24_577 + far);
      writer.code(lit[109] as string);
      data.push(109);
    }
    writer.code(lit[256] as string);
    const wanted = Uint8Array.from(data);
    const raw = writer.bytes();
    expect(new Uint8Array(zlib.inflateRawSync(raw))).toEqual(wanted);
    expect(kernels.inflate("raw-deflate", raw, wanted.length)).toEqual(wanted);
    const pieces = new Random(SEED);
    const split = stream(
      "raw-deflate",
      raw,
      () => pieces.between(1, 60),
      () => pieces.between(1, 500),
    );
    expect(split).toEqual({ output: wanted, mayEnd: true });
  });

  test("one distance of one bit, or none at all, is a code", () => {
    const litlens = lengthsOf(286, { 97: 1, 256: 2, 257: 2 });
    const one = dynamicHeader(litlens, [1]).code("0").code("11").code("0").code("10").bytes();
    expect(kernels.inflate("raw-deflate", one, 4)).toEqual(utf8("aaaa"));
    const none = dynamicHeader(litlens, [0]).code("0").code("10").bytes();
    expect(kernels.inflate("raw-deflate", none, 1)).toEqual(utf8("a"));
    const onlyEnd = dynamicHeader(lengthsOf(257, { 256: 1 }), [0])
      .code("0")
      .bytes();
    expect(kernels.inflate("raw-deflate", onlyEnd, 0)).toEqual(EMPTY);
  });

  const ab = { 97: 1, 256: 2, 257: 2 };
  test.each([
    ["a distance that the one-bit code lacks", dynamicHeader(lengthsOf(286, ab), [1]).code("0").code("11").code("1")],
    ["a distance where there is no code", dynamicHeader(lengthsOf(286, ab), [0]).code("0").code("11").code("0")],
    ["a literal that the one-bit code lacks", dynamicHeader(lengthsOf(257, { 256: 1 }), [0]).code("1")],
    ["too many literals of one length", dynamicHeader(lengthsOf(257, { 97: 1, 98: 1, 256: 2 }), [1])],
    ["too few literals", dynamicHeader(lengthsOf(257, { 97: 2, 256: 2 }), [1])],
    ["too few distances", dynamicHeader(lengthsOf(257, { 97: 1, 256: 1 }), [2, 2])],
    ["one distance of two bits", dynamicHeader(lengthsOf(257, { 97: 1, 256: 1 }), [2])],
    ["too many distances", dynamicHeader(lengthsOf(257, { 97: 1, 256: 1 }), [1, 1, 1])],
    ["no end of the block", dynamicHeader(lengthsOf(257, { 97: 1, 98: 1 }), [1])],
    ["287 literals and lengths", dynamicHeader(lengthsOf(287, { 97: 1, 256: 1 }), [1])],
    ["31 distances", dynamicHeader(lengthsOf(257, { 97: 1, 256: 1 }), lengthsOf(31, { 0: 1 }))],
    ["a repeat of no length", dynamicHeader([16, ...lengthsOf(257, { 97: 1, 256: 1 }).slice(3)], [1])],
    ["a repeat past the last length", dynamicHeader(lengthsOf(257, { 97: 1, 256: 1 }), [18], { distanceCount: 1 })],
    ["an empty precode", new BitWriter().number(5, 3).number(0, 14).number(0, 12)],
    ["an incomplete precode", new BitWriter().number(5, 3).number(0, 14).number(1, 12)],
    ["an oversubscribed precode", new BitWriter().number(5, 3).number(0, 14).number(0b001001001001, 12)],
    ["a stored block whose sizes disagree", new BitWriter().number(1, 3).number(0, 5).number(1, 16).number(1, 16)],
    ["length symbol 286", new BitWriter().number(3, 3).code("11000110").code("00000")],
    ["distance symbol 30", new BitWriter().number(3, 3).code("00110000").code("0000001").code("11110")],
    ["a distance before the first byte", new BitWriter().number(3, 3).code("00110000").code("0000001").code("00001")],
    ["a match first", new BitWriter().number(3, 3).code("0000001").code("00000")],
  ])("refused: %s", (_, writer) => {
    const raw = concat(writer.bytes(), new Uint8Array(40));
    expect(faultOf(() => kernels.inflate("raw-deflate", raw, 1000))).toBe(CORRUPT);
    expect(faultOf(() => stream("raw-deflate", raw, MiB, MiB))).toBe(CORRUPT);
    expect(() => zlib.inflateRawSync(raw)).toThrow();
    // far from both ends the fast loop meets the same
    const far = new Uint8Array(zlib.deflateRawSync(random.bytes(9000), { finishFlush: zlib.constants.Z_SYNC_FLUSH }));
    const long = concat(far, raw, new Uint8Array(5000));
    if (!/first/.test(_)) expect(faultOf(() => kernels.inflate("raw-deflate", long, 100_000))).toBe(CORRUPT);
  });

  test.each([5, 400])("a symbol that is no symbol does not end the block, with %d good bytes behind it", (size) => {
    const writer = new BitWriter().number(0, 1).number(1, 2).code("00110000").code("11000110").number(1, 3);
    writer
      .number(0, 2)
      .number(size, 16)
      .number(0xffff - size, 16);
    const raw = concat(writer.bytes(), new Uint8Array(size));
    expect(faultOf(() => kernels.inflate("raw-deflate", raw, 1 + size))).toBe(CORRUPT);
    expect(() => zlib.inflateRawSync(raw)).toThrow();
  });

  test("a block of the reserved kind is refused, even if it would be a good dynamic one", () => {
    const [good, bad] = [2, 3].map((kind) => {
      const writer = dynamicHeader(lengthsOf(257, { 97: 1, 256: 1 }), [1], { kind });
      return writer.code("0").code("1").bytes();
    }) as [Uint8Array, Uint8Array];
    expect(kernels.inflate("raw-deflate", good, 1)).toEqual(utf8("a"));
    expect(faultOf(() => kernels.inflate("raw-deflate", bad, 1))).toBe(CORRUPT);
  });

  test.each(["11110", "11111"])("distance symbol %s is refused with a whole window before it", (symbol) => {
    const writer = new BitWriter().number(0, 8).number(32_768, 16).number(32_767, 16);
    for (let i = 0; i < 32_768; i++) writer.number(0, 8);
    writer.number(3, 3).code("0000001").code(symbol).code("0000000");
    expect(faultOf(() => kernels.inflate("raw-deflate", writer.bytes(), 32_771))).toBe(CORRUPT);
  });

  test("an incomplete precode is refused before a length is read", () => {
    const raw = new BitWriter()
      .number(5, 3)
      .number(0, 14)
      .number(1 << 6, 12)
      .bytes();
    expect(faultOf(() => kernels.inflate("raw-deflate", raw, 0))).toBe(CORRUPT);
  });
});

describe("inflate() gives exactly the size", () => {
  test.each(Object.entries(samples))("%s: one byte more or less is a fault", (_, data) => {
    for (const [format, compressed] of [
      ["gzip", zlib.gzipSync(data)],
      ["raw-deflate", zlib.deflateRawSync(data, { level: 0 })],
      ["raw-deflate", zlib.deflateRawSync(data)],
    ] as const) {
      expect(faultOf(() => kernels.inflate(format, compressed, data.length + 1))).toBe(TRUNCATED);
      if (data.length === 0) continue;
      expect(faultOf(() => kernels.inflate(format, compressed, data.length - 1))).toBe(TOO_LARGE);
      expect(faultOf(() => kernels.inflate(format, compressed, 0))).toBe(TOO_LARGE);
    }
  });

  test("every cap up to the size", () => {
    const data = compressible(random, 700);
    const gz = zlib.gzipSync(data);
    for (let cap = 0; cap < data.length; cap++) {
      expect(faultOf(() => kernels.inflate("gzip", gz, cap))).toBe(TOO_LARGE);
    }
  });

  test("a bomb ends at the cap", () => {
    const bomb = zlib.gzipSync(new Uint8Array(64 * MiB), { level: 9 });
    expect(faultOf(() => kernels.inflate("gzip", bomb, 1000))).toBe(TOO_LARGE);
    using decoder = kernels.openDecoder("gzip", 0);
    const { output, consumed } = decoder.push(bomb, 1000);
    expect(output.length).toBe(1000);
    expect(consumed).toBeLessThan(500);
  });
});
