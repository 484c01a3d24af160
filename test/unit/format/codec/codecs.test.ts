import { afterEach, describe, expect, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { constants, crc32, deflateRawSync, gunzipSync, gzipSync, zstdCompressSync } from "node:zlib";
import { gunzipSync as fflateGunzip } from "fflate";
import { concatBytes } from "../../../../src/base/bytes.ts";
import { toHex } from "../../../../src/base/digest.ts";
import { NydusError } from "../../../../src/base/errors.ts";
import type { Codecs, StreamFormat } from "../../../../src/format/codec/codecs.ts";
import { gzipDeterministic, loadZstdWasm } from "../../../../src/format/codec/compress.ts";
import { loadKernels, type StreamDecoder } from "../../../../src/format/codec/kernels.ts";
import { makeCodecs } from "../../../../src/format/codec/make-codecs.ts";
import { loadCodecs } from "../../../../src/os/codecs.ts";
import { nativeCodecs } from "../../../../src/os/native-codecs.ts";
import { Random } from "../../../kit/random.ts";

const SEED = 0xc0dec;
console.log(`codecs.test.ts: seed ${SEED}`);

const kernels = await loadKernels();
const native = await nativeCodecs();
const zstdWasm = await loadZstdWasm();
/** The table with the runtime's codecs, and the one of NYDUS_CORE=wasm. */
const TABLES: readonly (readonly [name: string, codecs: Codecs])[] = [
  ["core and runtime", makeCodecs(kernels, native)],
  ["core alone", makeCodecs(kernels, undefined)],
];

const random = new Random(SEED);
const NONE = new Uint8Array(0);

/** Words of a small vocabulary: compresses as text does. */
function words(length: number): Uint8Array {
  const vocabulary = Array.from({ length: 300 }, () => random.bytes(random.between(2, 12)));
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length; ) {
    const word = random.pick(vocabulary).subarray(0, length - at);
    bytes.set(word, at);
    at += word.length;
  }
  return bytes;
}

const SAMPLES: Readonly<Record<string, Uint8Array>> = {
  empty: NONE,
  "one byte": Uint8Array.of(7),
  "short text": new TextEncoder().encode("to be or not to be, that is the question"),
  words: words(700_000),
  noise: random.bytes(200_000),
  zeros: new Uint8Array(900_000),
  some: concatBytes([words(9000), random.bytes(3000)]),
  mixed: concatBytes([words(150_000), random.bytes(140_000), new Uint8Array(200_000), words(150_000)]),
};

async function* pieces(data: Uint8Array, pieceBytes: () => number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < data.length; ) {
    const end = Math.min(data.length, at + pieceBytes());
    yield data.subarray(at, end);
    at = end;
  }
}

async function collect(stream: AsyncIterable<Uint8Array>): Promise<Uint8Array> {
  const all: Uint8Array[] = [];
  for await (const piece of stream) all.push(new Uint8Array(piece));
  return concatBytes([NONE, ...all]);
}

const stream = (codecs: Codecs, format: StreamFormat, data: Uint8Array, pieceBytes = 60_000): Promise<Uint8Array> =>
  collect(
    codecs.decompressStream(
      format,
      pieces(data, () => pieceBytes),
    ),
  );

async function codeOf(work: () => unknown): Promise<string> {
  try {
    await work();
  } catch (error) {
    if (error instanceof NydusError) return error.code;
    throw error;
  }
  return "no error";
}

function same(got: Uint8Array, wanted: Uint8Array): void {
  expect(got.length).toBe(wanted.length);
  expect(Buffer.compare(got, wanted)).toBe(0);
}

const hasZstdTool = spawnSync("zstd", ["--version"]).status === 0;
const ZSTD_ARGUMENTS = [
  ["-1"],
  ["-3"],
  ["-9"],
  ["-19"],
  ["--ultra", "-22", "--long=27"],
  ["--fast=5"],
  ["--no-check", "-3"],
  ["--no-content-size", "-6"],
];

/** The level that takes gigabytes of tables a run gets one sample. */
const SLOW_ARGUMENT = "--ultra";
const TIMEOUT_MS = 60_000;
const packedByTool = new Map<string, Uint8Array>();

