import { BLOCK_BYTES, viewOf } from "../../base/bytes.ts";
import { NydusError } from "../../base/errors.ts";
import { type BlobMeta, decodeBlobMeta } from "./blob-meta.ts";
import { BLOB_FEATURES, type BlobInfo, hasFeature, needsBlobMeta } from "./blob-table.ts";
import type { ChunkMap } from "./chunk-map.ts";
import { CHUNK_FLAGS, RafsChunk } from "./chunk-table.ts";
import { CHUNK_BYTES_LIMITS, type Region } from "./superblock.ts";

const ROW_BYTES = RafsChunk.sizeBytes;
const AT = RafsChunk.at;
const TWO_32 = 2 ** 32;
/** A batch is no larger than the largest chunk. */
const UNIT_BYTES_LIMIT = CHUNK_BYTES_LIMITS.max;
/** Incompressible data grows by less than this share and these bytes in every codec of the format. */
const GROWTH_LIMIT_BYTES = 64 * 1024;

/** Bytes of a bootstrap that hold its chunk table. */
export interface ChunkTable {
  readonly image: Uint8Array;
  readonly region: Region;
}

/** Rows in a chunk table. @throws EUCLEAN a part of a row */
export function chunkTableRows(table: ChunkTable): number {
  const { offset, length } = table.region;
  if (length % ROW_BYTES !== 0) {
    const message = `Cannot decode chunk table: ${length} bytes are not rows of ${ROW_BYTES}`;
    throw new NydusError("EUCLEAN", message, { offset, length });
  }
  return length / ROW_BYTES;
}

/**
 * The chunk map of one blob over a bootstrap's mapped chunk table: the rows of that blob, which are the chunks that
 * this bootstrap may reference. Keeps 4 bytes a chunk, or none when the table lies in the order of the devices.
 * @param meta content of the `.blob.meta` file, needed of blobs with batches only
 * @throws EUCLEAN rows that overlap, leave their device or blob; EINVAL batches and no meta; ENOTSUP zran
 */
export function chunkMapOf(table: ChunkTable, blob: BlobInfo, meta?: Uint8Array): ChunkMap {
  if (hasFeature(blob, BLOB_FEATURES.zran)) {
    throw new NydusError("ENOTSUP", `Cannot read blob ${blob.id}: zran blobs are not supported`);
  }
  const rows = new TableRows(table, blob);
  if (!needsBlobMeta(blob)) return plainMap(rows, blob);
  if (meta === undefined) {
    throw new NydusError("EINVAL", `Cannot read blob ${blob.id}: it has batches, and its blob meta is not at hand`);
  }
  return batchMap(rows, blob, decodeBlobMeta(meta));
}

/**
 * The rows of one blob in the order of their device offsets, whatever it takes to read the blob.
 * @throws EUCLEAN rows that overlap or leave their device or blob
 */
export class TableRows {
  readonly count: number;
  readonly view: DataView;
  readonly image: Uint8Array;
  /** Row offsets by position, or undefined when they lie in a row from `#first`. */
  readonly #order: Uint32Array | undefined;
  readonly #start: number;
  #first = 0;

  constructor(table: ChunkTable, blob: BlobInfo) {
    this.image = table.image;
    this.view = viewOf(table.image);
    this.#start = table.region.offset;
    const { rows, sorted } = this.#select(chunkTableRows(table), blob.index);
    this.count = rows.length;
    if (sorted) this.#first = rows[0] ?? 0;
    else this.#order = rows.sort((a, b) => this.#offsetOfRow(a) - this.#offsetOfRow(b));
    this.#check(blob);
  }

  /** Rows of the blob, and whether they follow one another in the order of device offsets. */
  #select(total: number, blobIndex: number): { rows: Uint32Array; sorted: boolean } {
    const rows = new Uint32Array(total);
    let count = 0;
    let sorted = true;
    let last = -1;
    for (let row = 0; row < total; row++) {
      if (this.view.getUint32(this.#start + row * ROW_BYTES + AT.blobIndex, true) !== blobIndex) continue;
      const offset = this.#offsetOfRow(row);
      if (offset <= last || (count > 0 && rows[count - 1] !== row - 1)) sorted = false;
      last = offset;
      rows[count++] = row;
    }
    return { rows: rows.slice(0, count), sorted };
  }

  #offsetOfRow(row: number): number {
    return this.#u64(this.#start + row * ROW_BYTES + AT.uncompressedOffset);
  }

