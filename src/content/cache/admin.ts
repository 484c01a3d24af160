import { closeSync, openSync, statSync } from "node:fs";
import { readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { type Digest, digestOfHex } from "../../base/digest.ts";
import { asNydusError } from "../../base/errors.ts";
import { canLock, tryLock } from "../../os/file-lock.ts";
import { inodeOf, isAlive, readTrailer } from "./cache-files.ts";
import { type CacheFileName, type CachePlace, parseCacheName, sharedPath } from "./cache-names.ts";
import { ChunkRecord, type MapBinding, MapFile } from "./map-file.ts";

/** Blocks in which file systems count (stat(2)). */
const STAT_BLOCK_BYTES = 512;

/** One blob's cache, as it lies on the disk. */
export interface CacheReport {
  readonly digest: Digest;
  /** Bytes of the whole device, uncompressed. */
  readonly deviceBytes: number;
  /** What of it is there and on the disk. */
  readonly filledBytes: number;
  readonly filledChunks: number;
  /** What its files take, those of single processes too. */
  readonly diskBytes: number;
  /** When it was last opened, filled or closed; ms since 1970. */
  readonly lastUsedMs: number;
  /** Whether a process has it open. */
  readonly isInUse: boolean;
}

/** The caches of a directory, by digest. @throws EPERM, EIO */
export async function listCaches(dir: string): Promise<readonly CacheReport[]> {
  const byId = Map.groupBy(await cacheNames(dir), ({ id }) => id);
  const reports = [...byId].flatMap(([id, names]) => {
    const isCache = names.some(({ kind }) => kind === "data" || kind === "map");
    return isCache ? [reportOf({ dir, id }, names)] : [];
  });
  return reports.sort((a, b) => (a.digest < b.digest ? -1 : 1));
}

async function cacheNames(dir: string): Promise<readonly CacheFileName[]> {
  try {
    return (await readdir(dir)).flatMap((name) => parseCacheName(name) ?? []);
  } catch (error) {
    if (asNydusError(error).code === "ENOENT") return [];
    throw asNydusError(error, { path: dir });
  }
}

function reportOf(place: CachePlace, names: readonly CacheFileName[]): CacheReport {
  const stats = names.map(({ name }) => statSync(join(place.dir, name), { throwIfNoEntry: false }));
  const diskBytes = stats.reduce((sum, stat) => sum + (stat?.blocks ?? 0) * STAT_BLOCK_BYTES, 0);
  const times = names.map(({ kind }, i) => (kind === "map" ? (stats[i]?.mtimeMs ?? 0) : 0));
  const isInUse = isLocked(place) || names.some(isOfLivingProcess);
  const log = readLog(place);
  const records = [...(log?.records.values() ?? [])];
  return {
    digest: digestOfHex(place.id),
    deviceBytes: log?.deviceBytes ?? 0,
    filledBytes: records.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
    filledChunks: records.length,
    diskBytes,
    lastUsedMs: Math.max(...times),
    isInUse,
  };
}

function isOfLivingProcess({ kind, pid }: CacheFileName): boolean {
  return kind === "data" && pid !== undefined && isAlive(pid);
}

/** What a cache claims: its map's records by device offset. */
export interface CacheLog {
  readonly deviceBytes: number;
  readonly records: ReadonlyMap<number, ChunkRecord>;
}

/** @returns undefined when data file and map are not there, or do not belong together */
export function readLog(place: CachePlace): CacheLog | undefined {
  return withCacheFiles(place, ({ map, binding }) => ({ deviceBytes: binding.deviceBytes, records: recordsOf(map) }));
}

function recordsOf(map: MapFile): Map<number, ChunkRecord> {
  const records = new Map<number, ChunkRecord>();
  for (let batch = map.next(); batch !== undefined; batch = map.next()) {
    for (let at = 0; at < batch.length; at += ChunkRecord.sizeBytes) {
      const record = ChunkRecord.read(batch, at);
      records.set(record.deviceOffset, record);
    }
  }
  return records;
}

interface OpenCache {
  readonly map: MapFile;
  readonly binding: MapBinding;
}

function withCacheFiles<T>(place: CachePlace, work: (cache: OpenCache) => T): T | undefined {
  let dataFd: number;
  try {
    dataFd = openSync(sharedPath(place, "data"), "r");
  } catch {
    return undefined;
  }
  try {
    const trailer = readTrailer(dataFd);
    if (trailer === undefined) return undefined;
    return withMap(place, { dataInode: inodeOf(dataFd), ...trailer }, work);
  } finally {
    closeSync(dataFd);
  }
}

function withMap<T>(place: CachePlace, device: MapBinding, work: (cache: OpenCache) => T): T | undefined {
  const map = MapFile.openOfDevice(sharedPath(place, "map"), device);
  if (map === undefined) return undefined;
  try {
    return work({ map, binding: map.binding });
  } finally {
    map.close();
  }
}

/**
 * Takes records out of a cache that nobody uses.
 * @param offsets of the chunks
 * @returns false when it is in use: then nothing is changed
 */
export async function dropRecords(place: CachePlace, offsets: ReadonlySet<number>): Promise<boolean> {
  const lock = lockUnused(place);
  if (lock === undefined) return false;
  try {
    const log = withCacheFiles(place, ({ map, binding }) => ({ binding, records: recordsOf(map) }));
    if (log === undefined) return true;
    const kept = [...log.records.values()].filter(({ deviceOffset }) => !offsets.has(deviceOffset));
    const bytes = new Uint8Array(kept.length * ChunkRecord.sizeBytes);
    for (const [i, record] of kept.entries()) ChunkRecord.write(bytes, i * ChunkRecord.sizeBytes, record);
    const path = sharedPath(place, "map");
    await MapFile.create(path, log.binding);
    const map = MapFile.open(path, log.binding);
    try {
      if (bytes.length > 0) map?.append(bytes);
      await map?.sync();
    } finally {
      map?.close();
    }
    return true;
  } finally {
    closeSync(lock);
  }
}

/** What a collection has done. */
export interface CollectedCaches {
  readonly removed: readonly CacheReport[];
  /** Bytes of the disk that all caches together take now. */
  readonly keptBytes: number;
  /** Of them, what cannot be removed because processes use it. */
  readonly inUseBytes: number;
}

/**
 * Removes caches, the least recently used first, until all together take at most `maxBytes` of the disk; and what dead
 * processes have left. What a process has open stays, whatever it takes.
 * @throws EPERM, EIO
 */
export async function collectCaches(dir: string, maxBytes: number): Promise<CollectedCaches> {
  await removeLeftovers(dir);
  const reports = [...(await listCaches(dir))].sort((a, b) => a.lastUsedMs - b.lastUsedMs);
  let keptBytes = reports.reduce((sum, { diskBytes }) => sum + diskBytes, 0);
  let inUseBytes = 0;
  const removed: CacheReport[] = [];
  for (const report of reports) {
    if (report.isInUse) inUseBytes += report.diskBytes;
    else if (keptBytes > maxBytes) {
      if (!(await removeCache({ dir, id: report.digest.slice("sha256:".length) }))) continue;
      keptBytes -= report.diskBytes;
      removed.push(report);
    }
  }
  return { removed, keptBytes, inUseBytes };
}

async function removeLeftovers(dir: string): Promise<void> {
  for (const { name, kind, pid } of await cacheNames(dir)) {
    if (pid === undefined || isAlive(pid)) continue;
    if (kind === "data" || kind === "user") await rm(join(dir, name), { force: true });
  }
}

/**
 * Removes a cache that nobody uses. The lock file stays: who waits for it must not lock a file that is gone.
 * @returns false when it is in use
 */
export async function removeCache(place: CachePlace): Promise<boolean> {
  const lock = lockUnused(place);
  if (lock === undefined) return false;
  try {
    // The map goes first: no crash leaves a map that says of another data file what is ready in it.
    await rm(sharedPath(place, "map"), { force: true });
    await rm(sharedPath(place, "data"), { force: true });
    return true;
  } finally {
    closeSync(lock);
  }
}

/** @returns a descriptor that keeps others from the cache until it is closed; undefined when it is in use */
function lockUnused(place: CachePlace): number | undefined {
  if (!canLock()) return undefined;
  const path = sharedPath(place, "lock");
  const fd = openSync(path, "a", 0o600);
  try {
    if (tryLock(fd, path)) return fd;
  } catch (error) {
    closeSync(fd);
    throw error;
  }
  closeSync(fd);
  return undefined;
}

function isLocked(place: CachePlace): boolean {
  const lock = lockUnused(place);
  if (lock !== undefined) closeSync(lock);
  return lock === undefined;
}
