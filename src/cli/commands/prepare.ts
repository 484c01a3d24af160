import { prepareImage } from "../../operation/image/containerd-prepare.ts";
import { nydusCommand } from "../command.ts";
import { CONTAINERD_ARGS, chosenSnapshotter, containerdPlace, PREPARE_ARGS } from "../containerd-args.ts";
import { printJson, printText } from "../output.ts";
import { openProgress } from "../progress.ts";
import { platformOf } from "../values.ts";

/** `nydus prepare` */
export const prepareCommand = nydusCommand({
  description: `Make images in containerd ready to run, without pulling them

An image that 'nerdctl image convert --nydus', 'nerdctl load' or 'ctr image import' made or brought is stored, but has no
snapshots: containerd cannot unpack Nydus blobs. This makes them, as a pull would. 'nydus convert', 'copy' and 'load'
do it by themselves. The images' names go to stdout.

e.g., 'nerdctl image convert --nydus --oci alpine alpine:nydus && nydus prepare alpine:nydus'`,
  args: {
    image: { type: "positional", required: true, valueHint: "IMAGE...", description: "Images of containerd's" },
    platform: { type: "string", valueHint: "OS/ARCH", description: "Image of an index (default this machine's)" },
    snapshotter: PREPARE_ARGS.snapshotter,
    ...CONTAINERD_ARGS,
  },
  async run(args, context) {
    const { signal, json, quiet } = context;
    const progress = openProgress({ quiet });
    const choice = chosenSnapshotter(args);
    const options = { ...choice, platform: platformOf(args.platform), containerd: containerdPlace(args) };
    const images = [];
    for (const image of args._) {
      const prepared = await prepareImage({ ...options, image, signal, progress });
      images.push(prepared);
      if (!json) await printText(`${prepared.image}\n`);
    }
    if (json) await printJson(images);
    return 0;
  },
});
