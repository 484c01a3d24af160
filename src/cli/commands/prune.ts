import { pruneStore } from "../../operation/image/remove.ts";
import { nydusCommand } from "../command.ts";
import { confirm } from "../confirm.ts";
import { printRemoved } from "../removed.ts";

/** `nydus prune` */
export const pruneCommand = nydusCommand({
  description: `Remove what no image of the store needs

Removes blobs that no image refers to, parts of blobs that broken transfers left, and bootstraps and cached data of
images that are not in the store; with --all the images that are not mounted, too. What a mount or another process
uses stays, also what is being pulled. Asks before it removes images, where it can.`,
  args: {
    all: { type: "boolean", alias: "a", description: "Also all images that are not mounted" },
    force: { type: "boolean", alias: "f", description: "Do not ask" },
  },
  async run(args, context) {
    const all = args.all === true;
    const question = "This removes all images that are not mounted. Go on?";
    if (all && args.force !== true && !(await confirm(question, context.signal))) return 0;
    await printRemoved([await pruneStore(context.root, all)], { ...context, total: true });
    return 0;
  },
});
