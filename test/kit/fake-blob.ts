import { createHash } from "node:crypto";
import { readSync, writeSync } from "node:fs";
import { zstdCompressSync, zstdDecompressSync } from "node:zlib";
import { alignUp, BLOCK_BYTES, type ByteRange } from "../../src/base/bytes.ts";
import { asNydusError, NydusError } from "../../src/base/errors.ts";
import type { ByteSource, ReadOptions } from "../../src/content/store/source.ts";
import type { Compressor } from "../../src/format/codec/codecs.ts";
import type { ChunkMap } from "../../src/format/rafs/chunk-map.ts";
import type { CodecPool, DecodeFailure, DecodeUnit, FileBytes, FillJob } from "../../src/os/codec-pool.ts";
import { unitsOf } from "../../src/os/fill-units.ts";

type FillUnit = ReturnType<typeof unitsOf>[number];

/** Random numbers from a seed (mulberry32). */
export function randomOf(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % below;
  };
}

interface FakeChunk {
  deviceOffset: number;
  sizeBytes: number;
  blobOffset: number;
  blobSizeBytes: number;
  compressor: Compressor;
  unitBytes: number;
  offsetInUnit: number;
  digest: Uint8Array | undefined;
}

/** A blob with random content: its chunks, its stored bytes, and the device that they give. */
export interface FakeBlob {
  readonly id: string;
  readonly chunks: ChunkMap;
  /** The rows behind `chunks`: tests damage them. */
  readonly rows: FakeChunk[];
  readonly blob: Uint8Array;
  readonly device: Uint8Array;
}

/** What {@link makeFakeBlob} makes. */
export interface FakeShape {
  readonly seed: number;
  readonly units: number;
  /** Of the largest chunk; sizes are random unless `full`. */
  readonly chunkBytes: number;
  /** Chunks of a unit, at most. */
  readonly batch?: number;
  /** Chunks of full size that do not compress, without gaps. */
  readonly full?: boolean;
}

/** Makes a blob of units of one to `batch` chunks, with gaps between some of them in blob and device. */
export function makeFakeBlob(shape: FakeShape): FakeBlob {
  const random = randomOf(shape.seed);
  const rows: FakeChunk[] = [];
  const stored: Uint8Array[] = [];
  const pieces: { at: number; data: Uint8Array }[] = [];
  let [blobOffset, deviceOffset] = [0, 0];
  for (let u = 0; u < shape.units; u++) {
    const { parts, unitBytes, packed, compressor, gap, blocks } = makeUnit(shape, random);
    stored.push(new Uint8Array(gap).fill(0xee), packed);
    blobOffset += gap;
    deviceOffset += blocks * BLOCK_BYTES;
    let offsetInUnit = 0;
    for (const part of parts) {
      const digest = createHash("sha256").update(part).digest();
      const place = { deviceOffset, sizeBytes: part.length, blobOffset, blobSizeBytes: packed.length };
      rows.push({ ...place, compressor, unitBytes, offsetInUnit, digest });
      pieces.push({ at: deviceOffset, data: part });
      offsetInUnit += part.length;
      deviceOffset = alignUp(deviceOffset + part.length, BLOCK_BYTES);
    }
    blobOffset += packed.length;
  }
  const device = new Uint8Array(deviceOffset);
  for (const { at, data } of pieces) device.set(data, at);
  const blob = Uint8Array.from(Buffer.concat(stored));
  return { id: createHash("sha256").update(blob).digest("hex"), chunks: chunkMapOver(rows), rows, blob, device };
}

interface FakeUnit {
  readonly parts: readonly Uint8Array[];
  readonly unitBytes: number;
  readonly packed: Uint8Array;
  readonly compressor: Compressor;
  /** Bytes of the blob, and blocks of the device, before it that are nobody's. */
  readonly gap: number;
  readonly blocks: number;
}

function makeUnit(shape: FakeShape, random: (below: number) => number): FakeUnit {
  const isOneOf = (count: number): boolean => random(count) === 0;
  const parts = Array.from({ length: 1 + random(shape.batch ?? 1) }, () => makeChunk(shape, random));
  const unit = Buffer.concat(parts);
  const compressor = shape.full || isOneOf(4) ? "none" : "zstd";
  const packed = compressor === "none" ? unit : zstdCompressSync(unit);
  const [blocks, gap] = shape.full ? [0, 0] : [isOneOf(5) ? 1 : 0, isOneOf(3) ? random(200) : 0];
  return { parts, unitBytes: unit.length, packed, compressor, gap, blocks };
}

function makeChunk({ chunkBytes, full }: FakeShape, random: (below: number) => number): Uint8Array {
  if (full === true) {
    const key = random(2 ** 31);
    return Uint8Array.from({ length: chunkBytes }, (_, i) => Math.imul(i + key, 0x9e3779b1) >>> 24);
  }
  const chunk = new Uint8Array(1 + random(chunkBytes)).fill(random(256));
  for (let i = 0; i < chunk.length; i += 7) chunk[i] = random(256);
  return chunk;
}