/** Compresses a sample by the zstd program, once for all tables. */
function zstdTool(name: string, args: readonly string[]): Uint8Array {
  const key = `${name} ${args.join(" ")}`;
  const packed = packedByTool.get(key) ?? runZstd(SAMPLES[name] as Uint8Array, args);
  packedByTool.set(key, packed);
  return packed;
}

function runZstd(data: Uint8Array, args: readonly string[]): Uint8Array {
  const run = spawnSync("zstd", ["-q", "-c", ...args], { input: data, maxBuffer: 1 << 26 });
  if (run.status !== 0) throw new Error(`zstd ${args.join(" ")}: ${run.stderr}`);
  return new Uint8Array(run.stdout);
}

const ZSTD_MAGIC = [0x28, 0xb5, 0x2f, 0xfd];
const SKIPPABLE = Uint8Array.of(0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9);

interface Header {
  readonly extra?: Uint8Array;
  readonly name?: string;
  readonly comment?: string;
  readonly check?: boolean;
}

/** A gzip member with every field of RFC 1952 that is asked for. */
function member(data: Uint8Array, { extra, name, comment, check }: Header): Uint8Array {
  const text = (value: string | undefined): number[] => (value === undefined ? [] : [...Buffer.from(value), 0]);
  const flags = (check ? 2 : 0) | (extra ? 4 : 0) | (name === undefined ? 0 : 8) | (comment === undefined ? 0 : 16);
  const length = extra === undefined ? [] : [extra.length & 0xff, extra.length >> 8, ...extra];
  const head = [0x1f, 0x8b, 8, flags, 1, 2, 3, 4, 2, 255, ...length, ...text(name), ...text(comment)];
  const headCheck = crc32(Uint8Array.from(head));
  const tail = new Uint8Array(8);
  new DataView(tail.buffer).setUint32(0, crc32(data), true);
  new DataView(tail.buffer).setUint32(4, data.length, true);
  const checks = check ? [headCheck & 0xff, (headCheck >> 8) & 0xff] : [];
  return concatBytes([Uint8Array.from([...head, ...checks]), deflateRawSync(data), tail]);
}

const text = SAMPLES["short text"] as Uint8Array;
const some = SAMPLES["some"] as Uint8Array;
const HEADERS: readonly (readonly [what: string, header: Header])[] = [
  ["no field", {}],
  ["a name, as gzip and Python write it", { name: "layer.tar" }],
  ["an extra field", { extra: Uint8Array.of(0x53, 0x47, 2, 0, 1, 2) }],
  ["an empty extra field", { extra: NONE }],
  ["a large extra field", { extra: new Uint8Array(65_535).fill(0x1f) }],
  ["a comment", { comment: "seekable" }],
  ["a header CRC", { check: true }],
  ["every field", { extra: Uint8Array.of(1), name: "", comment: "x", check: true }],
];

