import { expect, test } from "bun:test";
import { constants, deflateRawSync, gunzipSync, gzipSync, inflateRawSync } from "node:zlib";
import { concatBytes } from "../../src/base/bytes.ts";
import { NydusError } from "../../src/base/errors.ts";
import type { StreamFormat } from "../../src/format/codec/codecs.ts";
import { type DecoderFormat, loadKernels } from "../../src/format/codec/kernels.ts";
import { makeCodecs } from "../../src/format/codec/make-codecs.ts";
import { nativeCodecs } from "../../src/os/native-codecs.ts";
import { mutate, Random } from "../kit/random.ts";

const SEED = 0xdec0de;
const ROUNDS = 4000;
const STREAM_ROUNDS = 250;
const TIMEOUT_MS = 60_000;
/** Output that a mutated stream may give before it is left: a bomb is not a fault. */
const OUTPUT_CAP = 1 << 22;
console.log(`decoders.test.ts: seed ${SEED}`);

const kernels = await loadKernels();
const TABLES = [makeCodecs(kernels, await nativeCodecs()), makeCodecs(kernels, undefined)];

/** Text, copies, runs and noise in one, so that every kind of block and table comes up. */
function sample(random: Random, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length; ) {
    const end = Math.min(length, at + random.between(1, 200));
    const kind = random.below(4);
    const distance = random.between(1, random.pick([4, 40, 3000]));
    for (; at < end; at++) {
      const fresh = kind === 0 ? random.below(256) : 97 + random.below(1 + random.below(26));
      bytes[at] = kind > 1 ? (bytes[at - distance] ?? fresh) : fresh;
    }
  }
  return bytes;
}

interface Case {
  readonly packed: Uint8Array;
  readonly sizeBytes: number;
}

type Pack = (data: Uint8Array, random: Random) => Uint8Array;

const zstdLevels = [1, 3, 9, 19];
const strategies = [constants.Z_DEFAULT_STRATEGY, constants.Z_FIXED, constants.Z_HUFFMAN_ONLY, constants.Z_RLE];
const zlibOptions = (random: Random) => ({ level: random.pick([0, 1, 6, 9]), strategy: random.pick(strategies) });

const PACKS = {
  zstd: (data, random) => Bun.zstdCompressSync(data as Uint8Array<ArrayBuffer>, { level: random.pick(zstdLevels) }),
  gzip: (data, random) => new Uint8Array(gzipSync(data, zlibOptions(random))),
  "raw-deflate": (data, random) => new Uint8Array(deflateRawSync(data, zlibOptions(random))),
  lz4: (data) => kernels.lz4Compress(data),
} satisfies Record<string, Pack>;

/** Mutated inputs, the same for the same seed; sizes small and large, some beyond one zstd block. */
function* cases(name: keyof typeof PACKS, rounds: number): Generator<Case & { readonly random: Random }> {
  const random = new Random(SEED);
  const pack: Pack = PACKS[name];
  const sources = [0, 1, 30, 300, 3000, 20_000, 200_000].map((length) => {
    const data = sample(random, length);
    return { packed: pack(data, random), sizeBytes: length };
  });
  for (let round = 0; round < rounds; round++) {
    const { packed, sizeBytes } = random.pick(sources);
    yield { packed: mutate(packed, random), sizeBytes, random };
  }
}

/** What `fn` gives, or undefined for a NydusError; anything else is thrown on, a trap of the core (EFAULT) too. */
function attempt(fn: () => Uint8Array): Uint8Array | undefined {
  try {
    return fn();
  } catch (error) {
    if (error instanceof NydusError && error.code !== "EFAULT") return undefined;
    throw error;
  }
}

function attemptOracle(fn: () => Uint8Array): Uint8Array | undefined {
  try {
    return fn();
  } catch {
    return undefined;
  }
}

const DECODERS: Record<
  keyof typeof PACKS,
  { core: (input: Case) => Uint8Array; oracle?: (input: Case) => Uint8Array }
> = {
  zstd: {
    core: ({ packed, sizeBytes }) => kernels.zstdDecompress(packed, sizeBytes),
    oracle: ({ packed }) => Bun.zstdDecompressSync(packed as Uint8Array<ArrayBuffer>),
  },
  gzip: {
    core: ({ packed, sizeBytes }) => kernels.inflate("gzip", packed, sizeBytes),
    oracle: ({ packed }) => gunzipSync(packed, { maxOutputLength: OUTPUT_CAP }),
  },
  "raw-deflate": {
    core: ({ packed, sizeBytes }) => kernels.inflate("raw-deflate", packed, sizeBytes),
    oracle: ({ packed }) => inflateRawSync(packed, { maxOutputLength: OUTPUT_CAP }),
  },
  lz4: { core: ({ packed, sizeBytes }) => kernels.lz4Decompress(packed, sizeBytes) },
};

