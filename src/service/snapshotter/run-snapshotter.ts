import { chmodSync, closeSync, mkdirSync, openSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { asNydusError, formatError, NydusError } from "../../base/errors.ts";
import { canLock, tryLock } from "../../os/file-lock.ts";
import { serveGrpc } from "../../os/grpc.ts";
import { overlayOptions } from "../../os/overlay-options.ts";
import { type ServiceManager, serviceManager } from "../../os/service-manager.ts";
import { type SignalWatch, watchSignals } from "../../os/signals.ts";
import { DaemonLog } from "../daemon/daemon-log.ts";
import { snapshotsService } from "./grpc-edge.ts";
import type { ImageMounts } from "./image-mounts.ts";
import { Snapshotter } from "./snapshotter.ts";

/** What {@link runSnapshotter} needs. */
export interface SnapshotterRun {
  /** Directory of all state. */
  readonly root: string;
  /** Path of the socket on which containerd asks. */
  readonly address: string;
  /** Of this program. */
  readonly version: string;
  /** Makes what mounts Nydus images. */
  readonly makeMounts: (log: (message: string) => void) => ImageMounts;
  /** Hears each line of the log. */
  readonly print: (line: string) => void;
}

/** What is made here is for the owner of the state directory; what containers are to see gets its mode by itself. */
const UMASK = 0o077;
const SOCKET_MODE = 0o600;
/** How long a predecessor may take to end, and how often to look. */
const WAIT_MS = 10_000;
const POLL_MS = 50;
/** A socket whose server says nothing for so long has none. */
const CONNECT_MS = 1_000;

/**
 * Is the snapshotter of a state directory until a signal comes. What is mounted stays mounted.
 * @throws EBUSY another process serves the directory or the socket; EINVAL, EPERM, ENOSPC, EIO
 */
export async function runSnapshotter(run: SnapshotterRun): Promise<void> {
  process.umask(UMASK);
  const manager = serviceManager();
  using signals = watchSignals();
  using _lock = await lockSnapshotter(run.root, signals.first);
  await requireFree(run.address);
  using file = new DaemonLog(join(run.root, "logs", "snapshotter.log"));
  const log = (message: string): void => {
    file.write(message);
    run.print(message);
  };
  try {
    await serve({ ...run, log, manager, signals });
  } catch (error) {
    log(`the snapshotter ends: ${formatError(asNydusError(error))}`);
    throw error;
  }
}

/** A run that has begun. */
interface Begun extends SnapshotterRun {
  readonly log: (message: string) => void;
  readonly manager: ServiceManager;
  readonly signals: SignalWatch;
}

async function serve({ root, address, version, log, manager, signals, makeMounts }: Begun): Promise<void> {
  const mounts = makeMounts(log);
  await using snapshotter = new Snapshotter({ root, mounts, overlayOptions: overlayOptions(), log });
  const server = await serveGrpc(address, [snapshotsService(snapshotter)]);
  try {
    chmodSync(address, SOCKET_MODE);
    snapshotter.start();
    log(`${version} serves ${root} on ${address}, process ${process.pid}`);
    manager.tell("READY=1");
    await new Promise((resolve) => signals.first.addEventListener("abort", resolve, { once: true }));
    manager.tell("STOPPING=1");
  } finally {
    await server.close();
  }
  log(`process ${process.pid} ends; mounts stay`);
}

/** Becomes the one snapshotter of a state directory. @returns the lock; it also ends with the process */
async function lockSnapshotter(root: string, signal: AbortSignal): Promise<Disposable> {
  const dir = join(root, "snapshotter");
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  const path = join(dir, "lock");
  const fd = openSync(path, "a", 0o600);
  try {
    // Where there are no locks, the one on the database keeps a second process out.
    for (let waited = 0; canLock() && !tryLock(fd, path); waited += POLL_MS) {
      if (waited >= WAIT_MS) {
        throw new NydusError("EBUSY", "Cannot start snapshotter: another one serves this directory", { path: root });
      }
      await sleep(POLL_MS, undefined, { signal });
    }
    return { [Symbol.dispose]: () => closeSync(fd) };
  } catch (error) {
    closeSync(fd);
    throw asNydusError(error);
  }
}

/** @throws EBUSY somebody listens on the socket */
async function requireFree(address: string): Promise<void> {
  const isTaken = await new Promise<boolean>((resolve) => {
    const socket = connect(address);
    const settle = (isThere: boolean): void => {
      socket.destroy();
      resolve(isThere);
    };
    socket.setTimeout(CONNECT_MS, () => settle(false));
    socket.on("connect", () => settle(true)).on("error", () => settle(false));
  });
  if (isTaken) throw new NydusError("EBUSY", "Cannot listen: another process does", { path: address });
}