describe.each(TABLES)("codecs of %s", (_, codecs) => {
  describe("decompress() and decompressStream() of zstd", () => {
    test.skipIf(!hasZstdTool).each(ZSTD_ARGUMENTS.map((args) => [args.join(" "), args] as const))(
      "give back what zstd %s compressed",
      async (__, args) => {
        for (const [name, data] of Object.entries(SAMPLES)) {
          if (args.includes(SLOW_ARGUMENT) && name !== "mixed") continue;
          const packed = zstdTool(name, args);
          same(codecs.decompress("zstd", packed, data.length), data);
          same(await stream(codecs, "zstd", packed), data);
        }
      },
      TIMEOUT_MS,
    );

    test("agree with zstd-wasm", () => {
      if (zstdWasm === undefined) throw new Error("zstd-wasm does not load");
      for (const data of Object.values(SAMPLES).filter(({ length }) => length > 0)) {
        const packed = Bun.zstdCompressSync(data, { level: 5 });
        same(codecs.decompress("zstd", packed, data.length), zstdWasm(packed));
      }
    });

    test("take several frames and pass over skippable ones", async () => {
      const packed = [text, some, NONE, text].map((data) => Bun.zstdCompressSync(data));
      const data = concatBytes([text, some, text]);
      const joined = concatBytes(packed.flatMap((frame) => [SKIPPABLE, frame, SKIPPABLE]));
      same(codecs.decompress("zstd", joined, data.length), data);
      for (const pieceBytes of [1, 13, 4096, joined.length])
        same(await stream(codecs, "zstd", joined, pieceBytes), data);
    });

    test("refuse a dictionary with ENOTSUP", async () => {
      const packed = Uint8Array.of(...ZSTD_MAGIC, 0x21, 7, 1, 9, 0, 0, 65);
      expect(await codeOf(() => codecs.decompress("zstd", packed, 1))).toBe("ENOTSUP");
      expect(await codeOf(() => stream(codecs, "zstd", packed))).toBe("ENOTSUP");
    });

    test("refuse a stream's window above 128 MiB with ENOTSUP", async () => {
      const packed = Uint8Array.of(...ZSTD_MAGIC, 0x00, (18 << 3) | 0, 9, 0, 0, 65);
      expect(await codeOf(() => stream(codecs, "zstd", packed))).toBe("ENOTSUP");
    });

    test("tell a wrong checksum", async () => {
      const packed = Uint8Array.of(...ZSTD_MAGIC, 0x24, 1, 9, 0, 0, 65, 1, 2, 3, 4);
      expect(await codeOf(() => codecs.decompress("zstd", packed, 1))).toBe("EBADMSG");
      expect(await codeOf(() => stream(codecs, "zstd", packed))).toMatch(/EBADMSG|EUCLEAN/);
    });
  });

  describe("decompress() and decompressStream() of gzip", () => {
    const strategies = [constants.Z_DEFAULT_STRATEGY, constants.Z_FIXED, constants.Z_HUFFMAN_ONLY, constants.Z_RLE];

    test.each([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])("give back what zlib compressed at level %d", async (level) => {
      for (const data of Object.values(SAMPLES)) {
        for (const strategy of strategies) {
          const packed = new Uint8Array(gzipSync(data, { level, strategy }));
          same(codecs.decompress("gzip", packed, data.length), data);
        }
        const packed = new Uint8Array(gzipSync(data, { level }));
        same(await stream(codecs, "gzip", packed), data);
        same(codecs.decompress("gzip", packed, data.length), fflateGunzip(packed));
      }
    });

    test.each(HEADERS)("take a member with %s", async (__, header) => {
      const packed = member(text, header);
      same(gunzipSync(packed), text);
      same(codecs.decompress("gzip", packed, text.length), text);
      for (const pieceBytes of [1, 7, packed.length]) same(await stream(codecs, "gzip", packed, pieceBytes), text);
    });

    test("take several members, and zeros after the last", async () => {
      const packed = concatBytes([
        member(text, { name: "a" }),
        member(NONE, {}),
        new Uint8Array(gzipSync(some)),
        member(text, { extra: NONE }),
        new Uint8Array(1500),
      ]);
      const data = concatBytes([text, some, text]);
      same(codecs.decompress("gzip", packed, data.length), data);
      for (const pieceBytes of [1, 100, 65_536, packed.length]) {
        same(await stream(codecs, "gzip", packed, pieceBytes), data);
      }
    });

    test.each([
      ["other bytes", Buffer.from("garbage")],
      ["a member after zeros", concatBytes([new Uint8Array(9), member(text, {})])],
      ["zeros and then others", Uint8Array.of(0, 0, 0, 1)],
      ["the beginning of a member", Uint8Array.of(0x1f)],
    ])("refuse %s after the last member", async (__, garbage) => {
      const packed = concatBytes([member(text, {}), garbage]);
      expect(await codeOf(() => codecs.decompress("gzip", packed, text.length))).toBe("EUCLEAN");
      for (const pieceBytes of [1, 10, packed.length]) {
        expect(await codeOf(() => stream(codecs, "gzip", packed, pieceBytes))).toBe("EUCLEAN");
      }
    });

    test("tell a wrong CRC and a wrong size", async () => {
      for (const fromEnd of [8, 4]) {
        const packed = member(text, {});
        packed[packed.length - fromEnd] = (packed[packed.length - fromEnd] as number) ^ 1;
        expect(await codeOf(() => codecs.decompress("gzip", packed, text.length))).toBe("EBADMSG");
        expect(await codeOf(() => stream(codecs, "gzip", packed))).toMatch(/EBADMSG|EUCLEAN/);
      }
    });
  });

  describe.each(["gzip", "zstd"] as const)("%s", (format) => {
    const pack = (data: Uint8Array): Uint8Array =>
      format === "gzip" ? new Uint8Array(gzipSync(data)) : Bun.zstdCompressSync(data);

    test("decompress() refuses what gives more or less than expected", async () => {
      for (const data of [text, SAMPLES["words"] as Uint8Array, SAMPLES["noise"] as Uint8Array]) {
        const packed = pack(data);
        for (const sizeBytes of [0, data.length - 1, data.length + 1, data.length * 2]) {
          expect(await codeOf(() => codecs.decompress(format, packed, sizeBytes))).toBe("EUCLEAN");
        }
      }
    });

    test("a truncated input is EUCLEAN on every path", async () => {
      for (const data of [text, SAMPLES["mixed"] as Uint8Array]) {
        const packed = pack(data);
        const cuts = [0, 1, 3, 5, 9, 17, packed.length >> 1, packed.length - 9, packed.length - 2, packed.length - 1];
        for (const cut of cuts.filter((at) => at >= 0 && at < packed.length)) {
          const part = packed.subarray(0, cut);
          expect(await codeOf(() => codecs.decompress(format, part, data.length))).toBe("EUCLEAN");
          expect(await codeOf(() => stream(codecs, format, part))).toBe("EUCLEAN");
        }
      }
    });

    test("garbage after the end is EUCLEAN on every path", async () => {
      for (const garbage of [Buffer.from("hello"), Uint8Array.of(0x28), new Uint8Array(5).fill(0xfd)]) {
        const packed = concatBytes([pack(text), garbage]);
        expect(await codeOf(() => codecs.decompress(format, packed, text.length))).toBe("EUCLEAN");
        for (const pieceBytes of [1, packed.length]) {
          expect(await codeOf(() => stream(codecs, format, packed, pieceBytes))).toBe("EUCLEAN");
        }
      }
    });

    test("decompressStream() gives the same however the input is split", async () => {
      const data = concatBytes([SAMPLES["words"] as Uint8Array, SAMPLES["mixed"] as Uint8Array]);
      const packed = concatBytes([pack(data), pack(text)]);
      const wanted = concatBytes([data, text]);
      for (let round = 0; round < 12; round++) {
        const most = random.pick([3000, 70_000, 400_000]);
        const split = pieces(packed, () => random.below(most));
        same(await collect(codecs.decompressStream(format, split)), wanted);
      }
      same(await stream(codecs, format, pack(text), 1), text);
    });

    test("decompressStream() closes its input when the consumer stops early, and can be opened again and again", async () => {
      const packed = pack(SAMPLES["words"] as Uint8Array);
      for (let round = 0; round < 40; round++) {
        let closed = false;
        const input = (async function* () {
          try {
            for (;;) yield* pieces(packed, () => 5000);
          } finally {
            closed = true;
          }
        })();
        for await (const piece of codecs.decompressStream(format, input)) {
          expect(piece.length).toBeGreaterThan(0);
          break;
        }
        expect(closed).toBe(true);
      }
    });

    test("decompressStream() passes on an error of its input as it is", async () => {
      const packed = pack(SAMPLES["mixed"] as Uint8Array);
      const failure = new Error("the registry is gone");
      for (const cut of [0, 1, packed.length >> 1, packed.length]) {
        const input = (async function* () {
          yield packed.subarray(0, cut);
          throw failure;
        })();
        expect(await collect(codecs.decompressStream(format, input)).catch((error: unknown) => error)).toBe(failure);
      }
    });

    test("decompressStream() closes its input when the data is malformed", async () => {
      let closed = false;
      const input = (async function* () {
        try {
          for (;;) yield new Uint8Array(1000).fill(0x99);
        } finally {
          closed = true;
        }
      })();
      expect(await codeOf(() => collect(codecs.decompressStream(format, input)))).toBe("EUCLEAN");
      expect(closed).toBe(true);
    });

    test("four streams interleave", async () => {
      const inputs = [0, 1, 2, 3].map((i) => concatBytes([words(100_000 + i), random.bytes(i * 1000)]));
      const outputs = await Promise.all(inputs.map((data) => stream(codecs, format, pack(data), 777)));
      outputs.forEach((output, i) => void same(output, inputs[i] as Uint8Array));
    });
  });

  test.each(["none", "lz4_block", "gzip"] as const)("compress() by %s is undone by decompress()", (compressor) => {
    for (const data of Object.values(SAMPLES)) {
      same(codecs.decompress(compressor, codecs.compress(compressor, data, 6), data.length), data);
    }
  });

  test("decompress() of none refuses another size", async () => {
    expect(await codeOf(() => codecs.decompress("none", text, text.length + 1))).toBe("EUCLEAN");
  });

  test("decompressStream() of none passes pieces on", async () => {
    same(await stream(codecs, "none", text, 5), text);
  });

  test("digests agree with node:crypto, of files cut into chunks too", () => {
    const data = SAMPLES["mixed"] as Uint8Array;
    const digestOf = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");
    expect(toHex(codecs.digest("sha256", data))).toBe(digestOf(data));
    const hasher = codecs.sha256();
    hasher.update(data.subarray(0, 99));
    expect(toHex(hasher.peek())).toBe(digestOf(data.subarray(0, 99)));
    hasher.update(data.subarray(99));
    expect(toHex(hasher.digest())).toBe(digestOf(data));
    const extents = Uint32Array.of(0, 5000, 1, 8192, data.length - 13_193);
    for (const digester of ["sha256", "blake3"] as const) {
      const digests = codecs.digestChunks(digester, data, extents, 4096);
      const wanted: string[] = [];
      let at = 0;
      for (const extent of extents) {
        for (const end = at + extent; at < end; ) {
          const next = Math.min(end, at + 4096);
          wanted.push(toHex(codecs.digest(digester, data.subarray(at, next))));
          at = next;
        }
      }
      expect(toHex(digests)).toBe(wanted.join(""));
    }
  });

  test("digestChunks() refuses extents that do not sum to the data, and chunks of no size", async () => {
    for (const digester of ["sha256", "blake3"] as const) {
      const digest = (extent: number, chunkBytes: number) => () =>
        codecs.digestChunks(digester, text, Uint32Array.of(extent), chunkBytes);
      expect(await codeOf(digest(text.length - 1, 4096))).toBe("EINVAL");
      expect(await codeOf(digest(text.length, 0))).toBe("EINVAL");
      expect(await codeOf(digest(text.length, 1.5))).toBe("EINVAL");
    }
  });
});

