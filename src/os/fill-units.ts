import { readSync, writevSync } from "node:fs";
import { asNydusError, NydusError } from "../base/errors.ts";
import { type Codecs, DIGEST_BYTES, type Digester } from "../format/codec/codecs.ts";
import {
  CHUNK_CHECK,
  CHUNK_ROW,
  COMPRESSOR_ORDER,
  type DecodeFailure,
  type DecodeUnit,
  type FileBytes,
  type FillJob,
  UNIT_ROW,
} from "./codec-pool.ts";
import { bytesOf, decodeFailure, decodeUnit, decompressUnit, digestDiffers } from "./decode-unit.ts";

/** Blocks of a device. */
const BLOCK_BYTES = 4096;
/** Neighbouring chunks are written in one go up to so many bytes and pieces. */
const WRITE_BYTES = 1 << 20;
const WRITE_PIECES = 512;

/** Units, and the chunks in them, of at most so many bytes are digested together. */
const SMALL_BYTES = 64 << 10;
const BATCH_BYTES = 1 << 20;
/** Memory that a thread keeps for what it reads from files. */
const SCRATCH_BYTES = 1 << 20;
/** Below this, memory is left to the garbage collector. */
const DISCARD_BYTES = 32 << 10;

let batch: Uint8Array | undefined;
let scratch: Uint8Array | undefined;

const ZEROS = new Uint8Array(BLOCK_BYTES);

/** Decodes and verifies units, then writes their chunks to the device: nothing is written before it is verified. */
export function fillUnits(codecs: Codecs, job: FillJob): (DecodeFailure | undefined)[] {
  const units = unitsOf(job);
  const results: (DecodeFailure | undefined)[] = units.map(() => undefined);
  const data = job.data instanceof Uint8Array ? job.data : readFileBytes(job.data);
  const fail: OnFailure = (failed, failure) => {
    for (const u of failed) results[u] = failure;
  };
  const writer = new DeviceWriter(job.deviceFd, fail);
  const small = new SmallUnits({ codecs, digester: job.digester, writer, fail });
  for (const [u, unit] of units.entries()) {
    try {
      if (isSmall(unit)) small.add(u, unit, decompressUnit(codecs, { data, unit }));
      else {
        small.flush();
        fillLarge({ plain: decodeUnit(codecs, job.digester, { data, unit }), data, writer }, u, unit);
      }
    } catch (error) {
      fail([u], decodeFailure(error));
    }
  }
  small.flush();
  discard(data, undefined);
  return results;
}

type OnFailure = (units: Iterable<number>, failure: DecodeFailure) => void;

function fillLarge(
  { plain, data, writer }: { plain: Uint8Array; data: Uint8Array; writer: DeviceWriter },
  u: number,
  unit: FillUnit,
): void {
  for (const { deviceOffset, offsetInUnit, sizeBytes } of unit.chunks) {
    writer.add(u, deviceOffset, plain.subarray(offsetInUnit, offsetInUnit + sizeBytes));
  }
  writer.flush();
  discard(plain, data);
}

/**
 * Gives back the memory of bytes that nobody needs any more. Collected as garbage it would be some tens of megabytes
 * until then, and each buffer would be of fresh pages.
 * @param owner bytes that they may be a part of
 */
function discard(bytes: Uint8Array, owner: Uint8Array | undefined): void {
  const { buffer } = bytes;
  if (buffer === owner?.buffer || buffer === scratch?.buffer || !(buffer instanceof ArrayBuffer)) return;
  if (bytes.byteLength === buffer.byteLength && bytes.byteLength >= DISCARD_BYTES) buffer.transfer(0);
}

/** Whether a unit is digested together with others. */
function isSmall({ unitBytes, chunks }: FillUnit): boolean {
  if (unitBytes > SMALL_BYTES) return false;
  let sum = 0;
  for (const { sizeBytes, digest } of chunks) {
    if (digest === undefined || sizeBytes === 0) return false; // an empty chunk would get no digest
    sum += sizeBytes;
  }
  return sum <= SMALL_BYTES;
}

