import { inPlace, NydusError } from "../../base/errors.ts";
import { readFile } from "../../operation/image/read-file.ts";
import { resolvePath } from "../../operation/image/walk.ts";
import { nydusCommand } from "../command.ts";
import { CONTAINERD_ARGS } from "../containerd-args.ts";
import { bothUsages, chooseImage, IMAGE_ARGS, withImage } from "../image-args.ts";
import { printBytes } from "../output.ts";

/** `nydus cat` */
export const catCommand = nydusCommand({
  description: `Print a file of an image

Symlinks are followed inside the image. Every chunk is verified before it is printed.`,
  usage: bothUsages("PATH"),
  args: {
    image: { type: "positional", required: false, description: "Nydus image" },
    path: { type: "positional", required: false, description: "File in it" },
    ...IMAGE_ARGS,
    ...CONTAINERD_ARGS,
  },
  async run(args, context) {
    const { image: choice, rest } = chooseImage(args, [args.image, args.path]);
    const [path] = rest;
    if (path === undefined) throw new NydusError("EINVAL", "Missing argument PATH; see 'nydus cat --help'");
    return withImage(choice, args, context, async ({ image, pool }) => {
      const { nid } = resolvePath(image.rafs.erofs, new TextEncoder().encode(path), { followLast: true });
      const { type } = image.rafs.erofs.inode(nid);
      if (type !== "file") throw new NydusError("EINVAL", `Cannot print: it is a ${type}, a file is wanted`, { path });
      await inPlace({ path }, async () => {
        for await (const bytes of readFile(image, nid, { pool, signal: context.signal })) await printBytes(bytes);
      });
      return 0;
    });
  },
});
