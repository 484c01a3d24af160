import { closeSync, fstatSync, openSync } from "node:fs";
import { libc, systemFailure } from "./syscall.ts";

/**
 * Descriptors of files that are marked for fanotify, opened before the mark: reading and writing through them asks
 * nobody. Who opens such a file later would ask this very process, and wait for itself; so it gets a copy.
 */
const quiet = new Map<string, number>();

/** `fcntl(2)` for locks of an open file (all copies of its descriptor) rather than of a process. */
const F_OFD_GETLK = 36;
const F_OFD_SETLK = 37;
const F_WRLCK = 1;
const F_UNLCK = 2;
/** The byte that is locked: far behind any data. */
const LOCK_AT = 2n ** 62n;
const EAGAIN = 11;
const EACCES = 13;

function keyOf(fd: number): string {
  const { dev, ino } = fstatSync(fd, { bigint: true });
  return `${dev}:${ino}`;
}

/** Has this process's later openings of a file give copies of `fd`; ends with {@link forgetQuiet}. @throws EIO */
export function keepQuiet(fd: number): void {
  const key = keyOf(fd);
  if (!quiet.has(key)) quiet.set(key, duplicate(fd));
}

/** Ends {@link keepQuiet}. */
export function forgetQuiet(fd: number): void {
  const key = keyOf(fd);
  const kept = quiet.get(key);
  quiet.delete(key);
  if (kept !== undefined) closeSync(kept);
}

/** A descriptor of a file, and one that sees what writing to the disk has failed for it. */
export interface QuietFile {
  readonly fd: number;
  /** For fdatasync(2), which tells each opening of a file once of a failure; mostly `fd`. */
  readonly syncFd: number;
}

/** Opens a file to read and write; asks nobody where the file is marked by this process. @throws as open(2) */
export function openQuiet(path: string): QuietFile {
  const fd = openSync(path, "r+");
  if (quiet.size === 0) return { fd, syncFd: fd };
  try {
    const kept = quiet.get(keyOf(fd));
    return kept === undefined ? { fd, syncFd: fd } : { fd: duplicate(kept), syncFd: fd };
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

/** Another number for the same open file. @throws EIO no descriptor left */
export function duplicate(fd: number): number {
  const { errno, fd: copy } = libc().duplicateFd(fd);
  if (copy === undefined) throw systemFailure(errno, "copy a descriptor");
  return copy;
}

/**
 * Takes the right to mark a file. All copies of the descriptor have it, those of other processes too, and the last one
 * ends it.
 * @returns false when another opening of the file has it
 */
export function lockMarks(fd: number): boolean {
  const errno = libc().lockControl(fd, F_OFD_SETLK, encodeLock(F_WRLCK));
  if (errno === EAGAIN || errno === EACCES) return false;
  if (errno !== 0) throw systemFailure(errno, "lock file");
  return true;
}

/** Gives {@link lockMarks} back. */
export function unlockMarks(fd: number): void {
  libc().lockControl(fd, F_OFD_SETLK, encodeLock(F_UNLCK));
}

/** Whether another opening of the file has the right to mark it: then reading and writing through `fd` may ask it. */
export function isMarkedElsewhere(fd: number): boolean {
  const lock = encodeLock(F_WRLCK);
  const errno = libc().lockControl(fd, F_OFD_GETLK, lock);
  return errno === 0 && new DataView(lock.buffer).getInt16(0, true) !== F_UNLCK;
}

/** A struct flock (LP64) over one byte. */
function encodeLock(type: number): Uint8Array {
  const lock = new Uint8Array(32);
  const view = new DataView(lock.buffer);
  view.setInt16(0, type, true);
  view.setBigInt64(8, LOCK_AT, true);
  view.setBigInt64(16, 1n, true);
  return lock;
}
