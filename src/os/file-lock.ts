import { constants } from "node:os";
import { hasLibc, libc, systemFailure } from "./syscall.ts";

const LOCK_EX = 2;
const LOCK_NB = 4;

/** Whether {@link tryLock} can be had here: elsewhere processes cannot keep out of one another's way. */
export function canLock(): boolean {
  return hasLibc();
}

/**
 * Takes an exclusive lock on an open file, without waiting. It ends when the descriptor is closed, also by the death
 * of the process.
 * @returns false when another descriptor holds it
 * @throws ENOTSUP where {@link canLock} says no; EIO as flock(2) has it
 */
export function tryLock(fd: number, path: string): boolean {
  const errno = libc().flock(fd, LOCK_EX | LOCK_NB);
  if (errno === 0) return true;
  if (errno === constants.errno.EWOULDBLOCK) return false;
  throw systemFailure(errno, "lock file", { path });
}
