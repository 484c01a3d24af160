import { stat } from "node:fs/promises";
import { join } from "node:path";
import { digestOfSum, hexOf } from "../../base/digest.ts";
import { asNydusError, NydusError } from "../../base/errors.ts";
import { Closers } from "../../content/store/closers.ts";
import type { Codecs, Compressor, Digester } from "../../format/codec/codecs.ts";
import { readTree } from "../../format/rafs/read-tree.ts";
import { CHUNK_BYTES_LIMITS } from "../../format/rafs/superblock.ts";
import { readTar, type TarEntry } from "../../format/tar/reader.ts";
import { type Artifact, openArtifact, openInput } from "../../operation/build/artifact.ts";
import { openBootstrapFile } from "../../operation/build/bootstrap-file.ts";
import { ChunkDict } from "../../operation/build/chunk-dict.ts";
import type { ChunkOptions } from "../../operation/build/chunk-pipeline.ts";
import { directoryEntries, withoutOwners } from "../../operation/build/directory-entries.ts";
import { buildApart, type StreamedLayer, type StreamOptions, streamLayer } from "../../operation/build/layer-stream.ts";
import type { MergedTree } from "../../operation/build/merge-files.ts";
import { DEFAULT_ZSTD_LEVEL } from "../../operation/image/convert.ts";
import { openCodecPool } from "../../os/codec-threads.ts";
import { bootstrapPlace, dictPathOf, prefetchPaths } from "./arguments.ts";
import type { ImageCommand, ImageContext } from "./command.ts";
import { CREATE_SHAPE, OTHER_TYPES, SOURCES, type SourceKind } from "./create-options.ts";
import { type Parsed, textOf } from "./option.ts";
import { writeOutput } from "./output-json.ts";
import { releasePipes } from "./release-pipes.ts";

const DEFAULT_CHUNK_BYTES = 0x10_0000;

/** `nydus-image create` */
export const createCommand: ImageCommand = {
  shape: CREATE_SHAPE,
  async run(parsed, context) {
    try {
      await create(parsed, context);
    } catch (error) {
      releasePipes([textOf(parsed, "blob"), parsed.positionals[0]]);
      throw error;
    }
  },
};

async function create(parsed: Parsed, context: ImageContext): Promise<void> {
  refuseUnsupported(parsed);
  const options = chunkOptions(parsed);
  const isInline = parsed.values.has("blob-inline-meta");
  const blob = blobPlace(parsed);
  const parentPath = textOf(parsed, "parent-bootstrap");
  if (isInline && parentPath !== undefined) {
    throw new NydusError("EINVAL", "Cannot build on a parent: --parent-bootstrap cannot go with --blob-inline-meta");
  }
  const kind = SOURCES[(textOf(parsed, "type") ?? "dir-rafs") as keyof typeof SOURCES];
  const source = parsed.positionals[0] ?? "";
  await checkSource(source, kind);
  const codecs = await context.codecs();
  await using stack = new Closers();
  const pool = stack.use(openCodecPool());
  const dictPath = textOf(parsed, "chunk-dict");
  const dict = dictPath && new ChunkDict(await openBootstrapFile(dictPathOf(dictPath), codecs), options);
  const parent = parentPath === undefined ? undefined : await readParent(parentPath, codecs);
  const stream: StreamOptions = {
    ...{ codecs, pool, options, parent },
    dict: dict || undefined,
    prefetchPaths: await prefetchPaths(parsed),
  };
  // Each waits for the other end of its pipe, and whoever is there may open them in any order.
  const [sink, entries] = await Promise.all([openArtifact(blob), openEntries(source, { kind, codecs, stack })]);
  stack.use(sink);
  const layerEntries = parsed.values.has("repeatable") ? withoutOwners(entries) : entries;
  const layer = await (isInline ? streamLayer : buildApart)(layerEntries, sink, stream);
  const bootstrap = layer.bootstrap && (await writeBootstrap(layer.bootstrap, bootstrapPlace(parsed), codecs));
  await writeOutput(textOf(parsed, "output-json"), {
    bootstrap: bootstrap ?? "",
    blobs: blobIds(layer, isInline),
    compressor: options.compressor,
  });
}

