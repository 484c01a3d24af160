import { lstat, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { type Digest, digestOfHex } from "../../base/digest.ts";
import { asNydusError, NydusError } from "../../base/errors.ts";
import { canLock, tryLock } from "../../os/file-lock.ts";
import { processStart } from "../../os/process.ts";
import { closeFile, openFile } from "../store/file-io.ts";
import { lockPath } from "../store/path-lock.ts";
import { type ImageRecord, listRecords, namesIn } from "./image-records.ts";
import { leasedDigests } from "./lease.ts";
import { makeStoreDir, type StorePaths, storePaths } from "./paths.ts";
import { digestsOf, readStoredImage } from "./stored-image.ts";

/** What a sweep may find: blobs, parts of them, unpacked bootstraps, caches of uncompressed data. */
export type SweptKind = "blob" | "part" | "bootstrap" | "cache";

/** Something that a sweep has removed. */
export interface Swept {
  readonly kind: SweptKind;
  readonly digest: Digest;
  /** Bytes of the disk that it took. */
  readonly bytes: number;
}

/** What is swept. */
export interface SweepOptions {
  /** Only what belongs to these; undefined: everything, and what broken transfers and dead processes left. */
  readonly only?: ReadonlySet<Digest>;
}

/** Another sweep may hold the store's lock for long. */
const LOCK_WAIT_MS = 120_000;

const HEX = /^[0-9a-f]{64}$/;
/** Files that a process writes under a name of its own: its pid is in them. */
const STAGED = /^\.nydus-(\d+)-[0-9a-f]+\.tmp$/;
/** A part of a blob; where processes cannot lock, of one process: its pid and something random. */
const PART = /^([0-9a-f]{64})(?:\.(\d+)-[0-9a-f]+)?\.part$/;
/** The data of a cache, or of one that is a single process's. */
const CACHE = /^([0-9a-f]{64})(?:\.(\d+)\.[0-9a-f]+)?\.data$/;
/** An abandoned directory of an unpacking, which has no pid in its name, is so old at least. */
const UNPACKING_MS = 24 * 60 * 60 * 1000;

/**
 * Removes what no image of the store and no living process needs. The store is locked meanwhile, so that a process
 * that is about to use something has a lease on it, or finds it gone.
 * @throws EUCLEAN a damaged record: what it needs cannot be known; EBUSY, EPERM, EIO
 */
export async function sweepStore(root: string, { only }: SweepOptions = {}): Promise<readonly Swept[]> {
  const paths = storePaths(root);
  await makeStoreDir(paths.dir);
  await using _lock = await lockPath(paths.dir, "sweep the image store", LOCK_WAIT_MS);
  const kept = await leasedDigests(paths);
  for (const record of await soundRecords(paths)) {
    for (const digest of digestsOf(record, await readStoredImage(paths, record))) kept.add(digest);
  }
  const isWanted = (digest: Digest): boolean => !kept.has(digest) && (only === undefined || only.has(digest));
  return [
    ...(await sweepBlobs(paths, isWanted)),
    ...(await sweepParts(paths, only)),
    ...(await sweepBootstraps(join(root, "bootstraps"), isWanted, only === undefined)),
    ...(await sweepCaches(join(root, "cache"), isWanted)),
  ];
}

async function soundRecords(paths: StorePaths): Promise<readonly ImageRecord[]> {
  const { records, damaged } = await listRecords(paths);
  const [path] = damaged;
  if (path === undefined) return records;
  throw new NydusError("EUCLEAN", "Cannot sweep the image store: a record is damaged; remove the file", { path });
}

type IsWanted = (digest: Digest) => boolean;

async function sweepBlobs(paths: StorePaths, isWanted: IsWanted): Promise<Swept[]> {
  const swept: Swept[] = [];
  for (const name of await namesIn(paths.blobs)) {
    if (!HEX.test(name) || !isWanted(digestOfHex(name))) continue;
    swept.push(await remove("blob", digestOfHex(name), [join(paths.blobs, name)]));
  }
  return swept;
}

/** Parts that nobody writes to, whatever image wants them; staged files of dead processes. */
async function sweepParts(paths: StorePaths, only: ReadonlySet<Digest> | undefined): Promise<Swept[]> {
  const swept: Swept[] = [];
  for (const name of await namesIn(paths.ingest)) {
    const path = join(paths.ingest, name);
    const [, hex, pid] = PART.exec(name) ?? [];
    if (hex === undefined) {
      if (only === undefined && isAbandoned(name)) await rm(path, { force: true });
      continue;
    }
    const digest = digestOfHex(hex);
    if (only !== undefined && !only.has(digest)) continue;
    const removePart = (): Promise<Swept> => remove("part", digest, [path]);
    const part = pid === undefined ? await ifUnlocked(path, removePart) : await ifDead(pid, removePart);
    if (part !== undefined) swept.push(part);
  }
  return swept;
}

function isAbandoned(name: string): boolean {
  const pid = STAGED.exec(name)?.[1];
  return pid !== undefined && processStart(Number(pid)) === undefined;
}

async function ifDead(pid: string, then: () => Promise<Swept>): Promise<Swept | undefined> {
  return processStart(Number(pid)) === undefined ? await then() : undefined;
}

/** Does something while holding the lock on a file, if there is one; not while another process holds it. */
async function ifUnlocked(path: string, then: () => Promise<Swept>): Promise<Swept | undefined> {
  let fd: number;
  try {
    fd = await openFile(path, "r");
  } catch (error) {
    if (asNydusError(error).code === "ENOENT") return await then();
    throw error;
  }
  try {
    return canLock() && tryLock(fd, path) ? await then() : undefined;
  } finally {
    await closeFile(fd);
  }
}

async function sweepBootstraps(dir: string, isWanted: IsWanted, all: boolean): Promise<Swept[]> {
  const swept: Swept[] = [];
  for (const name of await namesIn(dir)) {
    const path = join(dir, name);
    if (HEX.test(name)) {
      if (isWanted(digestOfHex(name))) swept.push(await remove("bootstrap", digestOfHex(name), [path]));
    } else if (all && name.startsWith(".unpacking-") && (await ageMs(path)) > UNPACKING_MS) {
      await rm(path, { recursive: true, force: true });
    }
  }
  return swept;
}

async function ageMs(path: string): Promise<number> {
  const found = await lstat(path).catch(() => undefined);
  return found === undefined ? 0 : Date.now() - found.mtimeMs;
}

/** Caches that no process has open; the lock files stay: who waits for one must not lock a file that is gone. */
async function sweepCaches(dir: string, isWanted: IsWanted): Promise<Swept[]> {
  const swept: Swept[] = [];
  for (const name of await namesIn(dir)) {
    const [, hex, pid] = CACHE.exec(name) ?? [];
    if (hex === undefined || !isWanted(digestOfHex(hex))) continue;
    // The map goes first: no crash leaves a map that says of another data file what is ready in it.
    const files = pid === undefined ? [`${hex}.map`, name] : [name];
    const paths = files.map((file) => join(dir, file));
    const removeCache = (): Promise<Swept> => remove("cache", digestOfHex(hex), paths);
    const lock = join(dir, `${hex}.lock`);
    const cache = pid === undefined ? await ifUnlocked(lock, removeCache) : await ifDead(pid, removeCache);
    if (cache !== undefined) swept.push(cache);
  }
  return swept;
}

async function remove(kind: SweptKind, digest: Digest, paths: readonly string[]): Promise<Swept> {
  let bytes = 0;
  for (const path of paths) {
    try {
      bytes += await diskBytes(path);
      await rm(path, { recursive: true, force: true });
    } catch (error) {
      throw asNydusError(error, { path });
    }
  }
  return { kind, digest, bytes };
}

/** Bytes of the disk that a file or a directory of files takes. */
async function diskBytes(path: string): Promise<number> {
  const found = await lstat(path).catch(() => undefined);
  if (found === undefined) return 0;
  const own = found.blocks * 512;
  if (!found.isDirectory()) return own;
  let sum = own;
  for (const name of await readdir(path)) sum += await diskBytes(join(path, name));
  return sum;
}
