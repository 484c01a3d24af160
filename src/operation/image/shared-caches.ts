import { equalBytes } from "../../base/bytes.ts";
import { BlobCache, type BlobCacheOptions, type CacheStats } from "../../content/cache/blob-cache.ts";
import { addFetchStats, type FetchStats } from "../../content/cache/fetch-meter.ts";
import type { ChunkMap } from "../../format/rafs/chunk-map.ts";
import { AnySource } from "./any-source.ts";

/** A share in a cache; disposing gives it back, and closes the cache with the last one. */
export interface CacheShare extends AsyncDisposable {
  readonly cache: BlobCache;
  /**
   * Once given back: whether others go on to read the chunk map that it was opened with. Whoever has opened the map must
   * keep it until {@link unlent}.
   */
  readonly isLent: boolean;
  readonly unlent: Promise<void>;
}

interface SharedCache {
  readonly id: string;
  /** Of the device. */
  readonly sizeBytes: number;
  readonly chunks: ChunkMap;
  readonly source: AnySource;
  readonly opening: Promise<BlobCache>;
  users: number;
  /** The cache is closed, or could not be opened. */
  readonly ended: Ended;
}

/** Something that happens once. */
class Ended {
  has = false;
  readonly #happened: () => void;
  readonly promise: Promise<void>;

  constructor() {
    let happened = (): void => undefined;
    this.promise = new Promise((resolve) => {
      happened = resolve;
    });
    this.#happened = happened;
  }

  now(): void {
    this.has = true;
    this.#happened();
  }
}

/** The open caches of a process: images that know the same chunks of a blob share its cache. */
export class SharedCaches {
  readonly #open = new Set<SharedCache>();
  /** By blob id: the end of caches that are being closed, whose files a new one needs. */
  readonly #closing = new Map<string, Promise<void>>();
  #closed: CacheStats | undefined;

  /** Opens a cache, or shares one that is open. @throws as `BlobCache.open` */
  async open(options: BlobCacheOptions): Promise<CacheShare> {
    const shared = this.#find(options) ?? this.#start(options);
    if (shared.users++ > 0) shared.source.add(options.source);
    try {
      return this.#shareOf(shared, await shared.opening, options);
    } catch (error) {
      this.#open.delete(shared);
      shared.ended.now();
      throw error;
    }
  }

  #shareOf(shared: SharedCache, cache: BlobCache, options: BlobCacheOptions): CacheShare {
    let returned: Promise<void> | undefined;
    const isOpeners = shared.chunks === options.chunks;
    return {
      cache,
      get isLent() {
        return isOpeners && !shared.ended.has;
      },
      unlent: isOpeners ? shared.ended.promise : Promise.resolve(),
      [Symbol.asyncDispose]: () => {
        returned ??= this.#giveBack(shared, options);
        return returned;
      },
    };
  }

  /** What all caches have done, those that are closed too; undefined when none was opened. */
  async stats(): Promise<CacheStats | undefined> {
    const open = await Promise.allSettled([...this.#open].map(({ opening }) => opening));
    const all = open.flatMap((one) => (one.status === "fulfilled" ? [one.value.stats] : []));
    return all.reduce<CacheStats | undefined>(addStats, this.#closed);
  }

  /** What has been fetched of each blob that is open; mounts whose images know it otherwise have caches of their own. */
  async fetched(): Promise<{ readonly blob: string; readonly fetched: FetchStats }[]> {
    const blobs = new Map<string, FetchStats[]>();
    for (const { id, opening } of this.#open) {
      const cache = await opening.catch(() => undefined); // whoever opened it has been told
      if (cache !== undefined) blobs.set(id, [...(blobs.get(id) ?? []), cache.fetched]);
    }
    return [...blobs].map(([blob, all]) => ({ blob, fetched: all.reduce(addFetchStats) }));
  }

  #find({ id, chunks, sizeBytes, source }: BlobCacheOptions): SharedCache | undefined {
    return [...this.#open].find(
      (shared) =>
        shared.id === id &&
        shared.sizeBytes === sizeBytes &&
        shared.source.sizeBytes === source.sizeBytes &&
        isSameMap(shared.chunks, chunks),
    );
  }

  #start(options: BlobCacheOptions): SharedCache {
    const source = new AnySource(options.source);
    const closed = this.#closing.get(options.id) ?? Promise.resolve();
    const opening = closed.then(() => BlobCache.open({ ...options, source }));
    const { id, chunks, sizeBytes } = options;
    const shared = { id, chunks, sizeBytes, source, opening, users: 0, ended: new Ended() };
    this.#open.add(shared);
    return shared;
  }

  async #giveBack(shared: SharedCache, { source }: BlobCacheOptions): Promise<void> {
    shared.source.remove(source);
    if (--shared.users > 0) return;
    this.#open.delete(shared);
    const cache = await shared.opening;
    const closing = cache.close().finally(() => {
      this.#closed = addStats(this.#closed, cache.stats);
      if (this.#closing.get(shared.id) === settled) this.#closing.delete(shared.id);
      shared.ended.now();
    });
    const settled = closing.catch(() => undefined);
    this.#closing.set(shared.id, settled);
    await closing;
  }
}

/** Whether two maps know the same chunks: then what is ready for one is ready for the other. */
function isSameMap(known: ChunkMap, chunks: ChunkMap): boolean {
  if (known === chunks) return true;
  if (known.count !== chunks.count || known.digester !== chunks.digester) return false;
  for (let i = 0; i < chunks.count; i++) if (!isSameChunk(known, chunks, i)) return false;
  return true;
}

const CHUNK_FIELDS = [
  "deviceOffset",
  "sizeBytes",
  "blobOffset",
  "blobSizeBytes",
  "compressor",
  "unitBytes",
  "offsetInUnit",
  "crc32c",
] as const;

function isSameChunk(a: ChunkMap, b: ChunkMap, i: number): boolean {
  if (CHUNK_FIELDS.some((field) => a[field](i) !== b[field](i))) return false;
  const [left, right] = [a.digest(i), b.digest(i)];
  return left === undefined || right === undefined ? left === right : equalBytes(left, right);
}

function addStats(sum: CacheStats | undefined, stats: CacheStats): CacheStats {
  if (sum === undefined) return stats;
  const added = Object.entries(stats).map(([field, value]) => [field, value + sum[field as keyof CacheStats]]);
  return Object.fromEntries(added) as Record<keyof CacheStats, number>;
}