test.each(Object.keys(DECODERS) as (keyof typeof DECODERS)[])(
  "the core refuses mutated %s by NydusError alone, and what it takes the runtime decodes to the same",
  (name) => {
    const { core, oracle } = DECODERS[name];
    for (const input of cases(name, ROUNDS)) {
      const output = attempt(() => core(input));
      if (output === undefined) continue;
      expect(output.length).toBe(input.sizeBytes);
      if (oracle === undefined) continue;
      const wanted = attemptOracle(() => oracle(input));
      expect(wanted).toBeDefined();
      expect(Buffer.compare(output, wanted ?? new Uint8Array(0))).toBe(0);
    }
  },
  TIMEOUT_MS,
);

/** Inputs above this are not cut into single bytes: that would take minutes. */
const SMALL_BYTES = 5000;

/** Pushes the input in random pieces, with random limits; throws an Error where the decoder breaks its contract. */
function pushAll(format: DecoderFormat, { packed, random }: { packed: Uint8Array; random: Random }): Uint8Array {
  using decoder = kernels.openDecoder(format, 1 << 23);
  const outputs: Uint8Array[] = [];
  let total = 0;
  let mayEnd = false;
  const isSmall = packed.length < SMALL_BYTES;
  const mostIn = random.pick(isSmall ? [1, 50, 5000] : [5000, 200_000]);
  const mostOut = random.pick([isSmall ? random.between(20, 300) : 3000, 70_000, 1 << 20]);
  for (let at = 0; total < OUTPUT_CAP; ) {
    const piece = packed.subarray(at, at + random.between(1, mostIn));
    const { output, consumed, atBoundary } = decoder.push(piece, mostOut);
    if (output.length > mostOut || consumed > piece.length) throw new Error(`${output.length} out, ${consumed} taken`);
    outputs.push(output);
    total += output.length;
    at += consumed;
    mayEnd = atBoundary;
    if (at === packed.length && output.length < mostOut) break;
    if (consumed + output.length === 0) throw new Error(`stuck at byte ${at}`);
  }
  if (total < OUTPUT_CAP && !mayEnd) throw new NydusError("EUCLEAN", "truncated");
  return concatBytes([new Uint8Array(0), ...outputs]);
}

test.each(["zstd", "gzip", "raw-deflate"] as const)(
  "a stream of mutated %s, split anyhow, gives what one call gives",
  (format) => {
    for (const input of cases(format, ROUNDS / 4)) {
      const streamed = attempt(() => pushAll(format, input));
      const whole = attempt(() => DECODERS[format].core(input));
      if (whole !== undefined) expect(streamed).toBeDefined();
      const sizeBytes = streamed?.length ?? 0;
      if (streamed === undefined || sizeBytes >= OUTPUT_CAP) continue;
      const again = attempt(() => DECODERS[format].core({ packed: input.packed, sizeBytes }));
      expect(again).toBeDefined();
      expect(Buffer.compare(streamed, again ?? new Uint8Array(0))).toBe(0);
    }
  },
  TIMEOUT_MS,
);

async function decodeCapped(codecs: (typeof TABLES)[number], format: StreamFormat, packed: Uint8Array, cut: number) {
  const input = (async function* () {
    yield packed.subarray(0, cut);
    yield packed.subarray(cut);
  })();
  let total = 0;
  for await (const piece of codecs.decompressStream(format, input)) {
    total += piece.length;
    if (total > OUTPUT_CAP) return;
  }
}

test.each(["zstd", "gzip"] as const)(
  "decompressStream() of mutated %s ends, and by NydusError alone, on both tables",
  async (format) => {
    for (const { packed, random } of cases(format, STREAM_ROUNDS)) {
      for (const codecs of TABLES) {
        const decoding = decodeCapped(codecs, format, packed, random.below(packed.length + 1));
        const error: unknown = await decoding.then(
          () => undefined,
          (reason) => reason,
        );
        if (error !== undefined) expect(error).toBeInstanceOf(NydusError);
      }
    }
  },
  TIMEOUT_MS,
);

test(
  "decompress() of mutated chunks: what the core takes both tables decode to the same",
  () => {
    // not the other way round: C zstd does not see that a Huffman stream has bits left over
    for (const name of ["zstd", "gzip"] as const) {
      for (const { packed, sizeBytes } of cases(name, ROUNDS / 4)) {
        const [fast, core] = TABLES.map((codecs) => attempt(() => codecs.decompress(name, packed, sizeBytes)));
        if (core !== undefined) expect(Buffer.compare(fast ?? new Uint8Array(0), core)).toBe(0);
      }
    }
  },
  TIMEOUT_MS,
);
