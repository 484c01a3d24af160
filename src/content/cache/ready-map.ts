import { equalBytes } from "../../base/bytes.ts";
import type { ChunkMap } from "../../format/rafs/chunk-map.ts";
import { firstChunkFrom } from "./chunk-range.ts";
import { ChunkRecord, IDENTITY_KINDS, type MapFile } from "./map-file.ts";

/** Does something short while no other process appends to the map. @throws EBUSY */
export type AppendLock = <T>(work: () => T) => Promise<T>;

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
    this.#set(chunk);
    if (this.#file !== undefined) this.#pending.push(chunk);
  }

  /**
   * This thread alone writes the bits, others read them. Not by Atomics.or or .and: where their result is not used,
   * code that Bun 1.4.5 has optimised does not always change the memory (seen in one process of twenty).
   */
  #store(chunk: number, ready: boolean): void {
    const mask = 1 << (chunk & 7);
    const before = Atomics.load(this.bits, chunk >> 3);
    Atomics.store(this.bits, chunk >> 3, ready ? before | mask : before & ~mask);
  }

  #set(chunk: number): void {
    this.#store(chunk, true);
  }

  /** Whether chunks are ready that the map file does not know of. */
  get isDirty(): boolean {
    return this.#pending.length > 0;
  }

  /**
   * Takes what a map file says, and keeps the file.
   * @returns false when a record contradicts this image: nothing is taken, and the file is not kept
   */
  load(file: MapFile): boolean {
    for (let records = file.next(); records !== undefined; records = file.next()) {
      if (this.#apply(records)) continue;
      this.forget();
      return false;
    }
    this.#file = file;
    return true;
  }

  /** Takes back what was loaded: the map file is not for this image. */
  forget(): void {
    this.bits.fill(0);
    this.#file = undefined;
  }

  /** Takes what other processes have added to the map file meanwhile. */
  refresh(): void {
    if (this.#file?.hasGrown) this.#readOn(this.#file);
  }

  /** Who shares a cache has chunks that do not contradict ours; what would is not ours, and is passed over. */
  #readOn(file: MapFile): void {
    for (let records = file.next(); records !== undefined; records = file.next()) this.#apply(records);
  }

  /** @returns false when a record overlaps a chunk of this image and is not that chunk */
  #apply(records: Uint8Array): boolean {
    for (let at = 0; at < records.length; at += ChunkRecord.sizeBytes) {
      const record = ChunkRecord.read(records, at);
      const chunk = firstChunkFrom(this.#chunks, record.deviceOffset);
      if (chunk >= this.#chunks.count) continue;
      if (this.#chunks.deviceOffset(chunk) >= record.deviceOffset + record.sizeBytes) continue; // another image's chunks
      if (!this.#isRecordOf(chunk, record)) return false;
      this.#set(chunk);
    }
    return true;
  }

  #isRecordOf(chunk: number, record: ChunkRecord): boolean {
    const { kind, identity } = identityOf(this.#chunks, chunk);
    return (
      this.#chunks.deviceOffset(chunk) === record.deviceOffset &&
      this.#chunks.sizeBytes(chunk) === record.sizeBytes &&
      kind === record.kind &&
      equalBytes(identity, record.identity)
    );
  }

  /**
   * Makes durable what was ready when it was called. When the data cannot be brought to the disk, the system may have
   * dropped it: then nothing of it is ready any more.
   * @param syncDataFile waits until the data file is on the disk; called first
   */
  async flush(syncDataFile: () => Promise<void>, lock: AppendLock): Promise<void> {
    const [file, landed] = [this.#file, this.#pending];
    if (file === undefined || landed.length === 0) return;
    this.#pending = [];
    try {
      await syncDataFile();
    } catch (error) {
      for (const chunk of [...landed, ...this.#pending]) this.#clear(chunk);
      this.#pending = [];
      throw error;
    }
    try {
      await lock(() => {
        this.#readOn(file);
        file.append(this.#encode(landed));
      });
      await file.sync();
    } catch (error) {
      this.#pending = landed.concat(this.#pending);
      throw error;
    }
  }

  #clear(chunk: number): void {
    this.#store(chunk, false);
  }

  #encode(landed: readonly number[]): Uint8Array {
    const records = new Uint8Array(landed.length * ChunkRecord.sizeBytes);
    for (const [i, chunk] of landed.entries()) {
      const record = { deviceOffset: this.#chunks.deviceOffset(chunk), sizeBytes: this.#chunks.sizeBytes(chunk) };
      ChunkRecord.write(records, i * ChunkRecord.sizeBytes, { ...record, ...identityOf(this.#chunks, chunk) });
    }
    return records;
  }
}

/** What tells a chunk's content from any other. */
export function identityOf(chunks: ChunkMap, chunk: number): Pick<ChunkRecord, "kind" | "identity"> {
  const digest = chunks.digest(chunk);
  if (digest !== undefined) return { kind: IDENTITY_KINDS[chunks.digester], identity: digest };
  const identity = new Uint8Array(32);
  new DataView(identity.buffer).setUint32(0, chunks.crc32c(chunk) ?? 0, true);
  return { kind: IDENTITY_KINDS.crc32c, identity };
}
