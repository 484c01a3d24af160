import { pullImage } from "../../operation/image/pull.ts";
import { nydusCommand } from "../command.ts";
import { CONTAINERD_ARGS, containerdPlace } from "../containerd-args.ts";
import { printJson, printText } from "../output.ts";
import { openProgress } from "../progress.ts";
import { REGISTRY_ARGS, registryOptions } from "../registry-args.ts";
import { platformsOf } from "../values.ts";

/** `nydus pull` */
export const pullCommand = nydusCommand({
  description: `Bring an image into the store, whole or ready to be read lazily

The store is under --root. Blobs are verified while they are written; what is there is not fetched again, and a
transfer that broke goes on where it ended. 'mount' and the other commands then find the image under its name. The
image's digest goes to stdout.

e.g., 'nydus pull registry.example/app:nydus'
      'nydus pull --lazy registry.example/app:nydus'
      'nydus pull --as app:1 oci:./app:1'`,
  args: {
    image: { type: "positional", required: true, description: "Image, by any name that 'nydus convert' takes" },
    platform: { type: "string", valueHint: "OS/ARCH,...", description: "Platforms to pull (default this machine's)" },
    "all-platforms": { type: "boolean", description: "Pull every image of an index" },
    lazy: { type: "boolean", description: "Manifest, config and bootstrap only; a mount fetches what is read" },
    as: { type: "string", valueHint: "NAME", description: "Name in the store (default the image's own)" },
    ...CONTAINERD_ARGS,
    ...REGISTRY_ARGS,
  },
  async run(args, context) {
    const { root, signal, json, quiet } = context;
    const progress = openProgress({ quiet, verb: "pulling" });
    try {
      const summary = await pullImage({
        image: args.image,
        as: args.as,
        platforms: platformsOf(args.platform, args["all-platforms"] === true),
        lazy: args.lazy === true,
        registry: registryOptions(args),
        containerd: containerdPlace(args),
        root,
        signal,
        progress,
      });
      progress.close();
      if (json) await printJson(summary);
      else await printText(`${summary.digest}  ${summary.name}\n`);
      return 0;
    } finally {
      progress.close();
    }
  },
});
