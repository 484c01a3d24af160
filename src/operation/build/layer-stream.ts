import type { Digest } from "../../base/digest.ts";
import { NydusError } from "../../base/errors.ts";
import type { BlobSink } from "../../content/store/store.ts";
import type { BlobRecord } from "../../format/rafs/blob-table.ts";
import { encodeBootstrap } from "../../format/rafs/writer.ts";
import type { TarEntry } from "../../format/tar/reader.ts";
import { LayerTree } from "../../format/tree/build.ts";
import { HARDLINK_XATTR } from "../../format/tree/markers.ts";
import type { TreeNode } from "../../format/tree/node.ts";
import { findNode } from "../../format/tree/resolve.ts";
import { BlobWriter, type WrittenBlob } from "./blob-writer.ts";
import { type ChunkDict, DictSink } from "./chunk-dict.ts";
import { ChunkPipeline } from "./chunk-pipeline.ts";
import type { LayerContext } from "./layer.ts";
import { eachNode, type MergedTree, mergeParts } from "./merge-files.ts";

/** How a layer is built by itself. */
export interface StreamOptions extends LayerContext {
  /** Paths whose data readers are to fetch first. */
  readonly prefetchPaths: readonly Uint8Array[];
  /** Chunks that need not be written. */
  readonly dict?: ChunkDict | undefined;
  /** What the layer lies on: the bootstrap then is of both. Only where it lies outside of the blob. */
  readonly parent?: MergedTree | undefined;
}

/** A layer's blob, and its bootstrap where that is not inside. */
export interface StreamedLayer {
  /** Undefined without data, when the bootstrap is outside: there is nothing to write then. */
  readonly blob?: { readonly digest: Digest; readonly sizeBytes: number };
  readonly bootstrap?: Uint8Array;
  /** The blobs that the bootstrap names, as it names them. */
  readonly blobs: readonly BlobRecord[];
}

/** A layer whose chunks are written: its tree, and where they are. */
class LayerInHand {
  readonly root: TreeNode;
  readonly #options: StreamOptions;

  constructor(root: TreeNode, options: StreamOptions) {
    this.root = root;
    this.#options = options;
  }

  /**
   * The blobs that the tree needs, the layer's own first.
   * The chunks of the tree name them by their places from now on.
   */
  takeBlobs(own: BlobRecord | undefined): BlobRecord[] {
    const { dict } = this.#options;
    if (dict === undefined) return own === undefined ? [] : [own];
    const all = [own, ...dict.blobs];
    const used = new Set<number>();
    for (const node of eachNode(this.root)) for (const { blob } of node.chunks) used.add(blob);
    const kept = all.flatMap((blob, place) => (blob !== undefined && used.has(place) ? [{ blob, place }] : []));
    const places = new Map(kept.map(({ place }, i) => [place, i]));
    for (const node of eachNode(this.root)) {
      node.chunks = node.chunks.map((chunk) => ({ ...chunk, blob: places.get(chunk.blob) ?? 0 }));
    }
    return kept.map(({ blob }) => blob);
  }

  encode(root: TreeNode, blobs: readonly BlobRecord[]): Uint8Array {
    const { chunkBytes, compressor, digester } = this.#options.options;
    const prefetch = [...new Set(this.#options.prefetchPaths.flatMap((path) => findNode(root, path) ?? []))];
    return encodeBootstrap({ root, blobs, chunkBytes, compressor, digester, prefetch });
  }
}

async function writeChunks(
  entries: AsyncIterable<TarEntry>,
  writer: BlobWriter,
  { pool, options, dict }: StreamOptions,
): Promise<TreeNode> {
  const pipeline = new ChunkPipeline(pool, options, dict === undefined ? writer : new DictSink(dict, writer));
  const layer = new LayerTree();
  for await (const entry of entries) {
    const hasData = entry.type === "file" && entry.sizeBytes > 0;
    layer.add(entry, hasData ? await pipeline.addFile(entry.content, entry.sizeBytes) : []);
  }
  await pipeline.end();
  return layer.root;
}

/**
 * Builds one layer with its bootstrap in the blob: what a merge takes. The sink is written from front to back.
 * @throws EUCLEAN a malformed layer; ENOTSUP what RAFS v6 cannot hold; whatever `entries` and `sink` throw
 */
export async function streamLayer(
  entries: AsyncIterable<TarEntry>,
  sink: BlobSink,
  options: StreamOptions,
): Promise<StreamedLayer> {
  const writer = new BlobWriter(sink, options.codecs, options.options);
  const layer = new LayerInHand(await writeChunks(entries, writer, options), options);
  let blobs: readonly BlobRecord[] = [];
  const { digest, sizeBytes } = await writer.finish((own) => {
    blobs = layer.takeBlobs(own);
    return layer.encode(layer.root, blobs);
  });
  return { blob: { digest, sizeBytes }, blobs };
}

/**
 * Builds one layer, its bootstrap outside of the blob: an image of its own, or one with its parent.
 * @throws as {@link streamLayer}; EUCLEAN a hard link to what neither the layer nor its parent has
 */
export async function buildApart(
  entries: AsyncIterable<TarEntry>,
  sink: BlobSink,
  options: StreamOptions,
): Promise<StreamedLayer> {
  const counted = new CountingSink(sink);
  const writer = new BlobWriter(counted, options.codecs, options.options);
  const layer = new LayerInHand(await writeChunks(entries, writer, options), options);
  const blob = counted.sizeBytes === 0 ? undefined : await writer.finish();
  const own = layer.takeBlobs(blob?.record);
  const { root, blobs } = onParent(layer.root, own, options.parent);
  const bootstrap = layer.encode(root, blobs);
  return { ...(blob && { blob: placeOf(blob) }), bootstrap, blobs };
}

function placeOf({ digest, sizeBytes }: WrittenBlob): { readonly digest: Digest; readonly sizeBytes: number } {
  return { digest, sizeBytes };
}

function onParent(root: TreeNode, blobs: readonly BlobRecord[], parent: MergedTree | undefined): MergedTree {
  if (parent !== undefined) return mergeParts([parent, { root, blobs }]);
  for (const node of eachNode(root)) {
    if (!node.xattrs.has(HARDLINK_XATTR)) continue;
    throw new NydusError("EUCLEAN", "Cannot build layer: a hard link to what it does not have itself");
  }
  return { root, blobs };
}

/** Knows whether anything was written. */
class CountingSink implements BlobSink {
  sizeBytes = 0;
  readonly #sink: BlobSink;

  constructor(sink: BlobSink) {
    this.#sink = sink;
  }

  write(data: Uint8Array): Promise<void> {
    this.sizeBytes += data.length;
    return this.#sink.write(data);
  }

  commit(digest: Digest, sizeBytes: number): Promise<void> {
    return this.#sink.commit(digest, sizeBytes);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#sink[Symbol.asyncDispose]();
  }
}
