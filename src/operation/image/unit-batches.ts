import { inPlace, NydusError } from "../../base/errors.ts";
import type { ByteSource } from "../../content/store/source.ts";
import type { ChunkMap } from "../../format/rafs/chunk-map.ts";
import type { RafsImage } from "../../format/rafs/image.ts";
import type { CodecPool, DecodeFailure, DecodeUnit } from "../../os/codec-pool.ts";

/** A blob of an image: its chunks, and where its bytes are. */
export interface BlobReader {
  /** For messages. */
  readonly digest: string;
  readonly chunks: ChunkMap;
  readonly source: ByteSource;
}

/** An image whose files can be read. */
export interface ReadableImage {
  readonly rafs: RafsImage;
  /** `blobs[slot - 1]`, as the bootstrap's device table has them. */
  readonly blobs: readonly BlobReader[];
}

/** How blobs are read. */
export interface ReadFilesOptions {
  readonly pool: CodecPool;
  readonly signal?: AbortSignal;
}

/** A part of a chunk that is wanted. */
export interface ChunkPart {
  readonly blob: BlobReader;
  /** Position in the blob's chunk map. */
  readonly chunk: number;
  /** First wanted byte in the chunk. */
  readonly start: number;
  readonly lengthBytes: number;
}

/** Limits of one read of a blob and of what it decompresses to; a unit larger than that goes alone. */
const BATCH_BLOB_BYTES = 2 << 20;
const BATCH_UNIT_BYTES = 4 << 20;
/** Largest gap in a blob that is read along with its neighbours. */
const GAP_BYTES = 16 << 10;
/** Parts in one batch. */
const BATCH_PARTS = 512;

/** A part of a batch, and where its bytes are once the batch is decoded; of no unit when it is no chunk's. */
interface BatchPart<Part> {
  readonly part: Part;
  readonly unit?: { readonly index: number; readonly start: number };
}

interface BatchUnit extends Omit<DecodeUnit, "chunks"> {
  readonly chunks: DecodeUnit["chunks"][number][];
}

/** Parts in order, and the one read of one blob that gives their bytes. */
export class Batch<Part extends object> {
  readonly parts: BatchPart<Part>[] = [];
  readonly units: BatchUnit[] = [];
  #blob: BlobReader | undefined;
  #start = 0;
  #end = 0;
  #unitBytes = 0;

