import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { constants, zstdCompressSync } from "node:zlib";
import { instantiate } from "../../../../dist/core/core.js";
import { CORE_WASM_BASE64 } from "../../../../dist/core/core-wasm.js";
import { type ErrorCode, NydusError } from "../../../../src/base/errors.ts";
import { loadKernels, type StreamDecoder } from "../../../../src/format/codec/kernels.ts";
import { mutate, Random } from "../../../kit/random.ts";
import { block, concat, frameHeader, littleEndian } from "../../../kit/zstd-frames.ts";

const kernels = await loadKernels();
setDefaultTimeout(60_000); // for busy machines; each test takes a second or two

const SEED = 0x887a;
console.log(`kernels-zstd-stream.test.ts: seed ${SEED}`);

const WINDOW_LIMIT = 128 << 20;

/** Noise, copies from near and far, and runs. */
function dataOf(random: Random, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length; ) {
    const end = Math.min(length, at + random.between(1, random.pick([30, 300, 20_000])));
    const kind = random.below(4);
    if (kind === 0) bytes.set(random.bytes(Math.min(end - at, 500)), at);
    else if (kind === 1) bytes.fill(random.word(), at, end);
    else {
      const from = Math.max(0, at - random.between(1, random.pick([40, 3000, 200_000, length])));
      for (let i = at; i < end; i++) bytes[i] = bytes[from + ((i - at) % Math.max(1, at - from))] as number;
    }
    at = end;
  }
  return bytes;
}

function compress(data: Uint8Array, options: { level?: number; windowLog?: number; sized?: boolean } = {}): Uint8Array {
  const { level = 3, windowLog, sized = false } = options;
  const params = {
    [constants.ZSTD_c_compressionLevel]: level,
    [constants.ZSTD_c_checksumFlag]: 1,
    [constants.ZSTD_c_contentSizeFlag]: Number(sized),
    ...(windowLog === undefined ? {} : { [constants.ZSTD_c_windowLog]: windowLog }),
  };
  return new Uint8Array(zstdCompressSync(data, { params }));
}

/** Pieces and limits for one stream. */
interface Pace {
  piece(): number;
  limit(): number;
}

/** Pushes all of `input`; checks what every push must keep. @returns the output and whether the input may end */
function pushAll(decoder: StreamDecoder, input: Uint8Array, pace: Pace): { output: Uint8Array; mayEnd: boolean } {
  const parts: Uint8Array[] = [];
  let mayEnd = false;
  for (let at = 0; ; ) {
    const piece = input.subarray(at, at + pace.piece());
    const limit = pace.limit();
    const { output, consumed, atBoundary } = decoder.push(piece, limit);
    if (consumed > piece.length || output.length > limit) throw new Error("a push took or gave too much");
    at += consumed;
    mayEnd = atBoundary;
    parts.push(output);
    if (at === input.length && output.length < limit) return { output: concat(...parts), mayEnd };
    if (consumed === 0 && output.length === 0) throw new Error("a push neither took nor gave");
  }
}

const ALL: Pace = { piece: () => 1 << 24, limit: () => 1 << 24 };

function decode(input: Uint8Array, pace: Pace = ALL, windowLimit = WINDOW_LIMIT) {
  using decoder = kernels.openDecoder("zstd", windowLimit);
  return pushAll(decoder, input, pace);
}

/** Compares without printing megabytes. */
function expectSame(found: Uint8Array, wanted: Uint8Array): void {
  expect(found.length).toBe(wanted.length);
  expect(Buffer.compare(found, wanted)).toBe(0);
}

function codeOf(fn: () => unknown): ErrorCode | undefined {
  try {
    fn();
    return undefined;
  } catch (error) {
    if (!(error instanceof NydusError)) throw error;
    return error.code;
  }
}

