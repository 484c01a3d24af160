import { closeSync, mkdirSync, openSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { NydusError } from "../../base/errors.ts";
import { canLock, tryLock } from "../../os/file-lock.ts";
import { daemonPaths } from "./paths.ts";

/** How long a predecessor may take to end, and how often to look. */
const WAIT_MS = 20_000;
const POLL_MS = 50;

/** The lock of the daemon: all copies of its descriptor have it, those of other processes too. */
export interface DaemonLock extends Disposable {
  readonly fd: number;
}

/** A lock that another process has taken, and given. */
export function lockOf(fd: number): DaemonLock {
  return { fd, [Symbol.dispose]: () => closeSync(fd) };
}

/**
 * Becomes the one daemon of a state directory. A predecessor that is ending is waited for.
 * @param isServing whether a daemon answers: then there is one already
 * @returns the lock; it also ends with the process
 * @throws EBUSY another daemon
 */
export async function lockDaemon(root: string, isServing: () => Promise<boolean>): Promise<DaemonLock> {
  mkdirSync(root, { recursive: true, mode: 0o700 });
  const { lock } = daemonPaths(root);
  const fd = openSync(lock, "a", 0o600);
  try {
    for (let waited = 0; ; waited += POLL_MS) {
      // Where there are no locks, a daemon that answers is the only sign of one.
      const isOurs = !canLock() || tryLock(fd, lock);
      if (isOurs && (canLock() || !(await isServing()))) return lockOf(fd);
      if (waited >= WAIT_MS || (await isServing())) {
        throw new NydusError("EBUSY", "Cannot start daemon: another one serves this directory", { path: root });
      }
      await sleep(POLL_MS);
    }
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}
