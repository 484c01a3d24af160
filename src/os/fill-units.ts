import { readSync, writevSync } from "node:fs";
import { asNydusError, NydusError } from "../base/errors.ts";
import type { Codecs } from "../format/codec/codecs.ts";
import type { DecodeFailure, FileBytes, FillJob, FillUnit } from "./codec-pool.ts";
import { decodeFailure, decodeUnit } from "./decode-unit.ts";

/** Blocks of a device. */
const BLOCK_BYTES = 4096;
/** Neighbouring chunks are written in one go up to so many bytes and pieces. */
const WRITE_BYTES = 1 << 20;
const WRITE_PIECES = 512;

const ZEROS = new Uint8Array(BLOCK_BYTES);

/** Decodes and verifies units, then writes their chunks to the device: nothing is written before it is verified. */
export function fillUnits(codecs: Codecs, job: FillJob): (DecodeFailure | undefined)[] {
  const results: (DecodeFailure | undefined)[] = job.units.map(() => undefined);
  const data = job.data instanceof Uint8Array ? job.data : readFileBytes(job.data);
  const writer = new DeviceWriter(job.deviceFd, (units, failure) => {
    for (const u of units) results[u] = failure;
  });
  for (const [u, unit] of job.units.entries()) {
    try {
      const plain = decodeUnit(codecs, job.digester, { data, unit });
      addUnit(writer, u, { unit, plain });
    } catch (error) {
      results[u] = decodeFailure(error);
    }
  }
  writer.flush();
  return results;
}

function addUnit(writer: DeviceWriter, u: number, { unit, plain }: { unit: FillUnit; plain: Uint8Array }): void {
  for (const [i, { offsetInUnit, sizeBytes }] of unit.chunks.entries()) {
    writer.add(u, unit.deviceOffsets[i] as number, plain.subarray(offsetInUnit, offsetInUnit + sizeBytes));
  }
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
