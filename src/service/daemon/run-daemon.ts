import { rmSync } from "node:fs";
import type { Server } from "node:http";
import { formatError, NydusError } from "../../base/errors.ts";
import { type HandedEntry, HolderClient } from "../../operation/mount/holder/client.ts";
import { plainEntry } from "../../operation/mount/holder/protocol.ts";
import { readinessReporter } from "../../operation/mount/readiness.ts";
import { atExit, type EndSignals, SIGNAL_GRACE_MS } from "../../operation/mount/serve.ts";
import { type SignalWatch, watchSignals } from "../../os/signals.ts";
import { DaemonClient } from "./client.ts";
import { Daemon } from "./daemon.ts";
import { type DaemonLock, lockDaemon, lockOf } from "./daemon-lock.ts";
import { DaemonLog } from "./daemon-log.ts";
import { daemonPaths } from "./paths.ts";
import { listenOn, type ServerControl } from "./server.ts";

/** What {@link runDaemon} needs. */
export interface RunOptions {
  /** Directory of all state. */
  readonly root: string;
  /** Of this program. */
  readonly version: string;
  readonly threads?: number | undefined;
  /** Starts a successor, should it die while it serves mounts. */
  readonly command?: readonly string[] | undefined;
  /** It ends when nothing has been mounted for so long. */
  readonly idleMs: number;
}

/** Nobody but the owner of the state directory may touch its files, or ask its daemon. */
const UMASK = 0o077;

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
  const predecessor = await takeOver(options);
  const holder = predecessor?.client ?? new HolderClient(options);
  using lock = predecessor?.lock ?? (await lockDaemon(root, () => new DaemonClient(root).isServing()));
  using log = new DaemonLog(paths.log);
  const daemon = new Daemon({ ...options, log, holder });
  holder.onReplaced((identity) => daemon.heldBy(identity));
  holder.onFailure((error) => log.write(`there is no failover from now on: ${formatError(error)}`));
  holder.holdAlong(plainEntry(LOCK_KEY), lock.fd);
  // Who ends by a failure leaves its mounts to a successor.
  using _exit = atExit(() => holder.hasSuccessor || daemon.leaveNothing());
  const stop = new StopSignals(signals);
  // All or nothing, while the predecessor can still go on.
  if (predecessor?.isUpgrade === true) await daemon.resume(predecessor.entries, true);
  const upgrade: ServerControl["upgrade"] = (command) => daemon.handOver(command);
  const server = await listenOn(paths.socket, daemon, { stop: () => stop.stop(), upgrade });
  log.write(`${version} serves ${root}, process ${process.pid}; ends after ${idleMs} ms without a mount`);
  ready({ pid: process.pid });
  if (predecessor !== undefined) await finishTakeover(daemon, predecessor);
  await Promise.race([daemon.idle, stop.asked, daemon.handedOver]);
  // From here on who wants a mount is told so, and starts a successor, which waits for the lock.
  await daemon.end(stop, SIGNAL_GRACE_MS);
  if (!daemon.isHandedOver) {
    await holder.close();
    rmSync(paths.socket, { force: true });
  }
  await closeServer(server);
  log.write(`process ${process.pid} has ended`);
}

/** The lock is held too: while a successor is on its way, nobody else becomes the daemon. */
const LOCK_KEY = "lock:";

interface Predecessor {
  readonly client: HolderClient;
  readonly entries: readonly HandedEntry[];
  readonly isUpgrade: boolean;
  readonly lock: DaemonLock | undefined;
}

/** What the daemon before this one has left, if this one was started by its holder. */
async function takeOver(options: RunOptions): Promise<Predecessor | undefined> {
  const adopted = await HolderClient.adopt(options);
  const fd = adopted?.client.entry(LOCK_KEY)?.fd;
  return adopted && { ...adopted, lock: fd === undefined ? undefined : lockOf(fd) };
}

async function finishTakeover(daemon: Daemon, { client, entries, isUpgrade }: Predecessor): Promise<void> {
  if (!isUpgrade) await daemon.resume(entries, false);
  client.resumed();
  // The holder is of the version before.
  if (isUpgrade) client.replace();
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
