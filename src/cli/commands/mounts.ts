import { withDeadline } from "../../base/async.ts";
import { type ListedMount, listMounts } from "../../operation/mount/mount-record.ts";
import type { MountInfo } from "../../service/daemon/api.ts";
import { type CliContext, nydusCommand } from "../command.ts";
import { daemonClient } from "../daemon-access.ts";
import { formatTable, printJson, printText } from "../output.ts";

/** How long the daemon may take to say what it has counted. */
const DAEMON_MS = 2_000;

/** Adds what the daemon has counted for its mounts; one that does not answer adds nothing. */
async function withCounts(
  mounts: readonly ListedMount[],
  context: CliContext,
): Promise<readonly (ListedMount & Partial<MountInfo>)[]> {
  const client = daemonClient(context);
  const ask = withDeadline(DAEMON_MS, "ask the daemon", (signal) => client.mounts(signal));
  const counted = await ask.catch(() => []);
  return mounts.map((mount) => {
    const found = counted.find(({ id, startedAt }) => id === mount.id && startedAt === mount.startedAt);
    return { ...mount, stats: found?.stats, fetched: found?.fetched };
  });
}

/** `nydus mounts` */
export const mountsCommand = nydusCommand({
  description: `List the mounts and the processes that serve them

STATE is "serving"; "starting" until the mount answers; "detached" once it is unmounted while files are still open;
"recovering" while another process is on its way for one that has died; "dead" where none will come, and "poisoned" where
that may have shown zeros to readers ('nydus umount' takes both away). --json adds what the daemon has counted.`,
  args: {},
  async run(_, context) {
    const mounts = listMounts(context.root);
    if (context.json) await printJson(await withCounts(mounts, context));
    else {
      const rows = mounts.map(({ mountpoint, image, engine, pid, state, ready, why = ready ? "asked for" : "" }) => {
        return [mountpoint, image, engine, `${pid}`, state, why];
      });
      await printText(formatTable(["MOUNTPOINT", "IMAGE", "ENGINE", ">PID", "STATE", "WHY THIS ENGINE"], rows));
    }
    return 0;
  },
});
