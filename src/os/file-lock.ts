import { constants } from "node:os";
import { hasLibc, libc, systemFailure } from "./syscall.ts";

const LOCK_SH = 1;
const LOCK_EX = 2;
const LOCK_NB = 4;
const LOCK_UN = 8;

/** Whether {@link tryLock} can be had here: elsewhere processes cannot keep out of one another's way. */
export function canLock(): boolean {
  return hasLibc();
}

/**
 * Takes an exclusive lock on an open file, without waiting. It ends when the descriptor is closed, also by the death
 * of the process. A lock that the descriptor holds already is converted, and lost when that fails.
 * @returns false when another descriptor holds a lock
 * @throws ENOTSUP where {@link canLock} says no; EIO as flock(2) has it
 */
export function tryLock(fd: number, path: string): boolean {
  return tryFlock(fd, LOCK_EX, path);
}

/** The same for a lock that others may share. @returns false when another descriptor holds an exclusive one */
export function tryLockShared(fd: number, path: string): boolean {
  return tryFlock(fd, LOCK_SH, path);
}

/** Gives a lock back. */
export function unlock(fd: number): void {
  libc().flock(fd, LOCK_UN);
}

function tryFlock(fd: number, operation: number, path: string): boolean {
  const errno = libc().flock(fd, operation | LOCK_NB);
  if (errno === 0) return true;
  if (errno === constants.errno.EWOULDBLOCK) return false;
  throw systemFailure(errno, "lock file", { path });
}
