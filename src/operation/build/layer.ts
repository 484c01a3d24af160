import type { BlobSink } from "../../content/store/store.ts";
import type { Codecs } from "../../format/codec/codecs.ts";
import { encodeBootstrap } from "../../format/rafs/writer.ts";
import { readTar } from "../../format/tar/reader.ts";
import { LayerTree } from "../../format/tree/build.ts";
import type { ChunkRecord, TreeNode } from "../../format/tree/node.ts";
import type { CodecPool } from "../../os/codec-pool.ts";
import { BlobWriter, type WrittenBlob } from "./blob-writer.ts";
import { type ChunkOptions, ChunkPipeline } from "./chunk-pipeline.ts";

const NO_CHUNKS: readonly ChunkRecord[] = [];

/** What building a layer works with. */
export interface LayerContext {
  readonly codecs: Codecs;
  readonly pool: CodecPool;
  readonly options: ChunkOptions;
  /** The layer is all of its image: its bootstrap is kept, most of the image's is in it. */
  readonly isAlone?: boolean;
}

/** A layer whose blob is complete in its target. */
export interface BuiltLayer {
  /** The layer alone, whiteouts and markers in it; chunks have blob index 0. */
  readonly tree: TreeNode;
  readonly blob: WrittenBlob;
  /** The bootstrap that is in the blob, where it was to be kept. */
  readonly bootstrap?: Uint8Array;
}

/**
 * Builds one layer: its tar in, a RAFS v6 blob out, nothing of it kept in memory but the tree. The blob depends on the
 * layer and the options alone.
 * @param tar the uncompressed layer; read to its end
 * @throws EUCLEAN a malformed tar; ENOTSUP what RAFS v6 cannot hold; whatever `tar` and `sink` throw
 */
export async function buildLayer(
  tar: AsyncIterable<Uint8Array>,
  sink: BlobSink,
  context: LayerContext,
): Promise<BuiltLayer> {
  const { codecs, pool, options, isAlone = false } = context;
  const writer = new BlobWriter(sink, codecs, options);
  const pipeline = new ChunkPipeline(pool, options, writer);
  const layer = new LayerTree();
  for await (const entry of readTar(tar)) {
    const { content, sizeBytes } = entry;
    const whole = sizeBytes > 0 ? content.take?.() : undefined;
    if (whole !== undefined) layer.add(entry, pipeline.addWhole(whole));
    else layer.add(entry, sizeBytes > 0 ? await pipeline.addFile(content, sizeBytes) : NO_CHUNKS);
    while (pipeline.isFull) await pipeline.settle();
  }
  await pipeline.end();
  const { chunkBytes, compressor, digester } = options;
  let bootstrap: Uint8Array | undefined;
  const blob = await writer.finish((record) => {
    const blobs = record === undefined ? [] : [record];
    bootstrap = encodeBootstrap({ root: layer.root, blobs, chunkBytes, compressor, digester });
    return bootstrap;
  });
  return { tree: layer.root, blob, ...(isAlone && bootstrap && { bootstrap }) };
}
