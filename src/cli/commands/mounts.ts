import { listMounts } from "../../operation/mount/mount-record.ts";
import { nydusCommand } from "../command.ts";
import { formatTable, printJson, printText } from "../output.ts";

/** `nydus mounts` */
export const mountsCommand = nydusCommand({
  description: `List the mounts and the processes that serve them

STATE is "serving"; "starting" until the mount answers; "detached" once it is unmounted while files are still open;
"dead" where the process was killed ('nydus umount' takes such a mount away).`,
  args: {},
  async run(_, context) {
    const mounts = listMounts(context.root);
    if (context.json) await printJson(mounts);
    else {
      const rows = mounts.map(({ mountpoint, image, engine, pid, state, ready, why = ready ? "asked for" : "" }) => {
        return [mountpoint, image, engine, `${pid}`, state, why];
      });
      await printText(formatTable(["MOUNTPOINT", "IMAGE", "ENGINE", ">PID", "STATE", "WHY THIS ENGINE"], rows));
    }
    return 0;
  },
});
