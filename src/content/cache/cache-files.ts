import { randomBytes } from "node:crypto";
import { closeSync, fstatSync, futimesSync, openSync, readSync, statSync } from "node:fs";
import { mkdir, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { alignUp, BLOCK_BYTES, equalBytes } from "../../base/bytes.ts";
import { asNydusError, NydusError } from "../../base/errors.ts";
import { bytes, struct } from "../../base/struct.ts";
import type { ChunkMap } from "../../format/rafs/chunk-map.ts";
import { canLock, tryLock, tryLockShared, unlock } from "../../os/file-lock.ts";
import { isMarkedElsewhere, openQuiet, type QuietFile } from "../../os/quiet-file.ts";
import { closeFile, openFile, setLength, syncData, writeFully } from "../store/file-io.ts";
import { type CachePlace, ownPath, parseCacheName, sharedPath } from "./cache-names.ts";
import { CacheUser } from "./cache-user.ts";
import { CACHE_ID_BYTES, MapFile } from "./map-file.ts";
import type { AppendLock, ReadyMap } from "./ready-map.ts";

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

/** How long to wait for a process that holds a lock meant for short work. */
const LOCK_WAIT_MS = 10_000;
const LOCK_STEP_MS = 2;

/** Which blob's cache, where, and for which image. */
export interface CacheRequest extends CachePlace {
  readonly deviceBytes: number;
  readonly chunks: ChunkMap;
}

/** The open data file of a cache. */
export interface CacheFiles {
  readonly dataFd: number;
  /** For fdatasync(2): mostly `dataFd`. */
  readonly syncFd: number;
  readonly dataPath: string;
  /** False where other processes cannot or must not share it: it is for this one only, and goes with it. */
  readonly isShared: boolean;
  readonly appendLock: AppendLock;
  close(): Promise<void>;
}

/**
 * Opens the cache of a blob and fills `ready` with what it holds, beside other processes that have it open. What does
 * not fit together is thrown away when nobody else uses it, and left alone otherwise: then this process gets a cache of
 * its own.
 * @throws ENOSPC, EPERM, EIO; EBUSY another process has been changing it for 10 s
 */
export async function openCacheFiles(request: CacheRequest, ready: ReadyMap): Promise<CacheFiles> {
  try {
    await mkdir(request.dir, { recursive: true, mode: 0o700 });
  } catch (error) {
    throw asNydusError(error, { path: request.dir });
  }
  await removeAbandoned(request);
  if (!canLock()) return openPrivate(request);
  const lockPath = sharedPath(request, "lock");
  const lock = await openFile(lockPath, "a", 0o600);
  try {
    const files = await new SharedOpening(request, ready, { fd: lock, path: lockPath }).open();
    if (files !== undefined) return files;
  } catch (error) {
    closeSync(lock);
    throw error;
  }
  closeSync(lock);
  return openPrivate(request);
}

async function openPrivate(request: CacheRequest): Promise<CacheFiles> {
  const dataPath = ownPath(request, "data");
  const dataFd = await createData(dataPath, request.deviceBytes, randomBytes(CACHE_ID_BYTES));
  const close = async (): Promise<void> => {
    await closeFile(dataFd);
    await rm(dataPath, { force: true });
  };
  return { dataFd, syncFd: dataFd, dataPath, isShared: false, appendLock: async (work) => work(), close };
}

/** Removes private caches of processes that are gone. */
async function removeAbandoned(place: CachePlace): Promise<void> {
  for (const name of await readdir(place.dir)) {
    const { id, kind, pid } = parseCacheName(name) ?? {};
    if (id !== place.id || kind !== "data" || pid === undefined) continue;
    if (!isAlive(pid)) await rm(join(place.dir, name), { force: true });
  }
}

/** Whether there is such a process. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== "ESRCH";
  }
}

interface OpenData {
  readonly fd: number;
  readonly syncFd: number;
  readonly map: MapFile;
}

/**
 * One attempt to open a cache that others may have open. The lock file is held shared by all who use the cache;
 * whoever holds it alone may begin anew, or remove it.
 */
class SharedOpening {
  readonly #request: CacheRequest;
  readonly #ready: ReadyMap;
  readonly #lock: { readonly fd: number; readonly path: string };
  readonly #dataPath: string;
  readonly #mapPath: string;

  constructor(request: CacheRequest, ready: ReadyMap, lock: { readonly fd: number; readonly path: string }) {
    this.#request = request;
    this.#ready = ready;
    this.#lock = lock;
    this.#dataPath = sharedPath(request, "data");
    this.#mapPath = sharedPath(request, "map");
  }

  /** @returns undefined when it is used by others and does not fit */
  async open(): Promise<CacheFiles | undefined> {
    const { path } = this.#lock;
    if (this.#isMarkedElsewhere()) return undefined;
    for (let waited = 0; waited < LOCK_WAIT_MS; waited += LOCK_STEP_MS) {
      const data = await this.#take();
      if (data === undefined) return undefined;
      const files = data === "retry" ? data : await this.#join(data);
      if (files !== "retry") return files;
      await sleep(LOCK_STEP_MS);
    }
    throw new NydusError("EBUSY", `Cannot open cache: another process has been changing it for ${LOCK_WAIT_MS} ms`, {
      path,
    });
  }

  /** Another process has the kernel ask it about the file: our writes would wait for its answers. */
  #isMarkedElsewhere(): boolean {
    try {
      const { fd, syncFd } = openQuiet(this.#dataPath);
      const isMarked = isMarkedElsewhere(fd);
      closeFds(fd, syncFd);
      return isMarked;
    } catch {
      return false; // not there
    }
  }

  /** The files, under a lock of either kind. @returns undefined: used by others and does not fit */
  async #take(): Promise<OpenData | "retry" | undefined> {
    const { fd, path } = this.#lock;
    if (tryLock(fd, path)) return this.#reopen() ?? (await this.#startEmpty());
    if (!tryLockShared(fd, path)) return "retry";
    const data = this.#reopen();
    if (data !== undefined) return data;
    // The exclusive lock tells whether others use it, or have just left.
    if (!tryLock(fd, path)) return undefined;
    unlock(fd);
    return "retry";
  }

  /** Takes its place beside the others. @returns undefined: it must not; "retry": all was removed meanwhile */
  async #join({ fd, syncFd, map }: OpenData): Promise<CacheFiles | "retry" | undefined> {
    let user: CacheUser | undefined;
    const leave = (): void => {
      user?.close();
      map.close();
      closeFds(fd, syncFd);
      this.#ready.forget();
    };
    try {
      user = CacheUser.enter(this.#request, this.#request.chunks);
      // From here on newcomers see us, so that the exclusive lock can be given up: which is not done in one step.
      const isHeld = tryLockShared(this.#lock.fd, this.#lock.path) && isSameFile(fd, this.#dataPath);
      if (isHeld && !(await user.meetsConflict())) return this.#files({ fd, syncFd, map }, user);
      leave();
      return isHeld ? undefined : "retry";
    } catch (error) {
      leave();
      throw error;
    }
  }

  #files({ fd, syncFd, map }: OpenData, user: CacheUser): CacheFiles {
    touch(map.path);
    const close = async (): Promise<void> => {
      touch(map.path);
      user.close();
      map.close();
      if (syncFd !== fd) await closeFile(syncFd);
      await closeFile(fd);
      await closeFile(this.#lock.fd);
    };
    const appendLock: AppendLock = (work) => withAppendLock({ fd, path: this.#dataPath }, work);
    return { dataFd: fd, syncFd, dataPath: this.#dataPath, isShared: true, appendLock, close };
  }

  /** @returns undefined unless data file and map are there, belong together, and do not contradict the image */
  #reopen(): OpenData | undefined {
    let file: QuietFile;
    try {
      file = openQuiet(this.#dataPath);
    } catch {
      return undefined;
    }
    const { fd, syncFd } = file;
    const map = this.#openMap(file);
    if (map !== undefined && this.#ready.load(map)) return { fd, syncFd, map };
    map?.close();
    closeFds(fd, syncFd);
    return undefined;
  }

  #openMap({ fd: dataFd, syncFd }: QuietFile): MapFile | undefined {
    try {
      const { deviceBytes } = this.#request;
      const found = readTrailer(dataFd);
      if (found?.deviceBytes !== alignUp(deviceBytes, BLOCK_BYTES)) return undefined;
      return MapFile.open(this.#mapPath, { deviceBytes, dataInode: inodeOf(dataFd), cacheId: found.cacheId });
    } catch (error) {
      if (error instanceof NydusError) return undefined;
      closeFds(dataFd, syncFd);
      throw error;
    }
  }

  async #startEmpty(): Promise<OpenData> {
    const { deviceBytes } = this.#request;
    // The map goes first: no crash leaves an old map beside a new data file.
    await rm(this.#mapPath, { force: true });
    await rm(this.#dataPath, { force: true });
    const cacheId = randomBytes(CACHE_ID_BYTES);
    const fd = await createData(this.#dataPath, deviceBytes, cacheId);
    try {
      await syncData(fd, this.#dataPath);
      const binding = { deviceBytes, dataInode: inodeOf(fd), cacheId };
      await MapFile.create(this.#mapPath, binding);
      const map = MapFile.open(this.#mapPath, binding);
      if (map === undefined) throw new NydusError("EIO", "Cannot open cache: what was written is not there");
      this.#ready.load(map);
      return { fd, syncFd: fd, map };
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }
}

function closeFds(...fds: readonly number[]): void {
  for (const fd of new Set(fds)) closeSync(fd);
}

/** The locked work takes no time: whoever is in the way has done in a moment, or was stopped. */
async function withAppendLock<T>({ fd, path }: { fd: number; path: string }, work: () => T): Promise<T> {
  for (let waited = 0; waited < LOCK_WAIT_MS; waited += LOCK_STEP_MS) {
    if (tryLock(fd, path)) {
      try {
        return work();
      } finally {
        unlock(fd);
      }
    }
    await sleep(LOCK_STEP_MS);
  }
  throw new NydusError("EBUSY", `Cannot write ready map: another process has held it for ${LOCK_WAIT_MS} ms`, { path });
}

/** The map's time of change says when the cache was last used. */
function touch(path: string): void {
  try {
    const fd = openSync(path, "r");
    try {
      const now = Date.now() / 1000;
      futimesSync(fd, now, now);
    } finally {
      closeSync(fd);
    }
  } catch {
    // gc will take it for older than it is
  }
}

/** The random id of a data file, and the bytes of its device in whole blocks; undefined when it is none. */
export function readTrailer(fd: number): { readonly deviceBytes: number; readonly cacheId: Uint8Array } | undefined {
  const start = fstatSync(fd).size - BLOCK_BYTES;
  if (start < 0 || start % BLOCK_BYTES !== 0) return undefined;
  const block = new Uint8Array(BLOCK_BYTES);
  if (readSync(fd, block, 0, BLOCK_BYTES, start) !== BLOCK_BYTES) return undefined;
  const { magic, cacheId } = Trailer.read(block, 0);
  return equalBytes(magic, MAGIC) ? { deviceBytes: start, cacheId } : undefined;
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

/** The inode number of an open file. */
export function inodeOf(fd: number): bigint {
  return fstatSync(fd, { bigint: true }).ino;
}

function isSameFile(fd: number, path: string): boolean {
  try {
    return statSync(path, { bigint: true }).ino === inodeOf(fd);
  } catch {
    return false;
  }
}
