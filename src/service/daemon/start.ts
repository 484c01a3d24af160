import { closeSync, mkdirSync, openSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { NydusError } from "../../base/errors.ts";
import { startInBackground } from "../../operation/mount/background.ts";
import { canLock, tryLock } from "../../os/file-lock.ts";
import { DaemonAbsent, type DaemonClient } from "./client.ts";
import { daemonPaths } from "./paths.ts";

/** How long another process may take to start the daemon, and how often to look. */
const WAIT_MS = 30_000;
const POLL_MS = 30;

/** How {@link withDaemon} starts a daemon. */
export interface DaemonStart {
  /** Directory of all state. */
  readonly root: string;
  readonly client: DaemonClient;
  /** Runs the daemon: this program and `daemon run …`. */
  readonly command: readonly string[];
  readonly signal: AbortSignal;
}

/**
 * Asks the daemon of a state directory, which is started if there is none; of several that find none, one starts it.
 * @param ask throws DaemonAbsent where none answers
 * @throws what `ask` throws; why the daemon could not start; EBUSY it does not come
 */
export async function withDaemon<T>(start: DaemonStart, ask: () => Promise<T>): Promise<T> {
  for (let waited = 0; waited < WAIT_MS; waited += POLL_MS) {
    try {
      return await ask();
    } catch (error) {
      if (!(error instanceof DaemonAbsent)) throw error;
    }
    start.signal.throwIfAborted();
    if (!(await startOnce(start))) await sleep(POLL_MS);
  }
  throw new NydusError("EBUSY", "Cannot start daemon: another process is starting it and does not end", {
    path: start.root,
  });
}

/** @returns false when another process is starting the daemon */
async function startOnce({ root, client, command }: DaemonStart): Promise<boolean> {
  mkdirSync(root, { recursive: true, mode: 0o700 });
  const { starting, log } = daemonPaths(root);
  const fd = openSync(starting, "a", 0o600);
  try {
    if (canLock() && !tryLock(fd, starting)) return false;
    if (await client.isServing()) return true;
    await startInBackground(command, log).catch(async (error) => {
      // While this one waited for the lock another has come: a successor of one that had died.
      if (!(await client.isServing())) throw error;
    });
    return true;
  } finally {
    closeSync(fd);
  }
}
