import { NydusError } from "../../base/errors.ts";
import { unpackToDirectory } from "../../operation/image/extract.ts";
import { unpackToTar } from "../../operation/image/unpack.ts";
import { nydusCommand } from "../command.ts";
import { CONTAINERD_ARGS } from "../containerd-args.ts";
import { bothUsages, chooseImage, IMAGE_ARGS, withImage } from "../image-args.ts";
import { printBytes, printStderr } from "../output.ts";

/** `nydus unpack` */
export const unpackCommand = nydusCommand({
  description: `Write an image's files to a directory, or as a tar to stdout

DIR must be new or empty, and appears whole or not at all. Owners, devices and some xattrs need root; a tar does not.
Every chunk is verified.

e.g., 'nydus unpack oci:./alpine:nydus ./rootfs'
      'nydus unpack oci:./alpine:nydus - | tar -t'`,
  usage: bothUsages("DIR|-"),
  args: {
    image: { type: "positional", required: false, description: "Nydus image" },
    output: { type: "positional", required: false, description: "Directory to make, or - for a tar on stdout" },
    ...IMAGE_ARGS,
    ...CONTAINERD_ARGS,
  },
  async run(args, context) {
    const { image: choice, rest } = chooseImage(args, [args.image, args.output]);
    const [output] = rest;
    if (output === undefined) throw new NydusError("EINVAL", "Missing argument OUTPUT; see 'nydus unpack --help'");
    return withImage(choice, args, context, async ({ image, pool }) => {
      const { signal, quiet } = context;
      if (output !== "-") {
        await unpackToDirectory(image, output, { pool, signal });
        return 0;
      }
      const onSkipped = (path: string, reason: string): void => {
        if (!quiet) printStderr(`nydus: skipped ${path}: ${reason}\n`);
      };
      for await (const bytes of unpackToTar(image, { pool, signal, onSkipped })) await printBytes(bytes);
      return 0;
    });
  },
});
