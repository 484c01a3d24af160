import { createHash } from "node:crypto";
import { equalBytes } from "../../base/bytes.ts";
import { bytes, struct, u32, u64, u64n } from "../../base/struct.ts";
import type { ChunkMap } from "../../format/rafs/chunk-map.ts";
import { closeFile, fileSize, openFile, readFully, setLength, syncData, writeFully } from "../store/file-io.ts";
import { replaceFile } from "../store/staged-file.ts";
import { firstChunkFrom } from "./chunk-range.ts";

const MAGIC = new TextEncoder().encode("NYDREADY");
const VERSION = 1;

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

/** A chunk whose verified bytes are in the data file and on the disk. */
const ChunkRecord = struct("ready chunk", 48, {
  deviceOffset: [0, u64],
  sizeBytes: [8, u32],
  /** 1 when `identity` is a digest, 2 when its first four bytes are a CRC-32C. */
  kind: [12, u32],
  identity: [16, bytes(32)],
});
type Batch = { readonly records: Uint8Array; readonly count: number; readonly end: number };

const KIND_DIGEST = 1;
const KIND_CRC = 2;

/** The data file that a map speaks of. */
export interface MapBinding {
  readonly deviceBytes: number;
  readonly dataInode: bigint;
  /** {@link CACHE_ID_BYTES} random bytes, which the data file holds too. */
  readonly cacheId: Uint8Array;
}

/**
 * What is ready, in two states: in memory (`bits`, set once verified bytes are written) and durable (records in the
 * map file, added once the data is on the disk). A record holds the chunk's digest, not its number: other images that
 * share the blob number its chunks otherwise, and a hostile one may claim other digests for the same place.
 */
export class ReadyMap {
  /** Bit `i` (of byte `i >> 3`, from the lowest) is set when chunk `i` is ready; in shared memory. */
  readonly bits: Uint8Array<SharedArrayBuffer>;
  readonly #chunks: ChunkMap;
  #file: MapFile | undefined;
  #pending: number[] = [];

  constructor(chunks: ChunkMap) {
    this.#chunks = chunks;
    this.bits = new Uint8Array(new SharedArrayBuffer(Math.ceil(chunks.count / 8)));
  }

  isReady(chunk: number): boolean {
    return (Atomics.load(this.bits, chunk >> 3) & (1 << (chunk & 7))) !== 0;
  }

