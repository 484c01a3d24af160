import { NydusError } from "../../base/errors.ts";
import type { Codecs } from "../../format/codec/codecs.ts";
import { BLOB_FEATURES, hasFeature } from "../../format/rafs/blob-table.ts";
import { openBootstrapFile } from "../../operation/build/bootstrap-file.ts";
import { type LayerBlob, type LayerBootstrap, mergeBootstraps } from "../../operation/build/merge-files.ts";
import { bootstrapPlace, dictPathOf, prefetchPaths } from "./arguments.ts";
import type { ImageCommand, ImageContext } from "./command.ts";
import { writeBootstrap } from "./create.ts";
import { COMMON_OPTIONS, listOf, type Parsed, textOf } from "./option.ts";
import { writeOutput } from "./output-json.ts";

const DIGEST = /^[0-9a-f]{64}$/;

/** `nydus-image merge` */
export const mergeCommand: ImageCommand = {
  shape: {
    name: "nydus-image merge",
    about: `Merge bootstraps of layers, the bottom one first, into the bootstrap of an image

A layer's bootstrap file is named by its blob's id, unless --blob-digests or --original-blob-ids says it.`,
    positional: { name: "SOURCE", isRequired: true, isMany: true, help: "Bootstraps, or blobs with one inside" },
    options: [
      { long: "parent-bootstrap", help: "Bootstrap that the layers lie on" },
      { long: "bootstrap", short: "B", help: "File for the merged bootstrap" },
      { long: "blob-dir", short: "D", help: "Directory for the merged bootstrap, named by its SHA-256" },
      { long: "chunk-dict", help: "Dictionary that the layers were built with: bootstrap=FILE" },
      {
        long: "prefetch-policy",
        default: "none",
        choices: ["fs", "blob", "none"],
        help: "With fs, readers are to fetch the paths first that stdin lists",
      },
      { long: "output-json", short: "J", help: "File for the result as JSON" },
      { long: "blob-digests", help: "SHA-256 of the layers' blobs, separated by commas" },
      { long: "original-blob-ids", help: "Ids of the layers' blobs, separated by commas" },
      { long: "blob-sizes", help: "Bytes of the layers' blobs, separated by commas" },
      { long: "blob-toc-digests", help: "SHA-256 of the blobs' tables of contents, separated by commas" },
      { long: "blob-toc-sizes", help: "Bytes of the blobs' tables of contents, separated by commas" },
      { long: "config", short: "C", help: "Taken for compatibility, and not read" },
      ...COMMON_OPTIONS,
    ],
  },
  run: merge,
};

async function merge(parsed: Parsed, context: ImageContext): Promise<void> {
  const place = bootstrapPlace(parsed);
  const known = knownBlobs(parsed);
  const codecs = await context.codecs();
  const layers: LayerBootstrap[] = [];
  for (const [i, path] of parsed.positionals.entries()) {
    const image = await openBootstrapFile(path, codecs);
    const blob = known[i];
    layers.push({ path, image, ...(blob && { blob }) });
  }
  refuseSeparate(layers);
  const parent = textOf(parsed, "parent-bootstrap");
  const { bootstrap, blobs, compressor } = mergeBootstraps(layers, {
    parent: parent === undefined ? undefined : await openBootstrapFile(parent, codecs),
    dictBlobs: await dictBlobs(textOf(parsed, "chunk-dict"), codecs),
    prefetchPaths: await prefetchPaths(parsed),
  });
  const path = await writeBootstrap(bootstrap, place, codecs);
  await writeOutput(textOf(parsed, "output-json"), { bootstrap: path, blobs: blobs.map(({ id }) => id), compressor });
}

/** In a blob that lies apart from its meta, digests and sizes mean the meta's. */
function refuseSeparate(layers: readonly LayerBootstrap[]): void {
  const isSeparate = ({ image }: LayerBootstrap): boolean =>
    image.blobs.some((blob) => hasFeature(blob, BLOB_FEATURES.separate));
  const path = layers.find(isSeparate)?.path;
  if (path === undefined) return;
  throw new NydusError("ENOTSUP", "Cannot merge layer: its blob lies apart from its meta (zran)", { path });
}

async function dictBlobs(argument: string | undefined, codecs: Codecs): Promise<ReadonlySet<string>> {
  if (argument === undefined) return new Set();
  const { blobs } = await openBootstrapFile(dictPathOf(argument), codecs);
  return new Set(blobs.map(({ id }) => id));
}

/** What the lists say of each layer's blob. @throws EINVAL a list of another length than the layers', or no number */
function knownBlobs(parsed: Parsed): readonly LayerBlob[] {
  const list = <T>(long: string, read: (text: string) => T | undefined): readonly T[] | undefined => {
    const members = listOf(parsed, long)?.map((text) => {
      const value = read(text);
      if (value === undefined) throw new NydusError("EINVAL", `Cannot merge: ${JSON.stringify(text)} in --${long}`);
      return value;
    });
    if (members === undefined || members.length === parsed.positionals.length) return members;
    const found = `--${long} has ${members.length} members for ${parsed.positionals.length} bootstraps`;
    throw new NydusError("EINVAL", `Cannot merge: ${found}`);
  };
  const digests = list("blob-digests", readDigest);
  const ids = list("original-blob-ids", readDigest);
  const sizes = list("blob-sizes", readSize);
  const tocDigests = list("blob-toc-digests", readDigest);
  const tocSizes = list("blob-toc-sizes", readSize);
  return parsed.positionals.map((_, i) => {
    const tocDigest = tocDigests?.[i];
    return {
      id: digests?.[i] ?? ids?.[i],
      sizeBytes: sizes?.[i],
      tocDigest: tocDigest === undefined ? undefined : Uint8Array.from(Buffer.from(tocDigest, "hex")),
      tocBytes: tocSizes?.[i],
    };
  });
}

function readDigest(text: string): string | undefined {
  return DIGEST.test(text) ? text : undefined;
}

function readSize(text: string): number | undefined {
  return /^\d+$/.test(text) && Number.isSafeInteger(Number(text)) ? Number(text) : undefined;
}