describe("the core's streams", () => {
  /** A frame that asks for a window of 2^`windowLog` bytes and does not say how much it gives. */
  const framed = (windowLog: number): Uint8Array => {
    const { ZSTD_c_windowLog, ZSTD_c_contentSizeFlag } = constants;
    return new Uint8Array(
      zstdCompressSync(some, { params: { [ZSTD_c_windowLog]: windowLog, [ZSTD_c_contentSizeFlag]: 0 } }),
    );
  };

  /** Pushes all of a frame of `some` and looks at the output. */
  function decodeBy(decoder: StreamDecoder, packed: Uint8Array): void {
    const outputs: Uint8Array[] = [NONE];
    for (let at = 0; at < packed.length; ) {
      const { output, consumed } = decoder.push(packed.subarray(at), some.length + 1);
      at += consumed;
      outputs.push(output);
      if (consumed + output.length === 0) throw new Error(`stuck at byte ${at}`);
    }
    same(concatBytes(outputs), some);
  }

  test("use memory again: hundreds with windows of all sizes, several at once", () => {
    const windows = new Map([10, 17, 20, 22, 24].map((log) => [log, framed(log)]));
    const open: { decoder: StreamDecoder; packed: Uint8Array }[] = [];
    for (let round = 0; round < 400; round++) {
      const packed = windows.get(random.pick([...windows.keys()])) as Uint8Array;
      open.push({ decoder: kernels.openDecoder("zstd", 1 << 24), packed });
      if (open.length < 4 && round % 3 !== 0) continue;
      const [{ decoder, packed: data }] = open.splice(random.below(open.length), 1) as [(typeof open)[0]];
      decodeBy(decoder, data);
      decoder.close();
    }
    for (const { decoder } of open) decoder.close();
  });

  test("take a window of 128 MiB, again and again", () => {
    const packed = framed(27);
    for (let round = 0; round < 20; round++) {
      using decoder = kernels.openDecoder("zstd", 1 << 27);
      decodeBy(decoder, packed);
    }
  });
});

