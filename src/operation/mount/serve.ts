import type { NydusError } from "../../base/errors.ts";
import { watchSignals } from "../../os/signals.ts";
import type { HostOptions, MountOptions } from "./engine.ts";
import { DEFAULT_ENGINE, ENGINES, type EngineName } from "./engines.ts";
import type { MountRecord } from "./mount-record.ts";
import { leaveNothing, type MountSource, type ServedMount, startServing } from "./served-mount.ts";

/** What {@link serveMount} needs. */
export interface ServeOptions extends HostOptions, Pick<MountOptions, "readTimeoutMs" | "flags"> {
  /** Directory of all state. */
  readonly root: string;
  readonly mountpoint: string;
  /** What the user called the image, for `nydus mounts`. */
  readonly image: string;
  readonly engine?: EngineName | undefined;
  /** As of `startServing`. */
  readonly trace?: string | undefined;
  /** Opens the image; called once the mount point is ours. */
  readonly open: () => Promise<MountSource>;
  /** How long readers may hold the mount open after a signal; 5 s unless given. */
  readonly signalGraceMs?: number | undefined;
  /** Called when the mount answers. */
  readonly onReady?: ((record: MountRecord) => void) | undefined;
  readonly onError?: ((error: NydusError) => void) | undefined;
}

/** How long readers may hold a mount open after a signal before it is taken from them. */
export const SIGNAL_GRACE_MS = 5_000;

/**
 * Mounts an image and serves it in this process until it is unmounted or a signal ends it: SIGTERM, SIGINT and SIGHUP
 * unmount, giving those who have files open 5 s; a second one takes it from them at once. Leaves no mount and no
 * record behind.
 * @throws EBUSY, ENOENT, EINVAL mount point; EPERM; what `open` throws; EFAULT when serving broke down
 */
export async function serveMount(options: ServeOptions): Promise<void> {
  const { root, engine = DEFAULT_ENGINE, signalGraceMs = SIGNAL_GRACE_MS } = options;
  using signals = watchSignals();
  await using host = ENGINES[engine].open(options);
  const mount = await startServing({ ...options, engine, host, signal: signals.first });
  using _exit = atExit(() => leaveNothing(root, mount.record));
  try {
    options.onReady?.(mount.record);
    await endAtSignals([mount], signals, signalGraceMs);
  } finally {
    await mount.session[Symbol.asyncDispose]();
  }
  await mount.ended;
}

/** Signals that ask for an end, and that force it. */
export interface EndSignals {
  readonly first: AbortSignal;
  readonly second: AbortSignal;
}

/**
 * Waits for the end of mounts, which a first signal asks for and a second, or the end of grace, forces.
 * @returns when all have ended or are to be forced; how they ended is in their `ended`
 */
export async function endAtSignals(
  mounts: readonly ServedMount[],
  signals: EndSignals,
  graceMs: number,
): Promise<void> {
  let grace: ReturnType<typeof setTimeout> | undefined;
  const forced = new Promise<void>((resolve) => {
    whenAborted(signals.second, resolve);
    whenAborted(signals.first, () => {
      grace = setTimeout(resolve, graceMs);
      for (const { session } of mounts) session.unmount().catch(() => resolve());
    });
  });
  try {
    await Promise.race([Promise.allSettled(mounts.map(({ ended }) => ended)), forced]);
  } finally {
    clearTimeout(grace);
  }
}

function whenAborted(signal: AbortSignal, then: () => void): void {
  if (signal.aborted) then();
  else signal.addEventListener("abort", then, { once: true });
}

/** Runs something should the program exit in another way than by the end of serving. */
export function atExit(run: () => void): Disposable {
  process.on("exit", run);
  return { [Symbol.dispose]: () => void process.off("exit", run) };
}
