import { NydusError } from "../../base/errors.ts";
import { CHUNK_BYTES_LIMITS } from "../../format/rafs/superblock.ts";
import { type ConvertSummary, convertImage } from "../../operation/image/convert.ts";
import { type CliContext, nydusCommand } from "../command.ts";
import {
  CONTAINERD_ARGS,
  containerdPlace,
  PREPARE_ARGS,
  printPreparation,
  snapshotterChoice,
} from "../containerd-args.ts";
import { PULL_ARGS, pullOf } from "../image-args.ts";
import { printJson, printText } from "../output.ts";
import { formatBytes, openProgress } from "../progress.ts";
import { REGISTRY_ARGS, registryOptions } from "../registry-args.ts";
import { badValue, parseChoice, parseInteger, parseList, parseSize } from "../values.ts";
import { programVersion } from "../version.ts";

/** Levels of zstd that make sense for layers; other compressors have none. */
const LEVELS = { min: 1, max: 22 } as const;

/** A power of two within the format's limits. @returns bytes @throws EINVAL */
function parseChunkSize(text: string): number {
  const bytes = parseSize("chunk-size", text);
  const { min, max } = CHUNK_BYTES_LIMITS;
  if (bytes >= min && bytes <= max && Number.isInteger(Math.log2(bytes))) return bytes;
  throw badValue("chunk-size", text, `a power of two from ${formatBytes(min)} to ${formatBytes(max)}`);
}

/** @throws ENOTSUP a version that is read only or not known here */
function checkFsVersion(text: string): void {
  if (text === "6") return;
  const shown = JSON.stringify(text);
  throw new NydusError("ENOTSUP", `Cannot write RAFS version ${shown}: only 6 is written`);
}

function printSummary(summary: ConvertSummary, target: string, context: CliContext): Promise<void> {
  if (context.json) return printJson({ target, ...summary });
  return printText(`${summary.digest}  ${target}\n`);
}

/** `nydus convert` */
export const convertCommand = nydusCommand({
  description: `Convert an image to Nydus (RAFS v6)

Names are those of containers-transports(5): oci:DIR[:REF], oci-archive:FILE[:REF], docker-archive:FILE[:REF]
(read only), docker://HOST/REPO:TAG, or a bare name for a registry; also containerd:NAME, an image of containerd's. There
the result is prepared for the snapshotter, so that 'nerdctl --snapshotter nydus run' starts it without a registry. The
result's digest goes to stdout.

e.g., 'nydus convert oci:./alpine:latest oci:./alpine:nydus'
      'nydus convert --platform linux/arm64 docker-archive:app.tar.gz docker://localhost:5000/app:nydus'
      'nydus convert containerd:alpine containerd:alpine:nydus'`,
  args: {
    source: { type: "positional", required: true, description: "Image to convert: OCI or Docker schema 2" },
    target: { type: "positional", required: true, description: "Name of the converted image" },
    platform: {
      type: "string",
      valueHint: "OS/ARCH,...",
      description: "Platforms to convert (default this machine's)",
    },
    "all-platforms": { type: "boolean", description: "Convert every platform of an index" },
    ...PULL_ARGS,
    ...CONTAINERD_ARGS,
    ...PREPARE_ARGS,
    ...REGISTRY_ARGS,
    compressor: {
      type: "enum",
      options: ["zstd", "lz4_block", "none"],
      default: "zstd",
      description: "Compression of chunks",
    },
    "compression-level": { type: "string", valueHint: "N", description: "Level of zstd, 1 to 22 (default 3)" },
    "chunk-size": { type: "string", valueHint: "SIZE", default: "1MiB", description: "Power of two, 4KiB to 16MiB" },
    digester: { type: "enum", options: ["blake3", "sha256"], default: "blake3", description: "Digest of chunks" },
    "fs-version": { type: "string", valueHint: "6", default: "6", description: "RAFS version" },
    "prefetch-files": {
      type: "string",
      valueHint: "FILE",
      description: "Have mounts fetch the paths in FILE, one a line, before they are read",
    },
    "annotate-source": {
      type: "boolean",
      description: "Name the source in the manifest (its digest then depends on it)",
    },
    "annotate-builder": { type: "boolean", description: "Name this program's version in the manifest" },
  },
  async run(args, context) {
    checkFsVersion(args["fs-version"]);
    const platforms = parseList("platform", args.platform);
    const allPlatforms = args["all-platforms"] === true;
    if (allPlatforms && platforms.length > 0) {
      throw badValue("platform", platforms.join(","), "either --platform or --all-platforms");
    }
    const level = args["compression-level"];
    const progress = openProgress(context);
    try {
      const summary = await convertImage({
        source: args.source,
        target: args.target,
        root: context.root,
        platforms,
        allPlatforms,
        pull: pullOf(args.pull),
        registry: registryOptions(args),
        containerd: containerdPlace(args),
        prepare: snapshotterChoice(args),
        compressor: parseChoice("compressor", args.compressor, ["zstd", "lz4_block", "none"]),
        ...(level !== undefined && { compressionLevel: parseInteger("compression-level", level, LEVELS) }),
        chunkBytes: parseChunkSize(args["chunk-size"]),
        digester: parseChoice("digester", args.digester, ["blake3", "sha256"]),
        prefetchListPath: args["prefetch-files"],
        annotateSource: args["annotate-source"] === true,
        ...(args["annotate-builder"] === true && { builderVersion: programVersion() }),
        progress,
        signal: context.signal,
      });
      progress.close();
      printPreparation(summary.prepared);
      await printSummary(summary, args.target, context);
      return 0;
    } finally {
      progress.close();
    }
  },
});
