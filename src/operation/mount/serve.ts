import { rmSync, statSync } from "node:fs";
import { asNydusError, type NydusError } from "../../base/errors.ts";
import { checkMountpoint, MNT_DETACH, resolveMountpoint, unmount } from "../../os/mount.ts";
import { type SignalWatch, watchSignals } from "../../os/signals.ts";
import type { MountDevice, MountOptions, MountSession } from "./engine.ts";
import { DEFAULT_ENGINE, ENGINES, type EngineName } from "./engines.ts";
import {
  claimMount,
  findRecord,
  isOurMount,
  logPath,
  type MountRecord,
  markReady,
  removeRecord,
} from "./mount-record.ts";
import { readinessReporter } from "./readiness.ts";

/** An image opened for mounting; disposing closes its devices. */
export interface MountSource extends AsyncDisposable {
  readonly bootstrapPath: string;
  /** `devices[slot - 1]`. */
  readonly devices: readonly MountDevice[];
}

/** What {@link serveMount} needs. */
export interface ServeOptions extends Pick<MountOptions, "threads" | "readTimeoutMs" | "suid" | "dev" | "onError"> {
  /** Directory of all state. */
  readonly root: string;
  readonly mountpoint: string;
  /** What the user called the image, for `nydus mounts`. */
  readonly image: string;
  readonly engine?: EngineName | undefined;
  /** Opens the image; called once the mount point is ours. */
  readonly open: () => Promise<MountSource>;
  /** How long readers may hold the mount open after a signal; 5 s unless given. */
  readonly signalGraceMs?: number | undefined;
  /** Called when the mount answers. */
  readonly onReady?: ((record: MountRecord) => void) | undefined;
}

/** How long readers may hold a mount open after a signal before it is taken from them. */
const SIGNAL_GRACE_MS = 5_000;

/** So many messages each so long reach the log; a broken disk must not fill another. */
const REPORT_LIMIT = 50;
const REPORT_WINDOW_MS = 60_000;

/**
 * Mounts an image and serves it in this process until it is unmounted or a signal ends it: SIGTERM, SIGINT and SIGHUP
 * unmount, giving those who have files open 5 s; a second one takes it from them at once. Tells
 * the process that started this one in the background how the start went. Leaves no mount and no record behind.
 * @throws EBUSY, ENOENT, EINVAL mount point; EPERM; what `open` throws; EFAULT when serving broke down
 */
export async function serveMount(options: ServeOptions): Promise<void> {
  const readiness = readinessReporter();
  try {
    await serve(options, readiness.ready);
  } catch (error) {
    readiness.failed(error);
    throw error;
  }
}

async function serve(options: ServeOptions, ready: (record: MountRecord) => void): Promise<void> {
  const { root, image, engine = DEFAULT_ENGINE } = options;
  using signals = watchSignals();
  removeDeadMount(root, options.mountpoint);
  const mountpoint = checkMountpoint(options.mountpoint);
  const record = claimMount(root, { mountpoint, image, engine });
  try {
    await using source = await options.open();
    signals.first.throwIfAborted();
    const { bootstrapPath, devices } = source;
    const onError = limitReports(options.onError);
    using _exit = atExit(() => leaveNothing(root, record));
    await using session = await ENGINES[engine].mount({ ...options, mountpoint, bootstrapPath, devices, onError });
    const answering = markReady(root, record);
    options.onReady?.(answering);
    ready(answering);
    await untilEnd(session, signals, options.signalGraceMs ?? SIGNAL_GRACE_MS);
  } finally {
    removeRecord(root, record);
    removeEmptyLog(logPath(root, record.id));
  }
}

/** A mount whose process was killed is in the way of its successor, and of no use to anyone. */
function removeDeadMount(root: string, path: string): void {
  const mountpoint = resolveMountpoint(path);
  const record = findRecord(root, mountpoint);
  if (record?.state !== "dead") return;
  unmount(mountpoint, MNT_DETACH);
  removeRecord(root, record);
}

/** Waits for the end of the mount, which a first signal asks for and a second, or the end of grace, forces. */
async function untilEnd(session: MountSession, signals: SignalWatch, graceMs: number): Promise<void> {
  let grace: ReturnType<typeof setTimeout> | undefined;
  const forced = new Promise<void>((resolve) => {
    whenAborted(signals.second, resolve);
    whenAborted(signals.first, () => {
      grace = setTimeout(resolve, graceMs);
      session.unmount().catch(() => resolve());
    });
  });
  try {
    await Promise.race([session.done, forced]);
  } finally {
    clearTimeout(grace);
  }
}

function whenAborted(signal: AbortSignal, then: () => void): void {
  if (signal.aborted) then();
  else signal.addEventListener("abort", then, { once: true });
}

/** Runs something should the program exit in another way than by the end of serving. */
function atExit(run: () => void): Disposable {
  process.on("exit", run);
  return { [Symbol.dispose]: () => void process.off("exit", run) };
}

/** A mount without a server would fail everyone who comes near it. */
function leaveNothing(root: string, record: MountRecord): void {
  if (isOurMount(record.mountpoint)) unmount(record.mountpoint, MNT_DETACH);
  removeRecord(root, record);
}

function removeEmptyLog(path: string): void {
  try {
    if (statSync(path).size === 0) rmSync(path);
  } catch {
    // none was made
  }
}

/** Passes on so many errors in each span of time and drops the rest. */
function limitReports(report: ((error: NydusError) => void) | undefined): ((error: NydusError) => void) | undefined {
  if (report === undefined) return undefined;
  let windowStart = 0;
  let count = 0;
  return (error) => {
    const now = performance.now();
    if (count === 0 || now - windowStart > REPORT_WINDOW_MS) {
      windowStart = now;
      count = 0;
    }
    count++;
    if (count <= REPORT_LIMIT) report(asNydusError(error));
  };
}
