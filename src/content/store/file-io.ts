import * as fs from "node:fs";
import type { ByteRange } from "../../base/bytes.ts";
import { asNydusError, NydusError } from "../../base/errors.ts";

/** Largest single read or write, bytes: the kernel's own limit is just below 2 GiB. */
const CALL_BYTES = 1 << 30;

/**
 * Opens a file.
 * @param flags as open(2)'s in Node's letters: "r", "wx+", …
 * @throws ENOENT, EEXIST, EPERM, ENOSPC, EIO with the path
 */
export function openFile(path: string, flags: string, mode = 0o644): Promise<number> {
  return call(path, (done) => fs.open(path, flags, mode, done));
}

/** Closes a descriptor; an error has no one to be told to who could act on it. */
export function closeFile(fd: number): Promise<void> {
  return new Promise((resolve) => fs.close(fd, () => resolve()));
}

/** Bytes of an open file. */
export async function fileSize(fd: number, path: string): Promise<number> {
  const stat = await call<fs.Stats>(path, (done) => fs.fstat(fd, done));
  if (!stat.isFile()) throw new NydusError("EINVAL", "Cannot open: it is not a regular file", { path });
  return stat.size;
}

/** The inode number of an open file. */
export async function fileInode(fd: number, path: string): Promise<bigint> {
  return (await call<fs.BigIntStats>(path, (done) => fs.fstat(fd, { bigint: true }, done))).ino;
}

/**
 * Exactly the bytes of a range of a file, in a buffer of their own.
 * @throws EIO when the file ends before
 */
export async function readFully(fd: number, range: ByteRange, path: string): Promise<Uint8Array> {
  const target = new Uint8Array(range.end - range.start);
  let at = 0;
  while (at < target.length) {
    const length = Math.min(CALL_BYTES, target.length - at);
    const position = range.start + at;
    const got = await call<number>(path, (done) => fs.read(fd, target, at, length, position, done));
    if (got === 0) {
      const message = `Cannot read: the file ends ${target.length - at} bytes early`;
      throw new NydusError("EIO", message, { path, offset: range.start + at });
    }
    at += got;
  }
  return target;
}

/** Writes all of `data` at `position`. @throws ENOSPC, EIO */
export async function writeFully(fd: number, data: Uint8Array, position: number, path: string): Promise<void> {
  let at = 0;
  while (at < data.length) {
    const [from, length] = [at, Math.min(CALL_BYTES, data.length - at)];
    at += await call<number>(path, (done) => fs.write(fd, data, from, length, position + from, done));
  }
}

/** Waits until the file's data, and what is needed to read it, is on the disk. @throws EIO, ENOSPC */
export function syncData(fd: number, path: string): Promise<void> {
  return call(path, (done) => fs.fdatasync(fd, done));
}

/** Sets a file's length; what is new is a hole. @throws ENOSPC too large for the file system */
export function setLength(fd: number, sizeBytes: number, path: string): Promise<void> {
  return call(path, (done) => fs.ftruncate(fd, sizeBytes, done));
}

/** Makes renames and new names in a directory durable. */
export async function syncDirectory(path: string): Promise<void> {
  const fd = await openFile(path, "r");
  try {
    await call<void>(path, (done) => fs.fsync(fd, done));
  } finally {
    await closeFile(fd);
  }
}

/** The same before it returns, for those who hold the whole program back until it is done. @throws EIO, ENOENT */
export function syncDirectoryNow(path: string): void {
  const fd = fs.openSync(path, "r");
  try {
    fs.fsyncSync(fd);
  } finally {
    fs.closeSync(fd);
  }
}

type Done<T> = (error: NodeJS.ErrnoException | null, value?: T) => void;

function call<T>(path: string, start: (done: Done<T>) => void): Promise<T> {
  return new Promise((resolve, reject) => {
    start((error, value) =>
      error === null || error === undefined ? resolve(value as T) : reject(failure(error, path)),
    );
  });
}

function failure(error: NodeJS.ErrnoException, path: string): NydusError {
  return asNydusError(error, { path });
}
