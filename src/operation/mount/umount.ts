import { setTimeout as sleep } from "node:timers/promises";
import { NydusError } from "../../base/errors.ts";
import { MNT_DETACH, resolveMountpoint, unmount } from "../../os/mount.ts";
import { findRecord, isLost, isOurMount, type MountRecord, removeRecord } from "./mount-record.ts";

/** What {@link umountMount} needs. */
export interface UmountOptions {
  /** Directory of all state. */
  readonly root: string;
  readonly mountpoint: string;
  /** Also while files are open: they stay readable, and the server ends with the last of them. */
  readonly lazy?: boolean | undefined;
}

/** How long the server may take to let go once nothing is mounted, and how often to look. */
const END_TIMEOUT_MS = 15_000;
const END_POLL_MS = 20;

/**
 * Unmounts an image and waits until its server has released it; with `lazy`, it does not wait. A mount whose
 * process was killed is taken away too.
 * @throws ENOENT nothing of ours is mounted there; EBUSY files are open; EPERM without root
 */
export async function umountMount(options: UmountOptions): Promise<void> {
  const mountpoint = resolveMountpoint(options.mountpoint);
  const record = findRecord(options.root, mountpoint);
  const dead = isLost(record?.state);
  if (!isOurMount(record ?? { mountpoint })) {
    throw new NydusError("ENOENT", "Cannot unmount: no image is mounted there", { path: mountpoint });
  }
  if (unmount(mountpoint, options.lazy === true || dead ? MNT_DETACH : 0) === "busy") {
    throw new NydusError("EBUSY", "Cannot unmount: files are open there", { path: mountpoint });
  }
  if (record === undefined) return;
  if (dead) removeRecord(options.root, record);
  else if (options.lazy !== true) await untilReleased(options.root, record);
}

/** Its record goes last; one of the same process with another start is a later mount's. */
async function untilReleased(root: string, record: MountRecord): Promise<void> {
  for (let waited = 0; ; waited += END_POLL_MS) {
    const left = findRecord(root, record.mountpoint);
    if (left === undefined || left.pid !== record.pid || left.startedAt !== record.startedAt) return;
    if (waited >= END_TIMEOUT_MS) {
      const message = `Unmounted, but process ${record.pid} goes on: the mount is in use in another mount namespace`;
      throw new NydusError("EBUSY", message, { path: record.mountpoint });
    }
    await sleep(END_POLL_MS);
  }
}