/** A chunk map over rows in the order of the device. */
export function chunkMapOver(rows: readonly FakeChunk[]): ChunkMap {
  const row = (i: number): FakeChunk => {
    const found = rows[i];
    if (found === undefined) throw new Error(`chunk ${i} of ${rows.length}`);
    return found;
  };
  return {
    count: rows.length,
    digester: "sha256",
    find: (at) => rows.findIndex(({ deviceOffset, sizeBytes }) => at >= deviceOffset && at < deviceOffset + sizeBytes),
    deviceOffset: (i) => row(i).deviceOffset,
    sizeBytes: (i) => row(i).sizeBytes,
    blobOffset: (i) => row(i).blobOffset,
    blobSizeBytes: (i) => row(i).blobSizeBytes,
    compressor: (i) => row(i).compressor,
    unitBytes: (i) => row(i).unitBytes,
    offsetInUnit: (i) => row(i).offsetInUnit,
    digest: (i) => row(i).digest,
    crc32c: () => undefined,
  };
}

/** A source in memory that remembers what it was asked for. */
export interface MemorySource extends ByteSource {
  readonly reads: { readonly range: ByteRange; readonly why: string | undefined }[];
  /** Called before each answer: may wait or throw. */
  before: (range: ByteRange, options: ReadOptions) => Promise<void> | void;
}

/** A source over bytes. */
export function memorySource(bytes: Uint8Array): MemorySource {
  const source: MemorySource = {
    sizeBytes: bytes.length,
    reads: [],
    before: () => undefined,
    readAt: async (range, options = {}) => {
      source.reads.push({ range, why: options.why });
      await source.before(range, options);
      if (range.end > bytes.length) throw new NydusError("EINVAL", "Cannot read: past the end");
      return bytes.slice(range.start, range.end);
    },
    close: async () => undefined,
  };
  return source;
}

/** A codec pool without threads: zstd and SHA-256 by the runtime. */
export function inlinePool(threads = 2): CodecPool & { fills: FillJob[] } {
  const fills: FillJob[] = [];
  return {
    threads,
    fills,
    decode: () => Promise.reject(new Error("not in this pool")),
    fill: async (job) => {
      const { data } = job;
      const units = unitsOf(job);
      const here =
        data instanceof Uint8Array ? structuredClone(data, { transfer: [data.buffer as ArrayBuffer] }) : data;
      fills.push(job);
      await Promise.resolve();
      return units.map((unit) => fillInline(here, job.deviceFd, unit));
    },
    encode: () => Promise.reject(new Error("not in this pool")),
    reconsider: () => undefined,
    warmUp: () => undefined,
    [Symbol.asyncDispose]: async () => undefined,
  };
}

function fillInline(data: Uint8Array | FileBytes, deviceFd: number, unit: FillUnit): DecodeFailure | undefined {
  const plain = decodeInline(data instanceof Uint8Array ? data : readFile(data), unit);
  if (!(plain instanceof Uint8Array)) return plain;
  try {
    for (const { deviceOffset, offsetInUnit, sizeBytes } of unit.chunks) {
      for (let at = 0; at < sizeBytes; ) {
        at += writeSync(deviceFd, plain, offsetInUnit + at, sizeBytes - at, deviceOffset + at);
      }
    }
  } catch (error) {
    const { code, message } = asNydusError(error);
    return { code, message };
  }
  return undefined;
}

function readFile({ fd, position, sizeBytes }: FileBytes): Uint8Array {
  const data = new Uint8Array(sizeBytes);
  readSync(fd, data, 0, sizeBytes, position);
  return data;
}

function decodeInline(data: Uint8Array, unit: DecodeUnit): Uint8Array | DecodeFailure {
  const packed = data.subarray(unit.offset, unit.offset + unit.sizeBytes);
  let plain: Uint8Array;
  try {
    plain = unit.compressor === "none" ? packed.slice() : Uint8Array.from(zstdDecompressSync(packed));
  } catch (error) {
    return { code: "EUCLEAN", message: `Cannot decompress chunk: ${(error as Error).message}` };
  }
  if (plain.length !== unit.unitBytes) return { code: "EUCLEAN", message: "Cannot decompress chunk: another size" };
  for (const chunk of unit.chunks) {
    const bytes = plain.subarray(chunk.offsetInUnit, chunk.offsetInUnit + chunk.sizeBytes);
    const isGood = createHash("sha256")
      .update(bytes)
      .digest()
      .equals(chunk.digest ?? new Uint8Array(0));
    if (!isGood) return { code: "EBADMSG", message: "Cannot verify chunk: its digest differs" };
  }
  return plain;
}
