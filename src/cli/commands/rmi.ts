import { asNydusError, formatError, type NydusError } from "../../base/errors.ts";
import { type RemovedImages, removeImage } from "../../operation/image/remove.ts";
import { nydusCommand } from "../command.ts";
import { printStderr } from "../output.ts";
import { printRemoved } from "../removed.ts";

/** `nydus rmi` */
export const rmiCommand = nydusCommand({
  description: `Remove images from the store

Removes the name, and the blobs, the bootstrap and the cached data that no other image needs. An image that is mounted
stays, unless --force: then its name goes now, and what the mount uses with the first 'nydus prune' after it.`,
  args: {
    image: {
      type: "positional",
      required: true,
      valueHint: "IMAGE...",
      description: "Names, or first digits of digests",
    },
    force: { type: "boolean", alias: "f", description: "Also while the image is mounted" },
  },
  async run(args, context) {
    const removed: RemovedImages[] = [];
    const failures: NydusError[] = [];
    for (const image of args._) {
      context.signal.throwIfAborted();
      try {
        removed.push(await removeImage(context.root, image, args.force === true));
      } catch (error) {
        failures.push(asNydusError(error));
      }
    }
    await printRemoved(removed, { ...context, total: false });
    const [first, ...others] = failures;
    for (const failure of others) printStderr(`nydus: ${formatError(failure)}\n`);
    if (first !== undefined) throw first;
    return 0;
  },
});
