import { umountMount } from "../../operation/mount/umount.ts";
import { nydusCommand } from "../command.ts";

/** `nydus umount` */
export const umountCommand = nydusCommand({
  description: `Unmount what mount has mounted

Returns when the process that served the mount has ended. Needs root, as mounting does.`,
  args: {
    mountpoint: { type: "positional", required: true, description: "Directory that an image is mounted on" },
    lazy: { type: "boolean", alias: "l", description: "Also while files are open: they stay readable until closed" },
  },
  async run(args, context) {
    await umountMount({ root: context.root, mountpoint: args.mountpoint, lazy: args.lazy === true });
    return 0;
  },
});