describe("a zstd stream", () => {
  const random = new Random(SEED);

  /** A frame's end, another window's frame, an empty one, a skippable one. */
  function framesOf(parts: readonly Uint8Array[]): Uint8Array {
    const frames = parts.flatMap((part, i) => [
      compress(part, { windowLog: random.between(10, 20), sized: random.chance(0.5), level: random.pick([1, 3, 7]) }),
      ...(i % 2 === 0 ? [concat(littleEndian(0x184d2a5f, 4), littleEndian(i * 1000, 4), random.bytes(i * 1000))] : []),
    ]);
    return concat(...frames);
  }

  test("gives the same bytes however it is cut and however little is asked for", () => {
    for (const size of [0, 1, 100, 5000, 131_072, 400_000, 3_000_000]) {
      const parts = [dataOf(random, size), dataOf(random, size >> 3), new Uint8Array(0), dataOf(random, 2 * size)];
      const wanted = concat(...parts);
      const input = framesOf(parts);
      for (let i = 0; i < 12; i++) {
        const [longest, most] = [random.pick([3, 700, 70_000, 5_000_000]), random.pick([500, 50_000, 5_000_000])];
        if (size > 500_000 && (longest < 100 || most < 1000)) continue;
        const pace: Pace = { piece: () => random.between(1, longest), limit: () => random.between(1, most) };
        const { output, mayEnd } = decode(input, pace);
        expectSame(output, wanted);
        expect(mayEnd).toBe(true);
      }
    }
  });

  test("a byte at a time, in and out", () => {
    const wanted = dataOf(random, 3000);
    expectSame(decode(framesOf([wanted]), { piece: () => 1, limit: () => 1 }).output, wanted);
  });

  test("windows from 1 KiB to 4 MiB, of which matches use all, wherever the ring begins anew", () => {
    for (let windowLog = 10; windowLog <= 22; windowLog++) {
      const distance = 2 ** windowLog;
      const wanted = new Uint8Array(distance * 3 + 1_000_000);
      wanted.set(random.bytes(distance));
      for (let at = distance; at < wanted.length; at++) {
        wanted[at] = at % 5000 < 20 ? random.word() : (wanted[at - distance + (at % 2 ** 17 < 7 ? 1 : 0)] as number);
      }
      const input = compress(wanted, { windowLog, level: 6 });
      expectSame(decode(input, { piece: () => 65_536, limit: () => 300_000 }).output, wanted);
    }
  });

  test("may end after a frame, and nowhere else", () => {
    const data = dataOf(random, 2000);
    const skippable = concat(littleEndian(0x184d2a50, 4), littleEndian(3, 4), random.bytes(3));
    const frames = [compress(data), skippable, compress(new Uint8Array(0)), compress(data, { sized: true })];
    const ends = frames.map((_, i) => concat(...frames.slice(0, i + 1)).length);
    using decoder = kernels.openDecoder("zstd", WINDOW_LIMIT);
    expect(decoder.push(new Uint8Array(0), 100).atBoundary).toBe(false);
    const input = concat(...frames);
    for (let at = 0; at < input.length; at++) {
      const { mayEnd } = pushAll(decoder, input.subarray(at, at + 1), ALL);
      expect(mayEnd).toBe(ends.includes(at + 1));
    }
  });

  test("may not end while output is left", () => {
    using decoder = kernels.openDecoder("zstd", WINDOW_LIMIT);
    const input = concat(frameHeader({}), block("rle", Uint8Array.of(7), { size: 1000 }));
    let at = 0;
    let given = 0;
    for (let left = 4; left > 0; ) {
      const { output, consumed, atBoundary } = decoder.push(input.subarray(at), 300);
      at += consumed;
      given += output.length;
      if (output.length === 0) continue;
      left--;
      expect(atBoundary).toBe(left === 0);
    }
    expect([at, given]).toEqual([input.length, 1000]);
  });

  test("has its checksum compared, wherever blocks end", () => {
    for (let i = 0; i < 300; i++) {
      const parts = Array.from({ length: random.between(1, 20) }, () =>
        random.bytes(random.below(random.pick([9, 70]))),
      );
      const wanted = concat(...parts);
      const blocks = parts.map((part, k) => block("raw", part, { last: k === parts.length - 1 }));
      const checksum = littleEndian(kernels.xxh64(wanted), 4);
      const input = concat(frameHeader({ checksum: true }), ...blocks, checksum);
      expectSame(decode(input).output, wanted);
      expectSame(new Uint8Array(Bun.zstdDecompressSync(input)), wanted);
    }
  });

  test("has a fault once and for all", () => {
    const input = compress(dataOf(random, 2000));
    const at = input.length - 1;
    input[at] = (input[at] as number) ^ 1;
    using decoder = kernels.openDecoder("zstd", WINDOW_LIMIT);
    expect(codeOf(() => pushAll(decoder, input, ALL))).toBe("EBADMSG");
    expect(codeOf(() => decoder.push(compress(new Uint8Array(5)), 100))).toBe("EBADMSG");
  });

  test("refuses windows above the limit, and takes those that reach it", () => {
    const empty = block("raw", new Uint8Array(0));
    for (let windowByte = 0; windowByte < 256; windowByte++) {
      const base = 2 ** (10 + (windowByte >> 3));
      const windowBytes = base + (base / 8) * (windowByte & 7);
      const input = concat(frameHeader({ windowByte }), empty);
      if (windowBytes < 2 ** 23) {
        expect(codeOf(() => decode(input, ALL, windowBytes))).toBe(undefined);
        expect(codeOf(() => decode(input, ALL, windowBytes - 1))).toBe("ENOTSUP");
      }
      const wanted = windowBytes <= WINDOW_LIMIT ? undefined : "ENOTSUP";
      if (windowBytes > 2 ** 26) expect(codeOf(() => decode(input, ALL, 0xffff_ffff))).toBe(wanted);
    }
  });

  test("mutated frames in random pieces give what the whole gives, or a NydusError", () => {
    const victims = [200, 2000, 20_000].flatMap((size) => {
      const data = dataOf(random, size);
      return [1, 19].map((level) => ({ data, frame: compress(data, { level }).slice(0, -4) }));
    });
    for (const { frame } of victims) frame[4] = (frame[4] as number) & ~4; // no checksum
    let given = 0;
    for (let i = 0; i < 3000; i++) {
      const { data, frame } = random.pick(victims);
      const mutated = mutate(frame, random);
      const longest = random.pick([10, 1000, 100_000]);
      const pace: Pace = { piece: () => random.between(1, longest), limit: () => random.between(1, 10 * longest) };
      let found: ReturnType<typeof decode> | undefined;
      codeOf(() => {
        found = decode(mutated, pace, 1 << 23);
      });
      if (found === undefined || !found.mayEnd) continue;
      given++;
      const { output } = found;
      expectSame(kernels.zstdDecompress(mutated, output.length), output);
      if (output.length !== data.length)
        expect(codeOf(() => kernels.zstdDecompress(mutated, data.length))).toBe("EUCLEAN");
    }
    expect(given).toBeGreaterThan(30);
  });
});