describe("compress() by zstd", () => {
  test("is the runtime's, says its content size, and takes levels 1 to 22", async () => {
    const codecs = makeCodecs(kernels, native);
    const data = SAMPLES["words"] as Uint8Array;
    for (const level of [1, 3, 22])
      same(kernels.zstdDecompress(codecs.compress("zstd", data, level), data.length), data);
    for (const level of [0, 23, 1.5]) expect(await codeOf(() => codecs.compress("zstd", data, level))).toBe("EINVAL");
  });

  test("is ENOTSUP where the runtime brings none", async () => {
    expect(await codeOf(() => makeCodecs(kernels, undefined).compress("zstd", text, 3))).toBe("ENOTSUP");
  });
});

describe("a runtime's decoder that is wrong", () => {
  const packed = Bun.zstdCompressSync(text);
  const decodeBy = (zstdDecompress: () => Uint8Array): Uint8Array =>
    makeCodecs(kernels, { zstdDecompress }).decompress("zstd", packed, text.length);

  test("is not believed when it gives another size, or fails", () => {
    same(
      decodeBy(() => NONE),
      text,
    );
    same(
      decodeBy(() => {
        throw new Error("out of memory");
      }),
      text,
    );
  });
});

test("a runtime's zstd decoder gets nothing but one whole frame that declares the size", async () => {
  const lenient = makeCodecs(kernels, { zstdDecompress: () => text });
  const packed = Bun.zstdCompressSync(text);
  const others = [packed.subarray(0, -1), concatBytes([packed, Uint8Array.of(1)]), packed.subarray(1), NONE];
  for (const data of others) {
    expect(await codeOf(() => lenient.decompress("zstd", data, text.length))).toBe("EUCLEAN");
  }
  expect(await codeOf(() => lenient.decompress("zstd", concatBytes([packed, packed]), text.length))).toBe("EUCLEAN");
  same(lenient.decompress("zstd", packed, text.length), text);
});

