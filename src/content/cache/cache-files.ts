import { randomBytes } from "node:crypto";
import { fstatSync } from "node:fs";
import { mkdir, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { alignUp, BLOCK_BYTES, equalBytes } from "../../base/bytes.ts";
import { asNydusError, NydusError } from "../../base/errors.ts";
import { bytes, struct } from "../../base/struct.ts";
import { canLock, tryLock } from "../../os/file-lock.ts";
import { closeFile, openFile, readFully, setLength, syncData, writeFully } from "../store/file-io.ts";
import { CACHE_ID_BYTES, type ReadyMap } from "./ready-map.ts";

const MAGIC = new TextEncoder().encode("NYDCACHE");

/**
 * The block behind the device's end in a data file. It holds the random id that the map repeats, so that a data file
 * that was swapped, cut, or emptied and grown again is noticed; an extended attribute would outlive the last two.
 */
const Trailer = struct("cache data trailer", BLOCK_BYTES, {
  magic: [0, bytes(8)],
  cacheId: [8, bytes(CACHE_ID_BYTES)],
  reserved: [8 + CACHE_ID_BYTES, bytes(BLOCK_BYTES - 8 - CACHE_ID_BYTES)],
});

/** Which blob's cache, and where. */
export interface CachePlace {
  readonly dir: string;
  /** 64 hex digits. */
  readonly id: string;
  readonly deviceBytes: number;
}

/** The open data file of a cache. */
export interface CacheFiles {
  readonly dataFd: number;
  readonly dataPath: string;
  /** False when another process has this blob's cache: this one is for this process only, and goes with it. */
  readonly isShared: boolean;
  close(): Promise<void>;
}

/**
 * Opens the cache of a blob and fills `ready` with what it holds; whatever does not fit together is thrown away.
 * @throws ENOSPC, EPERM, EIO
 */
export async function openCacheFiles(place: CachePlace, ready: ReadyMap): Promise<CacheFiles> {
  try {
    await mkdir(place.dir, { recursive: true, mode: 0o700 });
  } catch (error) {
    throw asNydusError(error, { path: place.dir });
  }
  await removeAbandoned(place);
  const lock = await lockCache(place);
  if (lock === undefined) return openPrivate(place);
  try {
    return await openShared(place, ready, lock);
  } catch (error) {
    await closeFile(lock);
    throw error;
  }
}

/** @returns a descriptor that holds the lock, or undefined when another one does or the runtime cannot lock */
async function lockCache(place: CachePlace): Promise<number | undefined> {
  if (!canLock()) return undefined;
  const path = join(place.dir, `${place.id}.lock`);
  const fd = await openFile(path, "a", 0o600);
  try {
    if (tryLock(fd, path)) return fd;
  } catch (error) {
    await closeFile(fd);
    throw error;
  }
  await closeFile(fd);
  return undefined;
}

async function openPrivate(place: CachePlace): Promise<CacheFiles> {
  const dataPath = join(place.dir, `${place.id}.${process.pid}.${randomBytes(8).toString("hex")}.data`);
  const dataFd = await createData(dataPath, place.deviceBytes, randomBytes(CACHE_ID_BYTES));
  const close = async (): Promise<void> => {
    await closeFile(dataFd);
    await rm(dataPath, { force: true });
  };
  return { dataFd, dataPath, isShared: false, close };
}

/** Removes private caches of processes that are gone. */
async function removeAbandoned(place: CachePlace): Promise<void> {
  for (const name of await readdir(place.dir)) {
    const [id, pid, ...rest] = name.split(".");
    if (id !== place.id || rest.length !== 2 || pid === undefined || !/^\d+$/.test(pid)) continue;
    if (!isAlive(Number(pid))) await rm(join(place.dir, name), { force: true });
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== "ESRCH";
  }
}

async function openShared(place: CachePlace, ready: ReadyMap, lock: number): Promise<CacheFiles> {
  const dataPath = join(place.dir, `${place.id}.data`);
  const mapPath = join(place.dir, `${place.id}.map`);
  const dataFd =
    (await reopen(place, { dataPath, mapPath }, ready)) ?? (await startEmpty(place, { dataPath, mapPath }, ready));
  const close = async (): Promise<void> => {
    await closeFile(dataFd);
    await closeFile(lock);
  };
  return { dataFd, dataPath, isShared: true, close };
}

interface CachePaths {
  readonly dataPath: string;
  readonly mapPath: string;
}

/** @returns undefined unless data file and map are there and belong together */
async function reopen(place: CachePlace, paths: CachePaths, ready: ReadyMap): Promise<number | undefined> {
  const { dataPath, mapPath } = paths;
  const dataFd = await openFile(dataPath, "r+").catch(() => undefined);
  if (dataFd === undefined) return undefined;
  try {
    const cacheId = await readTrailer(dataFd, dataPath, place.deviceBytes);
    if (cacheId !== undefined) {
      const binding = { deviceBytes: place.deviceBytes, dataInode: inodeOf(dataFd), cacheId };
      if (await ready.load(mapPath, binding)) return dataFd;
    }
  } catch (error) {
    if (!(error instanceof NydusError)) {
      await closeFile(dataFd);
      throw error;
    }
  }
  await closeFile(dataFd);
  return undefined;
}

async function readTrailer(fd: number, path: string, deviceBytes: number): Promise<Uint8Array | undefined> {
  const start = alignUp(deviceBytes, BLOCK_BYTES);
  if (fstatSync(fd).size !== start + BLOCK_BYTES) return undefined;
  const trailer = Trailer.read(await readFully(fd, { start, end: start + BLOCK_BYTES }, path), 0);
  return equalBytes(trailer.magic, MAGIC) ? trailer.cacheId : undefined;
}

async function startEmpty(place: CachePlace, paths: CachePaths, ready: ReadyMap): Promise<number> {
  // The map goes first: no crash leaves an old map beside a new data file.
  await rm(paths.mapPath, { force: true });
  await rm(paths.dataPath, { force: true });
  const cacheId = randomBytes(CACHE_ID_BYTES);
  const dataFd = await createData(paths.dataPath, place.deviceBytes, cacheId);
  try {
    await syncData(dataFd, paths.dataPath);
    await ready.begin(paths.mapPath, { deviceBytes: place.deviceBytes, dataInode: inodeOf(dataFd), cacheId });
    return dataFd;
  } catch (error) {
    await closeFile(dataFd);
    throw error;
  }
}

async function createData(path: string, deviceBytes: number, cacheId: Uint8Array): Promise<number> {
  const fd = await openFile(path, "wx+", 0o600);
  try {
    const start = alignUp(deviceBytes, BLOCK_BYTES);
    await setLength(fd, start + BLOCK_BYTES, path);
    const trailer = new Uint8Array(BLOCK_BYTES);
    Trailer.write(trailer, 0, { magic: MAGIC, cacheId });
    await writeFully(fd, trailer, start, path);
    return fd;
  } catch (error) {
    await closeFile(fd);
    await rm(path, { force: true });
    throw error;
  }
}

function inodeOf(fd: number): bigint {
  return fstatSync(fd, { bigint: true }).ino;
}
