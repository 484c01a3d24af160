import { createHash } from "node:crypto";
import { closeSync, fstatSync, ftruncateSync, openSync, readSync, writeSync } from "node:fs";
import { alignUp, BLOCK_BYTES, equalBytes } from "../../base/bytes.ts";
import { asNydusError, NydusError } from "../../base/errors.ts";
import { bytes, type StructOf, struct, u32, u64, u64n } from "../../base/struct.ts";
import { syncData } from "../store/file-io.ts";
import { replaceFile } from "../store/staged-file.ts";

const MAGIC = new TextEncoder().encode("NYDREADY");
const VERSION = 2;

/** Bytes of the random id that binds a map to its data file. */
export const CACHE_ID_BYTES = 32;

/** First bytes of a map file. */
const MapHeader = struct("ready map header", 128, {
  magic: [0, bytes(8)],
  version: [8, u32],
  reserved: [12, u32],
  deviceBytes: [16, u64],
  dataInode: [24, u64n],
  cacheId: [32, bytes(CACHE_ID_BYTES)],
  unused: [64, bytes(32)],
  checksum: [96, bytes(32)],
});

/** Goes before each batch of records; `checksum` covers the id, the batch's place and the records. */
const BatchHeader = struct("ready map batch", 48, {
  magic: [0, u32],
  count: [4, u32],
  offset: [8, u64],
  checksum: [16, bytes(32)],
});
const BATCH_MAGIC = 0x4843_5442;
/** Bounds what a reader holds in memory. */
const BATCH_RECORDS = 4096;

/** What a chunk's identity is. */
export const IDENTITY_KINDS = { sha256: 1, crc32c: 2, blake3: 3 } as const;

/** A chunk whose verified bytes are in the data file and on the disk. */
export const ChunkRecord = struct("ready chunk", 48, {
  deviceOffset: [0, u64],
  sizeBytes: [8, u32],
  /** One of {@link IDENTITY_KINDS}. */
  kind: [12, u32],
  /** A digest, or a CRC-32C in its first four bytes. */
  identity: [16, bytes(32)],
});
export type ChunkRecord = StructOf<typeof ChunkRecord>;

/** The data file that a map speaks of. */
export interface MapBinding {
  readonly deviceBytes: number;
  readonly dataInode: bigint;
  /** {@link CACHE_ID_BYTES} random bytes, which the data file holds too. */
  readonly cacheId: Uint8Array;
}

/**
 * The log of a cache: a header, then batches of records. Any number of processes read it at any time; who appends
 * keeps the others from it meanwhile. A crash can leave a piece of a batch at the end, which the next append writes
 * over. All calls but `sync` read and write what is in memory anyway, and do not wait.
 */
export class MapFile {
  readonly path: string;
  readonly binding: MapBinding;
  readonly #fd: number;
  /** End of the last good batch. */
  #end = MapHeader.sizeBytes;
  /** Size of the file when it was last found to end with {@link #end}. */
  #seenBytes = 0;

  private constructor(path: string, fd: number, binding: MapBinding) {
    this.path = path;
    this.#fd = fd;
    this.binding = binding;
  }

  /** @returns undefined when the file is damaged or of another data file @throws ENOENT, EPERM, EIO */
  static open(path: string, binding: MapBinding): MapFile | undefined {
    const file = io(path, () => new MapFile(path, openSync(path, "r+"), binding));
    try {
      const header = file.#read(0, MapHeader.sizeBytes);
      if (header !== undefined && equalBytes(header, encodeHeader(binding))) return file;
    } catch (error) {
      file.close();
      throw error;
    }
    file.close();
    return undefined;
  }

  /**
   * The same for who does not know how long the device is, but for its blocks: the map says the rest.
   * @param binding its `deviceBytes` in whole blocks
   */
  static openOfDevice(path: string, binding: MapBinding): MapFile | undefined {
    const header = new Uint8Array(MapHeader.sizeBytes);
    try {
      const fd = openSync(path, "r");
      readSync(fd, header, 0, header.length, 0);
      closeSync(fd);
      const { deviceBytes } = MapHeader.read(header, 0);
      if (alignUp(deviceBytes, BLOCK_BYTES) !== binding.deviceBytes) return undefined;
      return MapFile.open(path, { ...binding, deviceBytes });
    } catch {
      return undefined; // gone, or damaged: worth as much
    }
  }

