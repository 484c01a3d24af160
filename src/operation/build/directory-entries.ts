import * as fs from "node:fs/promises";
import { compareBytes, concatBytes } from "../../base/bytes.ts";
import { asNydusError, NydusError } from "../../base/errors.ts";
import type { TarEntry, TarEntryType } from "../../format/tar/reader.ts";
import { type ReadXattrs, xattrReader } from "../../os/read-xattrs.ts";
import { printablePath } from "../image/walk.ts";

const PIECE_BYTES = 1 << 20;
const SLASH = Uint8Array.of(0x2f);
const NO_BYTES = new Uint8Array(0);
const BILLION = 1_000_000_000n;

/** Types of inodes by the bits of st_mode. @see inode(7) */
const TYPES: Readonly<Record<number, TarEntryType>> = {
  1: "fifo",
  2: "char",
  4: "dir",
  6: "block",
  8: "file",
  10: "symlink",
  12: "socket",
};

/**
 * What lies in a directory as the entries of a layer: the root first, a directory before what it holds, names in the
 * order of their bytes, further names of an inode as hard links. Nothing outside of it is followed.
 * @throws ENOENT, EPERM, EIO; EUCLEAN a file that changes meanwhile; ENOTSUP where xattrs cannot be read
 */
export async function* directoryEntries(root: string): AsyncGenerator<TarEntry> {
  const top = new TextEncoder().encode(root);
  const walk = { top, readXattrs: xattrReader(), firstNames: new Map<string, Uint8Array>() };
  const ahead: Uint8Array[] = [NO_BYTES];
  for (let path = ahead.pop(); path !== undefined; path = ahead.pop()) {
    const entry = await readEntry(walk, path);
    yield entry;
    if (entry.type === "dir") ahead.push(...(await pathsIn(walk.top, path)).reverse());
  }
}

interface DirectoryWalk {
  readonly top: Uint8Array;
  readonly readXattrs: ReadXattrs;
  /** Of inodes with several names, by device and number. */
  readonly firstNames: Map<string, Uint8Array>;
}

/** The path by which the system finds a path below the root. */
function systemPath(top: Uint8Array, path: Uint8Array): Buffer {
  return Buffer.from(path.length === 0 ? top : concatBytes([top, SLASH, path]));
}

async function pathsIn(top: Uint8Array, path: Uint8Array): Promise<Uint8Array[]> {
  const names = await attempt(path, () => fs.readdir(systemPath(top, path), { encoding: "buffer" }));
  const raw = names.map((name) => new Uint8Array(name));
  raw.sort(compareBytes);
  return raw.map((name) => (path.length === 0 ? name : concatBytes([path, SLASH, name])));
}

async function attempt<T>(path: Uint8Array, call: () => Promise<T>): Promise<T> {
  try {
    return await call();
  } catch (error) {
    throw asNydusError(error, { path: printablePath(path) });
  }
}

async function readEntry(walk: DirectoryWalk, path: Uint8Array): Promise<TarEntry> {
  const { top, firstNames } = walk;
  const place = { path: printablePath(path) };
  const where = systemPath(top, path);
  const stat = await attempt(path, () => fs.lstat(where, { bigint: true }));
  const type = TYPES[Number(stat.mode >> 12n) & 0xf];
  if (type === undefined) throw new NydusError("ENOTSUP", "Cannot read directory: a file of unknown type", place);
  const seconds = stat.mtimeNs < 0n ? -((-stat.mtimeNs + BILLION - 1n) / BILLION) : stat.mtimeNs / BILLION;
  const entry = {
    path,
    mode: Number(stat.mode) & 0o7777,
    uid: Number(stat.uid),
    gid: Number(stat.gid),
    mtimeSec: Number(seconds),
    mtimeNsec: Number(stat.mtimeNs - seconds * BILLION),
    sizeBytes: 0,
    linkPath: NO_BYTES,
    rdevMajor: 0,
    rdevMinor: 0,
    offset: 0,
    content: noContent(),
  };
  if (type !== "dir" && stat.nlink > 1n) {
    const inode = `${stat.dev}:${stat.ino}`;
    const first = firstNames.get(inode);
    if (first !== undefined) return { ...entry, type: "hardlink", linkPath: first, xattrs: new Map() };
    firstNames.set(inode, path);
  }
  const described = { ...entry, type, xattrs: walk.readXattrs(where, place) };
  if (type === "symlink") {
    const target = await attempt(path, () => fs.readlink(where, { encoding: "buffer" }));
    return { ...described, linkPath: new Uint8Array(target) };
  }
  if (type === "char" || type === "block") return { ...described, ...deviceNumbers(stat.rdev) };
  if (type !== "file") return described;
  return { ...described, sizeBytes: Number(stat.size), content: fileContent(where, path) };
}

/** `dev_t` as glibc has it. @see gnu_dev_major(3) */
function deviceNumbers(rdev: bigint): Pick<TarEntry, "rdevMajor" | "rdevMinor"> {
  const major = ((rdev >> 32n) & 0xfffff000n) | ((rdev >> 8n) & 0xfffn);
  const minor = ((rdev >> 12n) & 0xffffff00n) | (rdev & 0xffn);
  return { rdevMajor: Number(major), rdevMinor: Number(minor) };
}

async function* noContent(): AsyncGenerator<Uint8Array> {
  // what is no file has none
}

async function* fileContent(where: Buffer, path: Uint8Array): AsyncGenerator<Uint8Array> {
  const file = await attempt(path, () => fs.open(where, fs.constants.O_RDONLY | fs.constants.O_NOFOLLOW));
  try {
    for (;;) {
      const buffer = new Uint8Array(PIECE_BYTES);
      const { bytesRead } = await attempt(path, () => file.read(buffer, 0, buffer.length, null));
      if (bytesRead === 0) return;
      yield buffer.subarray(0, bytesRead);
    }
  } finally {
    await file.close();
  }
}

/** An entry that belongs to nobody in particular, as `--repeatable` wants it. */
export async function* withoutOwners(entries: AsyncIterable<TarEntry>): AsyncGenerator<TarEntry> {
  for await (const entry of entries) yield { ...entry, uid: 0, gid: 0 };
}
