import { closeSync, ftruncateSync, mkdtempSync, openSync, readFileSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BLOCK_BYTES, type ByteRange } from "../../src/base/bytes.ts";
import type { ReadOptions } from "../../src/content/store/source.ts";
import type { ChunkMap } from "../../src/format/rafs/chunk-map.ts";
import type { MountDevice } from "../../src/operation/mount/engine.ts";

/** Bytes of the chunks of the mount fixture. */
export const FIXTURE_CHUNK_BYTES = 65536;

/** A chunk map of equal chunks over a device; only the places are of use. */
export function evenChunks(deviceBytes: number, chunkBytes: number): ChunkMap {
  const count = Math.ceil(deviceBytes / chunkBytes);
  return {
    count,
    digester: "blake3",
    find: (offset) => (offset < deviceBytes ? Math.floor(offset / chunkBytes) : -1),
    deviceOffset: (i) => i * chunkBytes,
    sizeBytes: (i) => Math.min(chunkBytes, deviceBytes - i * chunkBytes),
    blobOffset: (i) => i * chunkBytes,
    blobSizeBytes: (i) => Math.min(chunkBytes, deviceBytes - i * chunkBytes),
    compressor: () => "none",
    unitBytes: (i) => Math.min(chunkBytes, deviceBytes - i * chunkBytes),
    offsetInUnit: () => 0,
    digest: () => undefined,
    crc32c: () => undefined,
  };
}

/** The whole uncompressed device of a blob, by the runtime's zstd alone; compressed chunks of other kinds throw. */
export function decodeBlob(blob: Uint8Array, chunks: ChunkMap, deviceBytes: number): Uint8Array {
  const device = new Uint8Array(deviceBytes);
  for (let i = 0; i < chunks.count; i++) {
    const stored = blob.subarray(chunks.blobOffset(i), chunks.blobOffset(i) + chunks.blobSizeBytes(i));
    if (!["none", "zstd"].includes(chunks.compressor(i))) throw new Error(`chunk ${i} is ${chunks.compressor(i)}`);
    const unit = chunks.compressor(i) === "none" ? stored : Bun.zstdDecompressSync(stored);
    const at = chunks.offsetInUnit(i);
    device.set(unit.subarray(at, at + chunks.sizeBytes(i)), chunks.deviceOffset(i));
  }
  return device;
}

/** A device for tests: an uncompressed blob, copied chunk by chunk into a sparse file as reads ask for it. */
export class RawDevice implements MountDevice, Disposable {
  readonly chunks: ChunkMap;
  readonly fd: number;
  readonly ready: Uint8Array;
  /** Ranges asked for, in order. */
  readonly asked: ByteRange[] = [];
  /** Runs before a range is filled: throws, waits or does nothing. */
  before: (range: ByteRange, options: ReadOptions) => Promise<void> = async () => undefined;
  readonly #bytes: Uint8Array;

  /** @param chunks a map, or the bytes of equal chunks */
  constructor(source: string | Uint8Array, chunks: ChunkMap | number = 16 * BLOCK_BYTES) {
    this.#bytes = typeof source === "string" ? readFileSync(source) : source;
    const dir = mkdtempSync(join(tmpdir(), "nydus-raw-"));
    this.fd = openSync(join(dir, "data"), "w+");
    rmSync(dir, { recursive: true }); // the descriptor is enough, and a killed test leaves nothing
    ftruncateSync(this.fd, this.#bytes.length);
    this.chunks = typeof chunks === "number" ? evenChunks(this.#bytes.length, chunks) : chunks;
    this.ready = new Uint8Array(new SharedArrayBuffer(Math.ceil(this.chunks.count / 8)));
  }

  async ensure(range: ByteRange, options: ReadOptions): Promise<void> {
    this.asked.push(range);
    await this.before(range, options);
    const last = this.chunks.find(range.end - 1);
    for (let i = this.chunks.find(range.start); i <= last; i++) {
      const start = this.chunks.deviceOffset(i);
      const chunk = this.#bytes.subarray(start, start + this.chunks.sizeBytes(i));
      writeSync(this.fd, chunk, 0, chunk.length, start);
      Atomics.store(this.ready, i >> 3, Atomics.load(this.ready, i >> 3) | (1 << (i & 7))); // `ReadyMap` says why
    }
  }

  [Symbol.dispose](): void {
    closeSync(this.fd);
  }
}
