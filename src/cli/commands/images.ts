import { familiarRepository } from "../../format/oci/reference.ts";
import { formatImageName, parseImageName } from "../../format/oci/transport.ts";
import { listStoredImages, type StoredImageReport } from "../../operation/image/stored-images.ts";
import { nydusCommand } from "../command.ts";
import { formatTable, printJson, printStderr, printText } from "../output.ts";
import { formatBytes, shortDigest } from "../progress.ts";

const NONE = "<none>";

/** Repository and tag as docker and nerdctl show them: without what every name of Docker Hub has. */
function shownName(name: string): readonly [repository: string, tag: string] {
  const image = parseImageName(name);
  if (image.transport === "docker") return [familiarRepository(image.reference), image.reference.tag ?? NONE];
  if (image.transport === "containerd") return [formatImageName(image), NONE];
  const reference = image.index === undefined ? image.reference : `@${image.index}`;
  return [`${image.transport}:${image.path}`, typeof reference === "string" ? reference : NONE];
}

/** Minutes, UTC; nothing for a time that is none. */
function shownTime(text: string | undefined): string {
  const ms = Date.parse(text ?? "");
  return Number.isNaN(ms) ? "" : new Date(ms).toISOString().slice(0, 16).replace("T", " ");
}

function table(images: readonly StoredImageReport[], wholeDigests: boolean): string {
  const rows = images.map((image) => [
    ...shownName(image.name),
    wholeDigests ? image.digest : shortDigest(image.digest),
    image.platform,
    image.kind,
    image.state,
    formatBytes(image.storedBytes),
    shownTime(image.createdAt),
  ]);
  return formatTable(["REPOSITORY", "TAG", "DIGEST", "PLATFORM", "KIND", "STATE", ">SIZE", "CREATED"], rows);
}

/** `nydus images` */
export const imagesCommand = nydusCommand({
  description: `List the images of the store

DIGEST is what the registry calls the image. SIZE is what the store holds of it; of a "lazy" image that is less than
the image. CREATED is UTC. With --quiet only digests, which 'nydus rmi' takes.`,
  args: {
    digests: { type: "boolean", description: "Show digests whole" },
  },
  async run(args, context) {
    const { images, damaged } = await listStoredImages(context.root);
    for (const one of damaged) printStderr(`nydus: damaged: ${one}\n`);
    const whole = args.digests === true;
    if (context.json) await printJson(images);
    else if (context.quiet) {
      const digests = new Set(images.map(({ digest }) => (whole ? digest : shortDigest(digest))));
      await printText([...digests].map((digest) => `${digest}\n`).join(""));
    } else await printText(table(images, whole));
    return 0;
  },
});