  /** Writes an empty map in place of what is there. */
  static async create(path: string, binding: MapBinding): Promise<void> {
    await replaceFile(path, encodeHeader(binding));
  }

  /** Whether another process may have appended since `next` last gave nothing. */
  get hasGrown(): boolean {
    return io(this.path, () => fstatSync(this.#fd).size) !== this.#seenBytes;
  }

  /** The records of the next good batch; undefined when there is none (yet). */
  next(): Uint8Array | undefined {
    const fileBytes = io(this.path, () => fstatSync(this.#fd).size);
    const records = this.#nextBefore(fileBytes);
    if (records === undefined) this.#seenBytes = fileBytes;
    else this.#end += BatchHeader.sizeBytes + records.length;
    return records;
  }

  #nextBefore(fileBytes: number): Uint8Array | undefined {
    const start = this.#end + BatchHeader.sizeBytes;
    if (start > fileBytes) return undefined;
    const header = this.#read(this.#end, BatchHeader.sizeBytes);
    if (header === undefined) return undefined;
    const view = new DataView(header.buffer);
    const count = view.getUint32(BatchHeader.at.count, true);
    const isBatch = view.getUint32(BatchHeader.at.magic, true) === BATCH_MAGIC;
    const length = count * ChunkRecord.sizeBytes;
    if (!isBatch || count < 1 || count > BATCH_RECORDS || start + length > fileBytes) return undefined;
    const records = this.#read(start, length);
    return records !== undefined && equalBytes(header, this.#batchHeader(records)) ? records : undefined;
  }

  #read(start: number, length: number): Uint8Array<ArrayBuffer> | undefined {
    const target = new Uint8Array(length);
    const got = io(this.path, () => readSync(this.#fd, target, 0, length, start));
    return got === length ? target : undefined;
  }

  #batchHeader(records: Uint8Array): Uint8Array {
    const header = new Uint8Array(BatchHeader.sizeBytes);
    const count = records.length / ChunkRecord.sizeBytes;
    BatchHeader.write(header, 0, { magic: BATCH_MAGIC, count, offset: this.#end });
    const covered = [this.binding.cacheId, header.subarray(0, BatchHeader.at.checksum), records];
    header.set(sha256(covered), BatchHeader.at.checksum);
    return header;
  }

  /**
   * Adds records behind the last good batch. The caller has had everything from `next`, and keeps others from
   * appending.
   * @throws ENOSPC, EIO: then the records are not in the file
   */
  append(records: Uint8Array): void {
    io(this.path, () => {
      if (fstatSync(this.#fd).size > this.#end) ftruncateSync(this.#fd, this.#end);
    });
    const step = BATCH_RECORDS * ChunkRecord.sizeBytes;
    for (let at = 0; at < records.length; at += step) {
      const batch = records.subarray(at, at + step);
      const data = Buffer.concat([this.#batchHeader(batch), batch]);
      writeAt(this.#fd, { data, position: this.#end, path: this.path });
      this.#end += data.length;
    }
    this.#seenBytes = this.#end;
  }

  /** Waits until what was appended is on the disk. @throws EIO, ENOSPC */
  sync(): Promise<void> {
    return syncData(this.#fd, this.path);
  }

  close(): void {
    closeSync(this.#fd);
  }
}

function writeAt(fd: number, { data, position, path }: { data: Uint8Array; position: number; path: string }): void {
  io(path, () => {
    for (let at = 0; at < data.length; ) at += writeSync(fd, data, at, data.length - at, position + at);
  });
}

function io<T>(path: string, call: () => T): T {
  try {
    return call();
  } catch (error) {
    throw error instanceof NydusError ? error : asNydusError(error, { path });
  }
}

function encodeHeader(binding: MapBinding): Uint8Array {
  const header = new Uint8Array(MapHeader.sizeBytes);
  MapHeader.write(header, 0, { magic: MAGIC, version: VERSION, ...binding });
  header.set(sha256([header.subarray(0, MapHeader.at.checksum)]), MapHeader.at.checksum);
  return header;
}

function sha256(pieces: readonly Uint8Array[]): Uint8Array {
  const hash = createHash("sha256");
  for (const piece of pieces) hash.update(piece);
  return hash.digest();
}
