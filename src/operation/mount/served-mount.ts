import { asNydusError, type NydusError } from "../../base/errors.ts";
import type { FetchStats } from "../../content/cache/fetch-meter.ts";
import { Closers } from "../../content/store/closers.ts";
import type { MappedFile } from "../../os/mmap.ts";
import { checkMountpoint, MNT_DETACH, resolveMountpoint, unmount } from "../../os/mount.ts";
import type { MountDevice, MountHost, MountOptions, MountSession } from "./engine.ts";
import type { EngineName } from "./engines.ts";
import { DEFAULT_MOUNT_FLAGS } from "./mount-flags.ts";
import { claimMount, findRecord, isOurMount, type MountRecord, markReady, removeRecord } from "./mount-record.ts";

/** An image opened for mounting; disposing closes its devices. */
export interface MountSource extends AsyncDisposable {
  readonly bootstrap: MappedFile;
  /** `devices[slot - 1]`. */
  readonly devices: readonly MountDevice[];
  /** Hex digits of the blobs behind the devices. */
  readonly blobs?: readonly string[];
  /** What has been fetched because of this mount. */
  readonly fetched?: () => FetchStats;
}

/** What {@link startServing} needs. */
export interface ServingOptions extends Pick<MountOptions, "readTimeoutMs" | "flags" | "onError"> {
  /** Directory of all state. */
  readonly root: string;
  readonly mountpoint: string;
  /** What the user called the image, for `nydus mounts`. */
  readonly image: string;
  readonly engine: EngineName;
  /** Of that engine. */
  readonly host: MountHost;
  /** Opens the image; called once the mount point is ours. */
  readonly open: () => Promise<MountSource>;
  /** Ends the start, if it is aborted before the mount is made. */
  readonly signal: AbortSignal;
}

/** A mount that answers. */
export interface ServedMount {
  readonly record: MountRecord;
  readonly session: MountSession;
  /** What has been fetched because of it. */
  readonly fetched?: (() => FetchStats) | undefined;
  /** Resolves when the mount has ended and image and record are gone too; rejects when serving broke down. */
  readonly ended: Promise<void>;
}

/** So many messages each so long reach the log; a broken disk must not fill another. */
const REPORT_LIMIT = 50;
const REPORT_WINDOW_MS = 60_000;

/**
 * Mounts an image in this process, with a record of it. A start that fails leaves neither mount nor record.
 * @returns when the mount answers
 * @throws EBUSY, ENOENT, EINVAL mount point; EPERM; the signal's reason; what `open` throws
 */
export async function startServing(options: ServingOptions): Promise<ServedMount> {
  const { root, image, engine, signal, flags = DEFAULT_MOUNT_FLAGS } = options;
  removeDeadMount(root, options.mountpoint);
  const mountpoint = checkMountpoint(options.mountpoint);
  const record = claimMount(root, { mountpoint, image, engine, type: `fuse.${flags.subtype}` });
  await using stack = new Closers();
  stack.defer(() => removeRecord(root, record));
  const { bootstrap, devices, blobs, fetched } = stack.use(await options.open());
  signal.throwIfAborted();
  const onError = limitReports(options.onError);
  const session = await options.host.mount({ ...options, mountpoint, bootstrap, devices, onError });
  const ready = markReady(root, { ...record, ...session.kind }, blobs);
  const owned = stack.move();
  const ended = session.done.finally(() => owned[Symbol.asyncDispose]());
  ended.catch(() => undefined); // who does not look at it is not to crash
  return { record: ready, session, fetched, ended };
}

/** A mount whose process was killed is in the way of its successor, and of no use to anyone. */
function removeDeadMount(root: string, path: string): void {
  const mountpoint = resolveMountpoint(path);
  const record = findRecord(root, mountpoint);
  if (record?.state !== "dead") return;
  unmount(mountpoint, MNT_DETACH);
  removeRecord(root, record);
}

/** Takes the mount of a record away should the program exit with it: without a server it would fail everyone. */
export function leaveNothing(root: string, record: MountRecord): void {
  if (isOurMount(record)) unmount(record.mountpoint, MNT_DETACH);
  removeRecord(root, record);
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
