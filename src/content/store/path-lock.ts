import { setTimeout as sleep } from "node:timers/promises";
import { NydusError } from "../../base/errors.ts";
import { canLock, tryLock } from "../../os/file-lock.ts";
import { closeFile, openFile } from "./file-io.ts";

/** How long a process waits for another one that holds a lock meant for short changes. */
const LOCK_WAIT_MS = 10_000;
const LOCK_STEP_MS = 20;

/**
 * Keeps other processes of this machine from what a directory (or file) stands for, by flock(2); nothing where the
 * runtime cannot lock. Disposing ends it, and so does the end of the process.
 * @param action what the lock is needed for: "Cannot <action>: another process …"
 * @throws EBUSY after `waitMs`, 10 s unless given; ENOENT
 */
export async function lockPath(path: string, action: string, waitMs = LOCK_WAIT_MS): Promise<AsyncDisposable> {
  if (!canLock()) return { [Symbol.asyncDispose]: async () => undefined };
  const fd = await openFile(path, "r");
  try {
    for (let waited = 0; !tryLock(fd, path); waited += LOCK_STEP_MS) {
      if (waited >= waitMs) {
        throw new NydusError("EBUSY", `Cannot ${action}: another process has been changing it for ${waited} ms`, {
          path,
        });
      }
      await sleep(LOCK_STEP_MS);
    }
  } catch (error) {
    await closeFile(fd);
    throw error;
  }
  return { [Symbol.asyncDispose]: () => closeFile(fd) };
}
