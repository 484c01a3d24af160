import { type ImageReport, inspectImage } from "../../operation/image/inspect.ts";
import { nydusCommand } from "../command.ts";
import { CONTAINERD_ARGS } from "../containerd-args.ts";
import { bothUsages, chooseImage, IMAGE_ARGS, withImage } from "../image-args.ts";
import { formatTable, printJson, printText } from "../output.ts";
import { formatBytes, shortDigest } from "../progress.ts";

function summary(report: ImageReport): string {
  const { inodes } = report;
  const specials = inodes.char + inodes.block + inodes.fifo + inodes.socket;
  const rows = [
    [
      "Format",
      `RAFS v${report.fsVersion}, ${report.compressor}, ${report.digester}, chunks of ${formatBytes(report.chunkBytes)}`,
    ],
    ["Bootstrap", formatBytes(report.bootstrapBytes)],
    ["Names", `${report.names}`],
    ["Inodes", `${inodes.file} files, ${inodes.dir} directories, ${inodes.symlink} symlinks, ${specials} others`],
    ["File data", formatBytes(report.fileBytes)],
    [
      "Chunks",
      `${report.referencedChunks} referenced of ${report.chunks}, ${report.sharedChunks} of them more than once`,
    ],
    ["Dedup", `${formatBytes(report.dedupBytes)} saved, ${formatBytes(report.uniqueBytes)} unique`],
  ];
  return rows.map(([name, value]) => `${`${name}:`.padEnd(11)}${value}\n`).join("");
}

function blobTable(report: ImageReport): string {
  const heads = ["BLOB", "CODEC", ">SIZE", ">CHUNKS", ">REFERENCED", ">SHARED", ">UNIQUE", ">USED"];
  const rows = report.blobs.map((blob) => [
    shortDigest(blob.digest),
    blob.compressor,
    formatBytes(blob.blobBytes),
    `${blob.chunks}`,
    `${blob.referencedChunks}`,
    `${blob.sharedChunks}`,
    formatBytes(blob.uniqueBytes),
    formatBytes(blob.usedBytes),
  ]);
  return formatTable(heads, rows);
}

function layerTable(layers: readonly { mediaType: string; digest: string; size: number }[]): string {
  const rows = layers.map(({ mediaType, digest, size }) => [shortDigest(digest), formatBytes(size), mediaType]);
  return formatTable(["LAYER", ">SIZE", "MEDIA TYPE"], rows);
}

/** `nydus inspect` */
export const inspectCommand = nydusCommand({
  description: `Show layers, blobs, chunks and what they share

Reads metadata only. A chunk is shared when files reference it more than once; "saved" is what that spares.`,
  usage: bothUsages(""),
  args: {
    image: { type: "positional", required: false, description: "Nydus image, by any name that 'nydus convert' takes" },
    ...IMAGE_ARGS,
    ...CONTAINERD_ARGS,
  },
  async run(args, context) {
    const { image: choice } = chooseImage(args, [args.image]);
    return withImage(choice, args, context, async ({ image }) => {
      const report = inspectImage(image);
      const manifest = image.documents?.manifest;
      if (context.json) await printJson({ ...(manifest && { manifest }), ...report });
      else {
        const layers = manifest === undefined ? "" : `\n${layerTable(manifest.layers)}`;
        await printText(`${summary(report)}${layers}\n${blobTable(report)}`);
      }
      return 0;
    });
  },
});