describe("streams side by side", () => {
  const random = new Random(SEED + 1);

  /** A core whose memory can be looked at. */
  function instantiateCore() {
    const memories: WebAssembly.Memory[] = [];
    const module = new WebAssembly.Module(Uint8Array.fromBase64(CORE_WASM_BASE64));
    const { codec } = instantiate(
      () => module,
      {},
      (core) => {
        const instance = new WebAssembly.Instance(core);
        const { memory } = instance.exports;
        if (memory instanceof WebAssembly.Memory) memories.push(memory);
        return instance;
      },
    );
    const memoryBytes = (): number => memories.reduce((sum, memory) => sum + memory.buffer.byteLength, 0);
    return { codec, memoryBytes };
  }

  test("eight of them, pushed in turn, give each its own bytes; a ninth is EBUSY", () => {
    const inputs = Array.from({ length: 8 }, (_, i) => {
      const wanted = dataOf(random, 300_000 + 50_000 * i);
      const format = i % 4 === 3 ? ("gzip" as const) : ("zstd" as const);
      const input = format === "gzip" ? Bun.gzipSync(wanted.slice()) : compress(wanted, { windowLog: 12 + i });
      return { wanted, input, decoder: kernels.openDecoder(format, WINDOW_LIMIT), at: 0, parts: [] as Uint8Array[] };
    });
    try {
      expect(codeOf(() => kernels.openDecoder("zstd", WINDOW_LIMIT))).toBe("EBUSY");
      expect(codeOf(() => kernels.openDecoder("gzip", WINDOW_LIMIT))).toBe("EBUSY");
      for (let idle = 0; idle < 100; idle++) {
        const stream = random.pick(inputs);
        const end = stream.at + random.between(1, 60_000);
        const { output, consumed } = stream.decoder.push(stream.input.subarray(stream.at, end), 100_000);
        stream.at += consumed;
        stream.parts.push(output);
        if (consumed + output.length > 0) idle = 0;
      }
      for (const { parts, wanted } of inputs) expectSame(concat(...parts), wanted);
    } finally {
      for (const { decoder } of inputs) decoder.close();
    }
    kernels.openDecoder("zstd", WINDOW_LIMIT).close();
  });

  test("hundreds of them, open together by fours and closed in any order, leave memory where it was", () => {
    const { codec, memoryBytes } = instantiateCore();
    const empty = block("raw", new Uint8Array(0), { last: false });
    const open: number[] = [];
    const round = (): void => {
      for (let i = 0; i < 200; i++) {
        if (open.length === 4) codec.streamClose(open.splice(random.below(4), 1)[0] as number);
        const handle = codec.streamOpen("zstd", 1 << 24);
        open.push(handle);
        const windowByte = random.between(0, 14 << 3); // up to 16 MiB
        const header = concat(frameHeader({ windowByte }), empty);
        for (let at = 0; at < header.length; ) at += codec.streamPush(handle, header.subarray(at), 1000).consumed;
      }
    };
    round();
    const before = memoryBytes();
    expect(before).toBeGreaterThan(1 << 20);
    expect(before).toBeLessThan(140 << 20);
    for (let i = 0; i < 4; i++) round();
    expect(memoryBytes()).toBeLessThan(140 << 20);
    for (const handle of open) codec.streamClose(handle);
    // All of it is one piece again: windows of 128 and 56 MiB fit together below the claims' limit of 192.
    for (const windowByte of [17 << 3, (15 << 3) | 6]) {
      const handle = codec.streamOpen("zstd", WINDOW_LIMIT);
      const header = concat(frameHeader({ windowByte }), empty);
      for (let at = 0; at < header.length; ) at += codec.streamPush(handle, header.subarray(at), 1000).consumed;
    }
  });

  /** A stream whose window of so many MiB is claimed. */
  function openWithWindow(mib: number): StreamDecoder {
    const exponent = 31 - Math.clz32(mib);
    const decoder = kernels.openDecoder("zstd", WINDOW_LIMIT);
    pushAll(
      decoder,
      frameHeader({ windowByte: ((exponent + 10) << 3) | ((mib - 2 ** exponent) / 2 ** (exponent - 3)) }),
      ALL,
    );
    return decoder;
  }

  test("a small stream takes no more of a large one's place than it needs", () => {
    const first = openWithWindow(104);
    using _above = openWithWindow(8);
    first.close();
    using _small = openWithWindow(8);
    using _second = openWithWindow(88);
  });

  test.each([
    [0, 1],
    [1, 0],
  ])("two that lay side by side leave one place, closed in the order %d, %d", (earlier, later) => {
    const pair = [openWithWindow(48), openWithWindow(48)] as const;
    using _above = openWithWindow(48);
    pair[earlier]?.close();
    pair[later]?.close();
    using _second = openWithWindow(80);
  });

  test("two windows of 128 MiB are too many: the second stream is EBUSY for good, the first goes on", () => {
    const rle = block("rle", Uint8Array.of(5), { size: 1000 });
    const input = concat(frameHeader({ windowByte: 17 << 3 }), rle);
    using first = kernels.openDecoder("zstd", WINDOW_LIMIT);
    first.push(input.subarray(0, 6), 10);
    {
      using second = kernels.openDecoder("zstd", WINDOW_LIMIT);
      expect(codeOf(() => second.push(input, 2000))).toBe("EBUSY");
      expect(codeOf(() => second.push(input, 2000))).toBe("EBUSY");
    }
    expectSame(first.push(input.subarray(6), 2000).output, new Uint8Array(1000).fill(5));
    expectSame(decode(compress(new Uint8Array(500_000).fill(9))).output, new Uint8Array(500_000).fill(9));
  });

  test("a frame with a larger window than the one before gets it, a smaller one keeps what there is", () => {
    const parts = [12, 20, 10, 22, 21].map((windowLog) => ({ windowLog, data: dataOf(random, 2 ** windowLog + 9999) }));
    const input = concat(...parts.map(({ windowLog, data }) => compress(data, { windowLog })));
    const wanted = concat(...parts.map(({ data }) => data));
    expectSame(decode(input).output, wanted);
    expectSame(decode(input, { piece: () => 4096, limit: () => 1 << 20 }).output, wanted);
  });
});