  #u64(at: number): number {
    return this.view.getUint32(at + 4, true) * TWO_32 + this.view.getUint32(at, true);
  }

  #check(blob: BlobInfo): void {
    let end = 0;
    for (let i = 0; i < this.count; i++) {
      const offset = this.deviceOffset(i);
      const size = this.size(i);
      if (offset % BLOCK_BYTES !== 0 || offset < end || size < 1 || size > blob.chunkBytes) {
        throw this.error(i, `${size} bytes at device offset ${offset}, the one before ends at ${end}`);
      }
      end = offset + size;
      if (end > blob.deviceBytes)
        throw this.error(i, `it ends at ${end}, past the device of ${blob.deviceBytes} bytes`);
      if (this.blobOffset(i) + this.blobSize(i) > blob.compressedBytes) {
        throw this.error(i, `it ends past the blob of ${blob.compressedBytes} bytes`);
      }
      if (this.blobSize(i) > UNIT_BYTES_LIMIT + GROWTH_LIMIT_BYTES)
        throw this.error(i, `${this.blobSize(i)} bytes in the blob`);
      if ((this.flags(i) & CHUNK_FLAGS.encrypted) !== 0) {
        throw new NydusError("ENOTSUP", "Cannot read chunk: it is encrypted", { offset: this.at(i) });
      }
    }
  }

  /** Byte offset of row `i`, by position. */
  at(i: number): number {
    if (!(i >= 0 && i < this.count)) throw new NydusError("EINVAL", `Cannot read chunk ${i}: there are ${this.count}`);
    const row = this.#order === undefined ? this.#first + i : (this.#order[i] as number);
    return this.#start + row * ROW_BYTES;
  }

  deviceOffset(i: number): number {
    return this.#u64(this.at(i) + AT.uncompressedOffset);
  }

  size(i: number): number {
    return this.view.getUint32(this.at(i) + AT.uncompressedSize, true);
  }

  blobOffset(i: number): number {
    return this.#u64(this.at(i) + AT.compressedOffset);
  }

  blobSize(i: number): number {
    return this.view.getUint32(this.at(i) + AT.compressedSize, true);
  }

  flags(i: number): number {
    return this.view.getUint32(this.at(i) + AT.flags, true);
  }

  number(i: number): number {
    return this.view.getUint32(this.at(i) + AT.index, true);
  }

  digest(i: number): Uint8Array {
    const at = this.at(i) + AT.blockId;
    return this.image.subarray(at, at + 32);
  }

  crc32c(i: number): number | undefined {
    if ((this.flags(i) & CHUNK_FLAGS.hasCrc32) === 0) return undefined;
    return this.view.getUint32(this.at(i) + AT.crc32, true);
  }

  find(deviceOffset: number): number {
    let low = 0;
    let high = this.count - 1;
    while (low <= high) {
      const middle = (low + high) >>> 1;
      const start = this.deviceOffset(middle);
      if (deviceOffset < start) high = middle - 1;
      else if (deviceOffset >= start + this.size(middle)) low = middle + 1;
      else return middle;
    }
    return -1;
  }

  error(i: number, found: string): NydusError {
    return new NydusError("EUCLEAN", `Cannot decode chunk: ${found}`, { offset: this.at(i), length: ROW_BYTES });
  }
}

function plainMap(rows: TableRows, blob: BlobInfo): ChunkMap {
  for (let i = 0; i < rows.count; i++) {
    const compressed = (rows.flags(i) & CHUNK_FLAGS.compressed) !== 0;
    const size = rows.size(i); // not as a pair: that would be an array for each of a million chunks
    const blobSize = rows.blobSize(i);
    if (blobSize === 0 || (!compressed && blobSize !== size))
      throw rows.error(i, `${size} bytes, ${blobSize} in the blob`);
  }
  return {
    ...commonMap(rows, blob),
    blobOffset: (i) => rows.blobOffset(i),
    blobSizeBytes: (i) => rows.blobSize(i),
    compressor: (i) => ((rows.flags(i) & CHUNK_FLAGS.compressed) === 0 ? "none" : blob.compressor),
    unitBytes: (i) => rows.size(i),
    offsetInUnit: () => 0,
  };
}

function commonMap(
  rows: TableRows,
  blob: BlobInfo,
): Pick<ChunkMap, "count" | "digester" | "find" | "deviceOffset" | "sizeBytes" | "digest" | "crc32c"> {
  return {
    count: rows.count,
    digester: blob.digester,
    find: (deviceOffset) => rows.find(deviceOffset),
    deviceOffset: (i) => rows.deviceOffset(i),
    sizeBytes: (i) => rows.size(i),
    digest: (i) => rows.digest(i),
    crc32c: (i) => rows.crc32c(i),
  };
}

/** Bytes of the blob that decompress to one or more chunks. */
interface Unit {
  readonly blobOffset: number;
  readonly blobSizeBytes: number;
  readonly unitBytes: number;
  readonly offset: number;
  readonly compressed: boolean;
}

/** Of a blob with batches the blob meta says where units are: rows of the table leave it out. */
function batchMap(rows: TableRows, blob: BlobInfo, meta: BlobMeta): ChunkMap {
  const unit = (i: number): Unit => batchUnit(rows, meta, i);
  for (let i = 0; i < rows.count; i++) {
    const { blobOffset, blobSizeBytes, unitBytes, offset, compressed } = unit(i);
    const bad =
      unitBytes > UNIT_BYTES_LIMIT ||
      offset + rows.size(i) > unitBytes ||
      blobSizeBytes < 1 ||
      blobSizeBytes > UNIT_BYTES_LIMIT + GROWTH_LIMIT_BYTES ||
      blobOffset + blobSizeBytes > blob.compressedBytes ||
      (!compressed && blobSizeBytes !== unitBytes);
    if (bad) throw rows.error(i, `unit of ${unitBytes} bytes, ${blobSizeBytes} at ${blobOffset} in the blob`);
  }
  return {
    ...commonMap(rows, blob),
    blobOffset: (i) => unit(i).blobOffset,
    blobSizeBytes: (i) => unit(i).blobSizeBytes,
    compressor: (i) => (unit(i).compressed ? blob.compressor : "none"),
    unitBytes: (i) => unit(i).unitBytes,
    offsetInUnit: (i) => unit(i).offset,
  };
}

function batchUnit(rows: TableRows, meta: BlobMeta, i: number): Unit {
  const info = meta.chunk(rows.number(i));
  if (info.deviceOffset !== rows.deviceOffset(i) || info.sizeBytes !== rows.size(i)) {
    throw rows.error(i, `blob meta has chunk ${rows.number(i)} at device offset ${info.deviceOffset}`);
  }
  const { blobOffset, blobSizeBytes, compressed } = info;
  if (info.batch === undefined) {
    return { blobOffset, blobSizeBytes, unitBytes: info.sizeBytes, offset: 0, compressed };
  }
  const batch = meta.batch(info.batch.index);
  return { ...batch, blobOffset, offset: info.batch.offset, compressed: batch.blobSizeBytes !== batch.unitBytes };
}