  /** Whether a part can join: it needs no blob, or its unit follows in the same blob, or is already there. */
  fits(part: Part | (Part & ChunkPart)): boolean {
    if (this.parts.length >= BATCH_PARTS) return false;
    if (!isChunkPart(part) || this.#blob === undefined) return true;
    if (this.#blob !== part.blob) return false;
    return this.#hasUnit(part) || this.#unitFits(part);
  }

  /** Adds a part that fits. */
  add(part: Part | (Part & ChunkPart)): void {
    if (!isChunkPart(part)) {
      this.parts.push({ part });
      return;
    }
    const { chunks } = part.blob;
    if (this.#blob === undefined) {
      this.#blob = part.blob;
      this.#start = chunks.blobOffset(part.chunk);
    }
    if (!this.#hasUnit(part)) this.#addUnit(part);
    this.#addChunk(part);
    const start = chunks.offsetInUnit(part.chunk) + part.start;
    this.parts.push({ part, unit: { index: this.units.length - 1, start } });
  }

  /**
   * Reads and decodes the batch's units.
   * @returns for each unit its verified bytes, or why there are none
   * @throws what the blob's source throws, with the blob's digest
   */
  async read(
    image: ReadableImage,
    { pool, signal }: ReadFilesOptions,
  ): Promise<readonly (Uint8Array | DecodeFailure)[]> {
    signal?.throwIfAborted();
    const blob = this.#blob;
    if (blob === undefined) return [];
    const range = { start: this.#start, end: this.#end };
    const read = await inPlace({ digest: blob.digest }, () =>
      blob.source.readAt(range, { why: "demand", ...(signal && { signal }) }),
    );
    // The pool takes the whole buffer away: a view into a larger one must not pull its owner's memory along.
    const data = read.byteLength === read.buffer.byteLength ? read : read.slice();
    return pool.decode({ data, digester: image.rafs.digester, units: this.units });
  }

  /** The error of a unit that failed, with its place in the blob. */
  failure(unit: number, { code, message }: DecodeFailure): NydusError {
    const { offset = 0, sizeBytes: length = 0 } = this.units[unit] ?? {};
    return new NydusError(code, message, { digest: this.#blob?.digest ?? "", offset: this.#start + offset, length });
  }

  #hasUnit({ blob, chunk }: ChunkPart): boolean {
    const last = this.units.at(-1);
    return last !== undefined && this.#start + last.offset === blob.chunks.blobOffset(chunk);
  }

  #unitFits({ blob, chunk }: ChunkPart): boolean {
    const { chunks } = blob;
    const gap = chunks.blobOffset(chunk) - this.#end;
    if (gap < 0 || gap > GAP_BYTES) return false;
    const blobBytes = this.#end + gap + chunks.blobSizeBytes(chunk) - this.#start;
    return blobBytes <= BATCH_BLOB_BYTES && this.#unitBytes + chunks.unitBytes(chunk) <= BATCH_UNIT_BYTES;
  }

  #addUnit({ blob, chunk }: ChunkPart): void {
    const { chunks } = blob;
    const unitBytes = chunks.unitBytes(chunk);
    const sizeBytes = chunks.blobSizeBytes(chunk);
    const offset = chunks.blobOffset(chunk) - this.#start;
    this.units.push({ offset, sizeBytes, compressor: chunks.compressor(chunk), unitBytes, chunks: [] });
    this.#end = this.#start + offset + sizeBytes;
    this.#unitBytes += unitBytes;
  }

  #addChunk({ blob, chunk }: ChunkPart): void {
    const { chunks } = blob;
    const unit = this.units.at(-1);
    const offsetInUnit = chunks.offsetInUnit(chunk);
    if (unit === undefined || unit.chunks.some((one) => one.offsetInUnit === offsetInUnit)) return;
    // Copied: a view would take its whole buffer, the bootstrap, to the thread.
    const digest = chunks.digest(chunk)?.slice();
    const sizeBytes = chunks.sizeBytes(chunk);
    unit.chunks.push({ offsetInUnit, sizeBytes, digest, crc32c: chunks.crc32c(chunk) });
  }
}

function isChunkPart<Part extends object>(part: Part): part is Part & ChunkPart {
  return "blob" in part;
}

/** Parts, in order, in as few batches as the limits allow. */
export function* planBatches<Part extends object>(parts: Iterable<Part>): Generator<Batch<Part>> {
  let batch = new Batch<Part>();
  for (const part of parts) {
    if (!batch.fits(part)) {
      yield batch;
      batch = new Batch();
    }
    batch.add(part);
  }
  if (batch.parts.length > 0) yield batch;
}

/** The parts of chunks that make up a range of a device. @throws EUCLEAN bytes that belong to no chunk */
export function* chunkParts(blob: BlobReader, deviceOffset: number, length: number): Generator<ChunkPart> {
  const { chunks } = blob;
  for (let at = deviceOffset; at < deviceOffset + length; ) {
    const chunk = chunks.find(at);
    if (chunk < 0) {
      const place = { digest: blob.digest, offset: at };
      throw new NydusError("EUCLEAN", `Cannot read file: no chunk holds device byte ${at}`, place);
    }
    const start = at - chunks.deviceOffset(chunk);
    const lengthBytes = Math.min(deviceOffset + length - at, chunks.sizeBytes(chunk) - start);
    yield { blob, chunk, start, lengthBytes };
    at += lengthBytes;
  }
}
