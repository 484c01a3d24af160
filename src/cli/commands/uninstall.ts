import { planUninstall } from "../../operation/host/uninstall.ts";
import { nydusCommand } from "../command.ts";
import { HOST_ARGS, hostPlaces } from "../host-args.ts";
import { carryOut } from "../host-changes.ts";

/** `nydus uninstall` */
export const uninstallCommand = nydusCommand({
  description: `Take back what 'nydus install' has set up

What was added to containerd's configuration is taken out of it, and the systemd unit removed; what else was changed
since stays. The old configuration is kept beside it. Images, snapshots and caches stay too: remove containers and
images of this snapshotter before. Runs nothing: what is to be restarted is printed.

e.g., 'nydus uninstall containerd --dry-run'`,
  args: {
    ...HOST_ARGS,
    force: { type: "boolean", alias: "f", description: "Also while containers use the snapshotter" },
  },
  async run(args, context) {
    const { configPath, unitDir } = hostPlaces(args);
    const searchPath = process.env["PATH"];
    const force = args.force === true || args["dry-run"] === true;
    const plan = await planUninstall({ configPath, unitDir, searchPath, root: context.root, force });
    const stop = "systemctl stop nydus-snapshotter && systemctl daemon-reload && systemctl restart containerd";
    const next = unitDir === undefined ? "# restart containerd, and end the snapshotter" : stop;
    await carryOut(plan, { ...context, dryRun: args["dry-run"] === true, next });
    return 0;
  },
});