/** An inline blob is one also without data. */
function blobIds({ blob, blobs }: StreamedLayer, isInline: boolean): string[] {
  if (isInline) return blob === undefined ? [] : [hexOf(blob.digest)];
  return blobs.map(({ id }) => id);
}

function refuseUnsupported(parsed: Parsed): void {
  const type = textOf(parsed, "type") ?? "";
  const has = (long: string): boolean => parsed.values.has(long);
  const refused = [
    (OTHER_TYPES as readonly string[]).includes(type) && `conversion type ${type}`,
    textOf(parsed, "fs-version") === "5" && "RAFS version 5",
    has("encrypt") && "encryption",
    Number(textOf(parsed, "batch-size")) !== 0 && "batches of chunks (--batch-size)",
    ...["blob-cache-dir", "attributes", "external-blob"].map((long) => has(long) && `--${long}`),
  ].find((reason) => reason !== false);
  if (refused) throw new NydusError("ENOTSUP", `Cannot build: ${refused} is not supported`);
}

/** @throws EINVAL a size that is no power of two in the format's limits */
function chunkOptions(parsed: Parsed): ChunkOptions {
  const text = textOf(parsed, "chunk-size");
  const chunkBytes = text === undefined ? DEFAULT_CHUNK_BYTES : /^(0x[0-9a-f]+|\d+)$/i.test(text) ? Number(text) : 0;
  const { min, max } = CHUNK_BYTES_LIMITS;
  if (chunkBytes < min || chunkBytes > max || !Number.isInteger(Math.log2(chunkBytes))) {
    const wanted = `a power of two from 0x${min.toString(16)} to 0x${max.toString(16)}`;
    throw new NydusError("EINVAL", `Cannot build: invalid chunk size ${JSON.stringify(text)}, ${wanted} is wanted`);
  }
  return {
    chunkBytes,
    compressor: (textOf(parsed, "compressor") ?? "zstd") as Compressor,
    digester: (textOf(parsed, "digester") ?? "blake3") as Digester,
    level: DEFAULT_ZSTD_LEVEL,
  };
}

function blobPlace(parsed: Parsed): Artifact {
  const [path, dir] = [textOf(parsed, "blob"), textOf(parsed, "blob-dir")];
  if (path !== undefined) return { path };
  if (dir !== undefined) return { dir };
  throw new NydusError("EINVAL", "Cannot build: both --blob and --blob-dir are missing");
}

/** So that a source that cannot be is told before anything is waited for. */
async function checkSource(path: string, kind: SourceKind): Promise<void> {
  let isDirectory: boolean;
  try {
    isDirectory = (await stat(path)).isDirectory();
  } catch (error) {
    throw asNydusError(error, { path });
  }
  if (isDirectory !== (kind === "directory")) {
    const found = isDirectory ? "it is a directory" : "it is no directory";
    throw new NydusError("EINVAL", `Cannot build: ${found}, which --type does not take`, { path });
  }
}

async function openEntries(
  path: string,
  { kind, codecs, stack }: { readonly kind: SourceKind; readonly codecs: Codecs; readonly stack: Closers },
): Promise<AsyncIterable<TarEntry>> {
  if (kind === "directory") return directoryEntries(path);
  const { bytes } = stack.use(await openInput(path));
  return readTar(kind === "gzip" ? codecs.decompressStream("gzip", bytes) : bytes);
}

async function readParent(path: string, codecs: Codecs): Promise<MergedTree> {
  const image = await openBootstrapFile(path, codecs);
  return { root: readTree(image), blobs: image.blobs };
}

/** @returns where it is now */
export async function writeBootstrap(bytes: Uint8Array, place: Artifact, codecs: Codecs): Promise<string> {
  const digest = digestOfSum(codecs.digest("sha256", bytes));
  await using sink = await openArtifact(place);
  await sink.write(bytes);
  await sink.commit(digest, bytes.length);
  return "path" in place ? place.path : join(place.dir, hexOf(digest));
}
