import { setTimeout as sleep } from "node:timers/promises";
import { findRecord, type MountRecord } from "../../operation/mount/mount-record.ts";
import { umountMount } from "../../operation/mount/umount.ts";
import { resolveMountpoint } from "../../os/mount.ts";
import { processStart } from "../../os/process.ts";
import { DaemonAbsent } from "../../service/daemon/client.ts";
import { type CliContext, nydusCommand } from "../command.ts";
import { daemonClient } from "../daemon-access.ts";

/** How long a server may take to exit once its mount is gone, and how often to look. */
const EXIT_TIMEOUT_MS = 5_000;
const EXIT_POLL_MS = 10;

/** `nydus umount` */
export const umountCommand = nydusCommand({
  description: `Unmount what mount has mounted

Returns when the mount's server has let go of it, and one of 'mount --foreground' has exited. Needs root, or to be who has mounted it.`,
  args: {
    mountpoint: { type: "positional", required: true, description: "Directory that an image is mounted on" },
    lazy: { type: "boolean", alias: "l", description: "Also while files are open: they stay readable until closed" },
  },
  async run(args, context) {
    await umount(args.mountpoint, args.lazy === true, context);
    return 0;
  },
});

/** By the daemon where it serves the mount: it may see other mounts than this process. */
async function umount(path: string, lazy: boolean, context: CliContext): Promise<void> {
  const { root } = context;
  const mountpoint = resolveMountpoint(path);
  const client = daemonClient(context);
  const record = findRecord(root, mountpoint);
  try {
    if (record !== undefined && (await client.status()).pid === record.pid)
      return await client.umount(mountpoint, lazy);
  } catch (error) {
    if (!(error instanceof DaemonAbsent)) throw error;
  }
  await umountMount({ root, mountpoint, lazy });
  if (record !== undefined && !lazy) await untilExited(record, context.signal);
}

/** A server in the foreground ends with its mount, but after its mount: who reads what it prints is to find it. */
async function untilExited({ pid, pidStart }: MountRecord, signal: AbortSignal): Promise<void> {
  for (let waited = 0; waited < EXIT_TIMEOUT_MS && processStart(pid) === pidStart; waited += EXIT_POLL_MS) {
    await sleep(EXIT_POLL_MS, undefined, { signal });
  }
}
