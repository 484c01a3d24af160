import { chmodSync, rmSync } from "node:fs";
import type { Server } from "node:http";
import { NydusError } from "../../base/errors.ts";
import { readinessReporter } from "../../operation/mount/readiness.ts";
import { atExit, type EndSignals, SIGNAL_GRACE_MS } from "../../operation/mount/serve.ts";
import { type SignalWatch, watchSignals } from "../../os/signals.ts";
import { DaemonClient } from "./client.ts";
import { Daemon } from "./daemon.ts";
import { lockDaemon } from "./daemon-lock.ts";
import { DaemonLog } from "./daemon-log.ts";
import { daemonPaths } from "./paths.ts";
import { listenOn } from "./server.ts";

/** What {@link runDaemon} needs. */
export interface RunOptions {
  /** Directory of all state. */
  readonly root: string;
  /** Of this program. */
  readonly version: string;
  readonly threads?: number | undefined;
  /** It ends when nothing has been mounted for so long. */
  readonly idleMs: number;
}

/** Nobody but the owner of the state directory may touch its files, or ask its daemon. */
const UMASK = 0o077;
const SOCKET_MODE = 0o600;

/**
 * Is the daemon of a state directory until it is idle, told to stop or gets a signal; then unmounts everything, as
 * `serveMount` does. Tells the process that started this one how the start went.
 * @throws EBUSY another daemon serves the directory; EPERM, EIO
 */
export async function runDaemon(options: RunOptions): Promise<void> {
  const readiness = readinessReporter();
  try {
    await run(options, readiness.ready);
  } catch (error) {
    readiness.failed(error);
    throw error;
  }
}

async function run(options: RunOptions, ready: (value: unknown) => void): Promise<void> {
  const { root, version, idleMs } = options;
  const paths = daemonPaths(root);
  process.umask(UMASK);
  using signals = watchSignals();
  const client = new DaemonClient(root);
  using _lock = await lockDaemon(root, () => client.isServing());
  using log = new DaemonLog(paths.log);
  const daemon = new Daemon({ ...options, log });
  using _exit = atExit(() => daemon.leaveNothing());
  const stop = new StopSignals(signals);
  const server = await listenOn(paths.socket, daemon, { stop: () => stop.stop() });
  chmodSync(paths.socket, SOCKET_MODE);
  log.write(`${version} serves ${root}, process ${process.pid}; ends after ${idleMs} ms without a mount`);
  ready({ pid: process.pid });
  await Promise.race([daemon.idle, stop.asked]);
  // From here on who wants a mount is told so, and starts a successor, which waits for the lock.
  await daemon.end(stop, SIGNAL_GRACE_MS);
  await closeServer(server);
  rmSync(paths.socket, { force: true });
  log.write(`process ${process.pid} has ended`);
}

/** Signals of the process and requests to stop, as one. */
class StopSignals implements EndSignals {
  readonly first: AbortSignal;
  readonly second: AbortSignal;
  readonly asked: Promise<void>;
  readonly #requests = [new AbortController(), new AbortController()] as const;

  constructor(signals: SignalWatch) {
    const [first, second] = this.#requests;
    this.first = AbortSignal.any([signals.first, first.signal]);
    this.second = AbortSignal.any([signals.second, second.signal]);
    this.asked = new Promise((resolve) => {
      this.first.addEventListener("abort", () => resolve(), { once: true });
    });
  }

  stop(): void {
    const [first, second] = this.#requests;
    const reason = new NydusError("ECANCELED", "Told to stop");
    (this.first.aborted ? second : first).abort(reason);
  }
}

/** Lets answers under way go out. */
function closeServer(server: Server): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve());
    server.closeIdleConnections?.();
  });
}