  /** Call after the chunk's verified bytes are written to the data file. */
  setReady(chunk: number): void {
    Atomics.or(this.bits, chunk >> 3, 1 << (chunk & 7));
    if (this.#file !== undefined) this.#pending.push(chunk);
  }

  /** Whether chunks are ready that the map file does not know of. */
  get isDirty(): boolean {
    return this.#pending.length > 0;
  }

  /**
   * Takes what a map file says.
   * @returns false when it cannot be trusted for this data file and image: the caller starts empty
   */
  async load(path: string, binding: MapBinding): Promise<boolean> {
    const file = await MapFile.open(path, binding);
    if (file === undefined) return false;
    try {
      for (let batch = await file.next(); batch !== undefined; batch = await file.next()) {
        if (!this.#apply(batch)) {
          this.bits.fill(0);
          await file.close();
          return false;
        }
      }
      await file.dropTail();
    } catch (error) {
      await file.close();
      throw error;
    }
    this.#file = file;
    return true;
  }

  /** Begins an empty map file, in place of what is there. */
  async begin(path: string, binding: MapBinding): Promise<void> {
    await replaceFile(path, encodeHeader(binding));
    this.#file = await MapFile.open(path, binding);
  }

  /** @returns false when a record overlaps a chunk of this image and is not that chunk */
  #apply(batch: Batch): boolean {
    for (let i = 0; i < batch.count; i++) {
      const record = ChunkRecord.read(batch.records, i * ChunkRecord.sizeBytes);
      const chunk = firstChunkFrom(this.#chunks, record.deviceOffset);
      if (chunk >= this.#chunks.count) continue;
      const start = this.#chunks.deviceOffset(chunk);
      if (start >= record.deviceOffset + record.sizeBytes) continue; // of another image's chunks
      const { kind, identity } = identityOf(this.#chunks, chunk);
      const isSame =
        start === record.deviceOffset &&
        this.#chunks.sizeBytes(chunk) === record.sizeBytes &&
        kind === record.kind &&
        equalBytes(identity, record.identity);
      if (!isSame) return false;
      Atomics.or(this.bits, chunk >> 3, 1 << (chunk & 7));
    }
    return true;
  }

  /**
   * Makes durable what was ready when it was called.
   * @param syncDataFile waits until the data file is on the disk; called first
   */
  async flush(syncDataFile: () => Promise<void>): Promise<void> {
    const [file, landed] = [this.#file, this.#pending];
    if (file === undefined || landed.length === 0) return;
    this.#pending = [];
    try {
      await syncDataFile();
      for (let at = 0; at < landed.length; at += BATCH_RECORDS) {
        await file.append(this.#encode(landed.slice(at, at + BATCH_RECORDS)));
      }
      await file.sync();
    } catch (error) {
      this.#pending = landed.concat(this.#pending);
      throw error;
    }
  }

  #encode(landed: readonly number[]): Uint8Array {
    const records = new Uint8Array(landed.length * ChunkRecord.sizeBytes);
    for (const [i, chunk] of landed.entries()) {
      const record = { deviceOffset: this.#chunks.deviceOffset(chunk), sizeBytes: this.#chunks.sizeBytes(chunk) };
      ChunkRecord.write(records, i * ChunkRecord.sizeBytes, { ...record, ...identityOf(this.#chunks, chunk) });
    }
    return records;
  }

  async close(): Promise<void> {
    await this.#file?.close();
    this.#file = undefined;
  }
}

function identityOf(chunks: ChunkMap, chunk: number): { kind: number; identity: Uint8Array } {
  const digest = chunks.digest(chunk);
  if (digest !== undefined) return { kind: KIND_DIGEST, identity: digest };
  const identity = new Uint8Array(32);
  new DataView(identity.buffer).setUint32(0, chunks.crc32c(chunk) ?? 0, true);
  return { kind: KIND_CRC, identity };
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

/** A map file: a header, then batches, of which a crash can leave a piece at the end. */
class MapFile {
  readonly #path: string;
  readonly #fd: number;
  readonly #binding: MapBinding;
  readonly #fileBytes: number;
  /** End of the last good batch. */
  #end = MapHeader.sizeBytes;

  private constructor(path: string, fd: number, binding: MapBinding, fileBytes: number) {
    this.#path = path;
    this.#fd = fd;
    this.#binding = binding;
    this.#fileBytes = fileBytes;
  }

  /** @returns undefined when the file is damaged or of another data file */
  static async open(path: string, binding: MapBinding): Promise<MapFile | undefined> {
    const fd = await openFile(path, "r+");
    try {
      const size = await fileSize(fd, path);
      if (size >= MapHeader.sizeBytes) {
        const header = await readFully(fd, { start: 0, end: MapHeader.sizeBytes }, path);
        if (equalBytes(header, encodeHeader(binding))) return new MapFile(path, fd, binding, size);
      }
    } catch (error) {
      await closeFile(fd);
      throw error;
    }
    await closeFile(fd);
    return undefined;
  }

  /** The next good batch. */
  async next(): Promise<Batch | undefined> {
    const start = this.#end + BatchHeader.sizeBytes;
    if (start > this.#fileBytes) return undefined;
    const headerBytes = await readFully(this.#fd, { start: this.#end, end: start }, this.#path);
    const view = new DataView(headerBytes.buffer);
    const count = view.getUint32(BatchHeader.at.count, true);
    const end = start + count * ChunkRecord.sizeBytes;
    const isBatch = view.getUint32(BatchHeader.at.magic, true) === BATCH_MAGIC;
    if (!isBatch || count < 1 || count > BATCH_RECORDS || end > this.#fileBytes) return undefined;
    const records = await readFully(this.#fd, { start, end }, this.#path);
    if (!equalBytes(headerBytes, this.#batchHeader(records))) return undefined;
    this.#end = end;
    return { records, count, end };
  }

  #batchHeader(records: Uint8Array): Uint8Array {
    const header = new Uint8Array(BatchHeader.sizeBytes);
    const count = records.length / ChunkRecord.sizeBytes;
    BatchHeader.write(header, 0, { magic: BATCH_MAGIC, count, offset: this.#end });
    const covered = [this.#binding.cacheId, header.subarray(0, BatchHeader.at.checksum), records];
    header.set(sha256(covered), BatchHeader.at.checksum);
    return header;
  }

  /** Cuts off what a crash left behind the last good batch. */
  async dropTail(): Promise<void> {
    if (this.#end < this.#fileBytes) await setLength(this.#fd, this.#end, this.#path);
  }

  /** Adds a batch; one that failed half-way is written over by the next. */
  async append(records: Uint8Array): Promise<void> {
    const batch = new Uint8Array(BatchHeader.sizeBytes + records.length);
    batch.set(this.#batchHeader(records));
    batch.set(records, BatchHeader.sizeBytes);
    await writeFully(this.#fd, batch, this.#end, this.#path);
    this.#end += batch.length;
  }

  sync(): Promise<void> {
    return syncData(this.#fd, this.#path);
  }

  close(): Promise<void> {
    return closeFile(this.#fd);
  }
}
