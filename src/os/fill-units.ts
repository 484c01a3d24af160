import { readSync, writevSync } from "node:fs";
import { asNydusError, NydusError } from "../base/errors.ts";
import { type Codecs, DIGEST_BYTES } from "../format/codec/codecs.ts";
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
import { decodeFailure, decodeUnit } from "./decode-unit.ts";

/** Blocks of a device. */
const BLOCK_BYTES = 4096;
/** Neighbouring chunks are written in one go up to so many bytes and pieces. */
const WRITE_BYTES = 1 << 20;
const WRITE_PIECES = 512;

const ZEROS = new Uint8Array(BLOCK_BYTES);

/** Decodes and verifies units, then writes their chunks to the device: nothing is written before it is verified. */
export function fillUnits(codecs: Codecs, job: FillJob): (DecodeFailure | undefined)[] {
  const units = unitsOf(job);
  const results: (DecodeFailure | undefined)[] = units.map(() => undefined);
  const data = job.data instanceof Uint8Array ? job.data : readFileBytes(job.data);
  const writer = new DeviceWriter(job.deviceFd, (failed, failure) => {
    for (const u of failed) results[u] = failure;
  });
  for (const [u, unit] of units.entries()) {
    try {
      const plain = decodeUnit(codecs, job.digester, { data, unit });
      for (const { deviceOffset, offsetInUnit, sizeBytes } of unit.chunks) {
        writer.add(u, deviceOffset, plain.subarray(offsetInUnit, offsetInUnit + sizeBytes));
      }
    } catch (error) {
      results[u] = decodeFailure(error);
    }
  }
  writer.flush();
  return results;
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

function readFileBytes({ fd, position, sizeBytes }: FileBytes): Uint8Array {
  const data = new Uint8Array(sizeBytes);
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
  readonly #onFailure: (units: ReadonlySet<number>, failure: DecodeFailure) => void;
  #pieces: Uint8Array[] = [];
  #units = new Set<number>();
  #start = 0;
  #end = 0;

  constructor(fd: number, onFailure: (units: ReadonlySet<number>, failure: DecodeFailure) => void) {
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