describe("gzipDeterministic()", () => {
  test("gives the same bytes whatever the time, without a name", () => {
    const packed = gzipDeterministic(text, 6);
    expect([...packed.subarray(0, 8)]).toEqual([0x1f, 0x8b, 8, 0, 0, 0, 0, 0]);
    expect(gzipDeterministic(text, 6)).toEqual(packed);
    expect(
      createHash("sha256")
        .update(gzipDeterministic(new Uint8Array(5000).fill(65), 9))
        .digest("hex"),
    ).toBe(GZIP_DIGEST);
  });

  test("is read by zlib at every level, and refuses others", async () => {
    for (let level = 0; level <= 9; level++) {
      const data = SAMPLES["mixed"] as Uint8Array;
      same(gunzipSync(gzipDeterministic(data, level)), data);
    }
    for (const level of [-1, 10, 2.5]) expect(await codeOf(() => gzipDeterministic(text, level))).toBe("EINVAL");
  });
});

/** Of 5,000 bytes "A" at level 9: the same under Bun, Node.js and Deno. */
const GZIP_DIGEST = "a9b6c4e3ac828868ff86647aaf201657283e70c74f828a724340632820b1b4b7";

describe("loadCodecs()", () => {
  const before = process.env["NYDUS_CORE"];
  afterEach(() => {
    if (before === undefined) delete process.env["NYDUS_CORE"];
    else process.env["NYDUS_CORE"] = before;
  });

  test.each(["", "auto", "wasm"])("takes NYDUS_CORE=%s", async (value) => {
    process.env["NYDUS_CORE"] = value;
    const codecs = await loadCodecs();
    same(codecs.decompress("zstd", codecs.compress("zstd", text, 3), text.length), text);
  });

  test("refuses another NYDUS_CORE with EINVAL, unless it is told which core", async () => {
    process.env["NYDUS_CORE"] = "rust";
    expect(await codeOf(() => loadCodecs())).toBe("EINVAL");
    expect(await codeOf(() => loadCodecs({ core: "wasm" }))).toBe("no error");
  });
});
