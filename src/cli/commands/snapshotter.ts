import { resolve } from "node:path";
import { DEFAULT_CONTAINERD } from "../../content/containerd/place.ts";
import { DEFAULT_SNAPSHOTTER_ADDRESS } from "../../operation/host/containerd-settings.ts";
import { DaemonMounts } from "../../service/snapshotter/daemon-mounts.ts";
import { runSnapshotter } from "../../service/snapshotter/run-snapshotter.ts";
import { nydusCommand } from "../command.ts";
import { daemonCommand, threadCount } from "../daemon-access.ts";
import { versionLine } from "../version.ts";

const CONTAINERD_VARIABLE = "CONTAINERD_ADDRESS";

/** `nydus snapshotter` */
export const snapshotterCommand = nydusCommand({
  description: `Serve containerd's snapshots: Nydus images lazily, all others as overlayfs does

containerd asks on a socket for what it is to mount ('nydus install containerd' tells it so). A Nydus image is mounted by
the daemon of the state directory, which is started when it is needed; its data comes from containerd's content store
where it is there, else from the image's registry. Stopping this process, by SIGTERM or worse, leaves mounts and
containers alone; the next one takes them up. Its log is logs/snapshotter.log in the state directory, and stderr.`,
  args: {
    address: {
      type: "string",
      alias: "a",
      valueHint: "PATH",
      default: DEFAULT_SNAPSHOTTER_ADDRESS,
      description: "Socket to serve",
    },
    "containerd-address": {
      type: "string",
      valueHint: "PATH",
      description: `containerd's socket (default ${CONTAINERD_VARIABLE}, or ${DEFAULT_CONTAINERD.address})`,
    },
    threads: {
      type: "string",
      valueHint: "N",
      default: "2",
      description: "Threads that answer the kernel, if this starts the daemon",
    },
  },
  async run(args, context) {
    const { root } = context;
    const containerd = args["containerd-address"] ?? (process.env[CONTAINERD_VARIABLE] || DEFAULT_CONTAINERD.address);
    const command = daemonCommand(context, threadCount(args.threads));
    context.releaseSignals();
    await runSnapshotter({
      root,
      address: resolve(args.address),
      version: versionLine(),
      makeMounts: (log) => new DaemonMounts({ root, containerdAddress: resolve(containerd), command, log }),
      print: (line) => process.stderr.write(`${line}\n`),
    });
    return 0;
  },
});
