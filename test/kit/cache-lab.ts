import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, readSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { BlobCache, type BlobCacheOptions } from "../../src/content/cache/blob-cache.ts";
import type { ChunkMap } from "../../src/format/rafs/chunk-map.ts";
import type { CacheChildOrders } from "./cache-child.ts";
import { type FakeBlob, inlinePool, memorySource } from "./fake-blob.ts";

/** A directory that goes with its scope. */
export function scratch(): { dir: string } & Disposable {
  const dir = mkdtempSync(join(tmpdir(), "nydus-cache-"));
  return { dir, [Symbol.dispose]: () => rmSync(dir, { recursive: true, force: true }) };
}

/** Opens the cache of a fake blob. */
export function openFakeCache(dir: string, fake: FakeBlob, more: Partial<BlobCacheOptions> = {}): Promise<BlobCache> {
  const defaults = { chunks: fake.chunks, source: memorySource(fake.blob), pool: inlinePool() };
  return BlobCache.open({ dir, id: fake.id, sizeBytes: fake.device.length, ...defaults, ...more });
}

/** Bytes of a cache's data file. */
export function readDevice(cache: Pick<BlobCache, "fd">, start: number, end: number): Buffer {
  const bytes = Buffer.alloc(end - start);
  const got = readSync(cache.fd, bytes, 0, bytes.length, start);
  if (got !== bytes.length) throw new Error(`${got} bytes read, ${bytes.length} wanted`);
  return bytes;
}

/** Where a chunk lies in the device. */
export function rangeOf({ chunks }: { chunks: ChunkMap }, i: number): { start: number; end: number } {
  const start = chunks.deviceOffset(i);
  return { start, end: start + chunks.sizeBytes(i) };
}

/** All of a device. */
export function allOf(fake: FakeBlob): { start: number; end: number } {
  return { start: 0, end: fake.device.length };
}

/** Positions of the chunks that a cache says are ready. */
export function readyChunks(cache: BlobCache): number[] {
  return Array.from({ length: cache.chunks.count }, (_, i) => i).filter((i) => cache.isReady(rangeOf(cache, i)));
}

/** Of the chunks that a cache says are ready, those whose bytes are not the blob's. */
export function falseChunks(cache: BlobCache, fake: FakeBlob): number[] {
  return readyChunks(cache).filter((i) => {
    const { start, end } = rangeOf(cache, i);
    return !readDevice(cache, start, end).equals(fake.device.subarray(start, end));
  });
}

/** A process that fills a cache; its lines of output are `lines`. */
export interface CacheChild {
  readonly process: ChildProcess;
  /** Resolves when it has the cache open, with the name of its data file. */
  readonly opened: Promise<string>;
  /** Resolves at its end, with its output. */
  readonly ended: Promise<{ readonly status: number | null; readonly output: string }>;
}

/** Starts `cache-child.ts`. */
export function startCacheChild(orders: CacheChildOrders): CacheChild {
  const script = join(import.meta.dir, "cache-child.ts");
  const child = spawn(process.execPath, [script, JSON.stringify(orders)], { stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  child.stderr.on("data", (text) => {
    output += text;
  });
  const lines = createInterface({ input: child.stdout });
  const opened = new Promise<string>((resolve, reject) => {
    lines.once("line", (path: string) => {
      resolve(path);
      lines.on("line", (line) => {
        output += `${line}\n`;
      });
    });
    child.once("exit", () => reject(new Error(`it ended before it opened the cache: ${output}`)));
  });
  opened.catch(() => undefined);
  const ended = new Promise<{ status: number | null; output: string }>((resolve) => {
    child.once("close", (status) => resolve({ status, output }));
  });
  return { process: child, opened, ended };
}