interface SmallUnit {
  readonly u: number;
  readonly unit: FillUnit;
}

/** What {@link SmallUnits} works with. */
interface SmallUnitsOptions {
  readonly codecs: Codecs;
  readonly digester: Digester;
  readonly writer: DeviceWriter;
  readonly fail: OnFailure;
}

/** Small units, their chunks end to end in one buffer: digested by one call, as a call takes as long as 4 KiB of them. */
class SmallUnits {
  readonly #options: SmallUnitsOptions;
  #units: SmallUnit[] = [];
  #end = 0;

  constructor(options: SmallUnitsOptions) {
    this.#options = options;
  }

  /** @param plain its bytes, decompressed @throws EUCLEAN a chunk ends past the unit */
  add(u: number, unit: FillUnit, plain: Uint8Array): void {
    const pieces = unit.chunks.map((chunk) => bytesOf(plain, chunk));
    if (this.#end + SMALL_BYTES > BATCH_BYTES) this.flush();
    batch ??= new Uint8Array(BATCH_BYTES);
    for (const piece of pieces) {
      batch.set(piece, this.#end);
      this.#end += piece.length;
    }
    this.#units.push({ u, unit });
    discard(plain, undefined);
  }

  /** Verifies what was added, and writes what is right. */
  flush(): void {
    const [units, end] = [this.#units, this.#end];
    this.#units = [];
    this.#end = 0;
    if (batch === undefined || units.length === 0) return;
    const { codecs, digester, writer, fail } = this.#options;
    const bytes = batch.subarray(0, end);
    const sizes = Uint32Array.from(units.flatMap(({ unit }) => unit.chunks.map(({ sizeBytes }) => sizeBytes)));
    try {
      const digests = codecs.digestChunks(digester, bytes, sizes, SMALL_BYTES);
      this.#write(units, bytes, digests);
      writer.flush();
    } catch (error) {
      const failed = units.map(({ u }) => u);
      fail(failed, decodeFailure(error));
    }
  }

  /** @param digests of the chunks that `bytes` are, 32 bytes each */
  #write(units: readonly SmallUnit[], bytes: Uint8Array, digests: Uint8Array): void {
    const { digester, writer, fail } = this.#options;
    let [at, row] = [0, 0];
    for (const { u, unit } of units) {
      let right = true;
      for (const { digest } of unit.chunks) right = isDigest(digests, row++, digest) && right;
      for (const { deviceOffset, sizeBytes } of unit.chunks) {
        if (right) writer.add(u, deviceOffset, bytes.subarray(at, at + sizeBytes));
        at += sizeBytes;
      }
      if (!right) fail([u], decodeFailure(digestDiffers(digester)));
    }
  }
}

/** Whether row `row` of `digests` is `wanted`. */
function isDigest(digests: Uint8Array, row: number, wanted: Uint8Array | undefined): boolean {
  if (wanted?.length !== DIGEST_BYTES) return false;
  for (let i = 0; i < DIGEST_BYTES; i++) if (digests[row * DIGEST_BYTES + i] !== wanted[i]) return false;
  return true;
}

/** A unit that is written to a device once it is decoded and verified. */
interface FillUnit extends DecodeUnit {
  readonly chunks: readonly (DecodeUnit["chunks"][number] & { readonly deviceOffset: number })[];
}

/** The rows of a job as units. */
export function unitsOf({ units, chunks, digests }: FillJob): FillUnit[] {
  let chunk = 0;
  const chunkAt = (i: number): FillUnit["chunks"][number] => {
    const row = chunks.subarray(i * CHUNK_ROW.length, (i + 1) * CHUNK_ROW.length);
    const check = at(row, CHUNK_ROW.check);
    return {
      deviceOffset: at(row, CHUNK_ROW.deviceOffset),
      offsetInUnit: at(row, CHUNK_ROW.offsetInUnit),
      sizeBytes: at(row, CHUNK_ROW.sizeBytes),
      digest: check === CHUNK_CHECK.digest ? digests.subarray(i * DIGEST_BYTES, (i + 1) * DIGEST_BYTES) : undefined,
      crc32c: check >= 0 ? check : undefined,
    };
  };
  return Array.from({ length: units.length / UNIT_ROW.length }, (_, u) => {
    const row = units.subarray(u * UNIT_ROW.length, (u + 1) * UNIT_ROW.length);
    return {
      offset: at(row, UNIT_ROW.offset),
      sizeBytes: at(row, UNIT_ROW.sizeBytes),
      compressor: COMPRESSOR_ORDER[at(row, UNIT_ROW.compressor)] ?? "none",
      unitBytes: at(row, UNIT_ROW.unitBytes),
      chunks: Array.from({ length: at(row, UNIT_ROW.chunks) }, () => chunkAt(chunk++)),
    };
  });
}

function at(row: Float64Array, column: number): number {
  return row[column] as number;
}

/** The bytes; in memory that the next call may use again. */
function readFileBytes({ fd, position, sizeBytes }: FileBytes): Uint8Array {
  if (sizeBytes <= SCRATCH_BYTES) scratch ??= new Uint8Array(SCRATCH_BYTES);
  const data = sizeBytes <= SCRATCH_BYTES && scratch ? scratch.subarray(0, sizeBytes) : new Uint8Array(sizeBytes);
  for (let at = 0; at < sizeBytes; ) {
    const got = readSync(fd, data, at, sizeBytes - at, position + at);
    if (got === 0) throw new NydusError("EIO", `Cannot read blob: its file ends ${sizeBytes - at} bytes early`);
    at += got;
  }
  return data;
}

/** Writes chunks to a device, those that follow one another in one call. */
class DeviceWriter {
  readonly #fd: number;
  readonly #onFailure: OnFailure;
  #pieces: Uint8Array[] = [];
  #units = new Set<number>();
  #start = 0;
  #end = 0;

  constructor(fd: number, onFailure: OnFailure) {
    this.#fd = fd;
    this.#onFailure = onFailure;
  }

  /** @param unit whose chunk this is @param offset a multiple of a block */
  add(unit: number, offset: number, bytes: Uint8Array): void {
    const padding = offset - this.#end;
    // Up to its block's end a chunk's last block is nobody's: zeros.
    const follows = this.#pieces.length > 0 && padding >= 0 && padding < BLOCK_BYTES;
    const fits = this.#pieces.length < WRITE_PIECES && offset + bytes.length - this.#start <= WRITE_BYTES;
    if (!follows || !fits) {
      this.flush();
      this.#start = offset;
    } else if (padding > 0) this.#pieces.push(ZEROS.subarray(0, padding));
    this.#pieces.push(bytes);
    this.#units.add(unit);
    this.#end = offset + bytes.length;
  }

  flush(): void {
    const [pieces, units] = [this.#pieces, this.#units];
    this.#pieces = [];
    this.#units = new Set();
    try {
      writeAll(this.#fd, pieces, this.#start);
    } catch (error) {
      this.#onFailure(units, decodeFailure(asNydusError(error)));
    }
  }
}

function writeAll(fd: number, pieces: readonly Uint8Array[], start: number): void {
  let left = pieces.filter(({ length }) => length > 0);
  for (let at = start; left.length > 0; ) {
    const written = writevSync(fd, left as Uint8Array<ArrayBuffer>[], at);
    at += written;
    left = behind(left, written);
  }
}

/** What follows the first `count` bytes. */
function behind(pieces: readonly Uint8Array[], count: number): Uint8Array[] {
  let skip = count;
  return pieces.flatMap((piece) => {
    const skipped = Math.min(skip, piece.length);
    skip -= skipped;
    return skipped < piece.length ? [piece.subarray(skipped)] : [];
  });
}
