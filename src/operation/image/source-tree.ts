import type { MakeHasher } from "../../base/digest.ts";
import { inPlace } from "../../base/errors.ts";
import type { ImageSource } from "../../content/store/store.ts";
import type { Codecs } from "../../format/codec/codecs.ts";
import type { Descriptor } from "../../format/oci/manifest.ts";
import { layerFormat } from "../../format/oci/media-type.ts";
import { readTar, type TarEntry } from "../../format/tar/reader.ts";
import { LayerTree } from "../../format/tree/build.ts";
import { isImplicit } from "../../format/tree/markers.ts";
import type { ChunkRecord, TreeNode } from "../../format/tree/node.ts";
import { mergeLayers } from "../../format/tree/overlay.ts";
import { verifiedLayerBytes } from "../build/layer-bytes.ts";

/** What the layers of an image that is not Nydus show. */
export interface SourceTree {
  /** A file has one chunk, which stands for its whole content: `digest` is its SHA-256. */
  readonly root: TreeNode;
  /** Whether some layer says what the root directory is like. */
  readonly rootIsDescribed: boolean;
}

/** What reading layers takes. */
export interface SourceTreeOptions {
  readonly codecs: Codecs;
  readonly signal: AbortSignal;
}

/**
 * Reads and merges the layers of an image, every content to its SHA-256.
 * @param layers the bottom layer first
 * @throws EBADMSG, EUCLEAN damaged layers; EIO
 */
export async function readSourceTree(
  source: ImageSource,
  layers: readonly Descriptor[],
  options: SourceTreeOptions,
): Promise<SourceTree> {
  const roots: TreeNode[] = [];
  for (const layer of layers) {
    roots.push(await inPlace({ digest: layer.digest }, () => readLayer(source, layer, options)));
  }
  return { root: mergeLayers(roots), rootIsDescribed: roots.some((root) => !isImplicit(root)) };
}

async function readLayer(source: ImageSource, layer: Descriptor, options: SourceTreeOptions): Promise<TreeNode> {
  const { codecs, signal } = options;
  const blob = await source.openBlob(layer);
  try {
    const watch = { hasher: codecs.sha256(), signal, onBytes: () => undefined };
    const tar = codecs.decompressStream(layerFormat(layer.mediaType), verifiedLayerBytes(blob, layer, watch));
    const tree = new LayerTree();
    for await (const entry of readTar(tar)) tree.add(entry, await contentChunk(entry, () => codecs.sha256()));
    return tree.root;
  } finally {
    await blob.close();
  }
}

/** One chunk that is the whole file; none for an empty file and for what is no file. */
async function contentChunk(entry: TarEntry, sha256: MakeHasher): Promise<readonly ChunkRecord[]> {
  if (entry.type !== "file" || entry.sizeBytes === 0) return [];
  const hasher = sha256();
  for await (const piece of entry.content) hasher.update(piece);
  const nowhere = { blob: 0, index: 0, compressed: false, blobOffset: 0, blobSizeBytes: 0, deviceOffset: 0 };
  return [{ ...nowhere, digest: hasher.digest(), sizeBytes: entry.sizeBytes }];
}
