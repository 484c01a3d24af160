import { NydusError } from "../../base/errors.ts";
import { type LoadedImage, loadImages } from "../../operation/image/load.ts";
import { nydusCommand } from "../command.ts";
import {
  CONTAINERD_ARGS,
  containerdPlace,
  PREPARE_ARGS,
  printPreparation,
  snapshotterChoice,
} from "../containerd-args.ts";
import { printJson, printText } from "../output.ts";
import { openProgress } from "../progress.ts";
import { platformsOf } from "../values.ts";

/** `nydus load` */
export const loadCommand = nydusCommand({
  description: `Load the images of an archive into containerd

The archive is what 'docker save', 'nerdctl save', 'ctr image export' or 'nydus convert X oci-archive:FILE' wrote, plain,
gzip or zstd; without --input it comes from stdin. Images get the names that they have there. Nydus images are prepared
for the snapshotter, plain ones when a snapshotter is named.

e.g., 'nydus load -i app.tar'
      'ssh host nerdctl save app | nydus load -n k8s.io'`,
  args: {
    input: { type: "string", alias: "i", valueHint: "FILE", description: "Archive (default stdin)" },
    platform: { type: "string", valueHint: "OS/ARCH,...", description: "Platforms to load (default this machine's)" },
    "all-platforms": { type: "boolean", description: "Load every image of an index" },
    ...CONTAINERD_ARGS,
    ...PREPARE_ARGS,
  },
  async run(args, context) {
    const { root, signal, json, quiet } = context;
    const progress = openProgress({ quiet, verb: "loading" });
    const loaded: LoadedImage[] = [];
    const onLoaded = async (image: LoadedImage): Promise<void> => {
      loaded.push(image);
      printPreparation(image.prepared);
      if (!json) await printText(`Loaded image: ${image.name}\n`);
    };
    try {
      await loadImages({
        from: inputOf(args.input),
        platforms: platformsOf(args.platform, args["all-platforms"] === true),
        containerd: containerdPlace(args),
        prepare: snapshotterChoice(args),
        onLoaded,
        root,
        signal,
        progress,
      });
      if (json) await printJson(loaded);
      return 0;
    } finally {
      progress.close();
    }
  },
});

function inputOf(path: string | undefined): { readonly path: string } | { readonly stream: AsyncIterable<Uint8Array> } {
  if (path !== undefined && path !== "-") return { path };
  if (process.stdin.isTTY) throw new NydusError("EINVAL", "Missing --input: stdin is a terminal, an archive is wanted");
  return { stream: process.stdin };
}
