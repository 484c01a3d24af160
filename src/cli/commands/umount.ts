import { findRecord } from "../../operation/mount/mount-record.ts";
import { umountMount } from "../../operation/mount/umount.ts";
import { resolveMountpoint } from "../../os/mount.ts";
import { DaemonAbsent } from "../../service/daemon/client.ts";
import { type CliContext, nydusCommand } from "../command.ts";
import { daemonClient } from "../daemon-access.ts";

/** `nydus umount` */
export const umountCommand = nydusCommand({
  description: `Unmount what mount has mounted

Returns when the mount's server has let go of it. Needs root, or to be who has mounted it.`,
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
  try {
    const record = findRecord(root, mountpoint);
    if (record !== undefined && (await client.status()).pid === record.pid)
      return await client.umount(mountpoint, lazy);
  } catch (error) {
    if (!(error instanceof DaemonAbsent)) throw error;
  }
  await umountMount({ root, mountpoint, lazy });
}
