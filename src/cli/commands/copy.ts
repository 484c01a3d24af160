import { copyBetween } from "../../operation/image/copy-between.ts";
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
import { REGISTRY_ARGS, registryOptions } from "../registry-args.ts";
import { platformsOf } from "../values.ts";

/** `nydus copy` */
export const copyCommand = nydusCommand({
  description: `Copy an image as it is: between registries, files and containerd

Every blob is verified, and none changed: digests stay. Of an index the image of one platform is copied, or all of them.
containerd keeps the index all the same, as after a pull; elsewhere the image then stands alone. A Nydus image in
containerd is prepared for the snapshotter, so that 'nerdctl --snapshotter nydus run' starts it without a registry;
plain images are when a snapshotter is named. The image's digest goes to stdout.

e.g., 'nydus copy oci-archive:app.tar containerd:app:nydus'
      'nydus copy docker://registry.example/app:1 docker://localhost:5000/app:1'
      'nydus copy -n k8s.io containerd:app:1 oci-archive:app.tar:1'`,
  args: {
    source: { type: "positional", required: true, description: "Image, by any name that 'nydus convert' takes" },
    target: { type: "positional", required: true, description: "Name of the copy" },
    platform: { type: "string", valueHint: "OS/ARCH,...", description: "Platforms to copy (default this machine's)" },
    "all-platforms": { type: "boolean", description: "Copy every image of an index" },
    ...CONTAINERD_ARGS,
    ...PREPARE_ARGS,
    ...REGISTRY_ARGS,
  },
  async run(args, context) {
    const { root, signal, json, quiet } = context;
    const progress = openProgress({ quiet, verb: "copying" });
    try {
      const summary = await copyBetween({
        source: args.source,
        target: args.target,
        platforms: platformsOf(args.platform, args["all-platforms"] === true),
        registry: registryOptions(args),
        containerd: containerdPlace(args),
        prepare: snapshotterChoice(args),
        root,
        signal,
        progress,
      });
      progress.close();
      printPreparation(summary.prepared);
      if (json) await printJson({ target: args.target, ...summary });
      else await printText(`${summary.digest}  ${args.target}\n`);
      return 0;
    } finally {
      progress.close();
    }
  },
});
