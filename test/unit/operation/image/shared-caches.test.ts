import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { BlobCacheOptions } from "../../../../src/content/cache/blob-cache.ts";
import type { ByteSource } from "../../../../src/content/store/source.ts";
import type { ChunkMap } from "../../../../src/format/rafs/chunk-map.ts";
import { SharedCaches } from "../../../../src/operation/image/shared-caches.ts";
import type { CodecPool } from "../../../../src/os/codec-pool.ts";
import { openCodecPool } from "../../../../src/os/codec-threads.ts";
import { evenChunks } from "../../../kit/raw-device.ts";

const BYTES = 16 * 4096;
const blob = Uint8Array.from({ length: BYTES }, (_, at) => (at * 31) & 0xff);

let dir: string;
let pool: CodecPool;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "nydus-shared-"));
  pool = openCodecPool({ threads: 1 });
});
afterEach(async () => {
  await pool[Symbol.asyncDispose]();
  rmSync(dir, { recursive: true });
});

/** The chunks of the blob, as one image has them. @param other differs in the digest of one chunk */
function chunksOf(other = false): ChunkMap {
  const digest = (i: number): Uint8Array =>
    other && i === 3 ? new Uint8Array(32) : (Bun.SHA256.hash(blob.subarray(i * 4096, (i + 1) * 4096)) as Uint8Array);
  return { ...evenChunks(BYTES, 4096), digester: "sha256", digest };
}

function place(fails = false): ByteSource & { reads: number } {
  return {
    sizeBytes: BYTES,
    reads: 0,
    async readAt({ start, end }) {
      this.reads++;
      if (fails) throw new Error("gone");
      return blob.slice(start, end);
    },
    close: async () => undefined,
  };
}

function options(chunks: ChunkMap, source: ByteSource): BlobCacheOptions {
  return { dir, id: "ab".repeat(32), chunks, source, pool, sizeBytes: BYTES };
}

test("two images that know the same chunks of a blob have one cache, and what one brought the other has", async () => {
  const caches = new SharedCaches();
  const [first, second] = [place(), place()];
  const one = await caches.open(options(chunksOf(), first));
  await one.cache.ensure({ start: 0, end: BYTES });
  const two = await caches.open(options(chunksOf(), second));
  expect(two.cache).toBe(one.cache);
  await one[Symbol.asyncDispose]();
  expect(two.cache.isReady({ start: 0, end: BYTES })).toBe(true);
  expect(second.reads).toBe(0);
  await two[Symbol.asyncDispose]();
  expect((await caches.stats())?.filledBytes).toBe(BYTES);
});

test("an image whose place is gone reads from the other's", async () => {
  const caches = new SharedCaches();
  const one = await caches.open(options(chunksOf(), place(true)));
  const two = await caches.open(options(chunksOf(), place()));
  await one.cache.ensure({ start: 0, end: 4096 });
  await one[Symbol.asyncDispose]();
  await two.cache.ensure({ start: 8192, end: BYTES });
  await two[Symbol.asyncDispose]();
});

test("an image that says something else of the blob's bytes shares nothing", async () => {
  const caches = new SharedCaches();
  const one = await caches.open(options(chunksOf(), place()));
  const two = await caches.open(options(chunksOf(true), place()));
  expect(two.cache).not.toBe(one.cache);
  await one.cache.ensure({ start: 0, end: BYTES });
  expect(two.cache.isReady({ start: 3 * 4096, end: 4 * 4096 })).toBe(false);
  // not by `rejects`: it runs the event loop within the matcher, and the caches' threads are not heard after that
  const failure = await two.cache.ensure({ start: 3 * 4096, end: 4 * 4096 }).catch((error: unknown) => error);
  expect(failure).toMatchObject({ code: "EBADMSG" });
  await two[Symbol.asyncDispose]();
  await one[Symbol.asyncDispose]();
});

test("who has opened the chunk map of a shared cache learns when the last one to read it has gone", async () => {
  const caches = new SharedCaches();
  const one = await caches.open(options(chunksOf(), place()));
  const two = await caches.open(options(chunksOf(), place()));
  let isUnlent = false;
  void one.unlent.then(() => {
    isUnlent = true;
  });
  await one[Symbol.asyncDispose]();
  await one[Symbol.asyncDispose](); // once is enough
  expect([one.isLent, two.isLent]).toEqual([true, false]);
  await two.unlent;
  await two.cache.ensure({ start: 0, end: BYTES });
  expect(isUnlent).toBe(false);
  await two[Symbol.asyncDispose]();
  await one.unlent;
  expect(one.isLent).toBe(false);
});
