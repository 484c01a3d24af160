import { keyOfBytes } from "../../base/bytes.ts";
import type { BlobRecord } from "../../format/rafs/blob-table.ts";
import { encodeBootstrap, replaceOnlyBlob } from "../../format/rafs/writer.ts";
import { HARDLINK_XATTR, isImplicit, isWhiteoutName, isWhiteoutNode } from "../../format/tree/markers.ts";
import type { ChunkRecord, TreeNode } from "../../format/tree/node.ts";
import { mergeLayers } from "../../format/tree/overlay.ts";
import { findNode } from "../../format/tree/resolve.ts";
import type { WrittenBlob } from "./blob-writer.ts";
import type { ChunkOptions } from "./chunk-pipeline.ts";
import type { BuiltLayer } from "./layer.ts";

/** A stack of layers as one file system. */
export interface MergedImage {
  /** The bootstrap, a multiple of 4096 bytes. */
  readonly bootstrap: Uint8Array;
  /** The blobs that it refers to, in the order of its device table. */
  readonly blobs: readonly DataBlob[];
  /** How many of the paths to prefetch the image has. */
  readonly prefetched: number;
}

/** How layers are merged. */
export interface MergeOptions extends ChunkOptions {
  /** Paths whose data readers are to fetch first, in this order; those that the image lacks are passed over. */
  readonly prefetchPaths?: readonly Uint8Array[] | undefined;
}

/**
 * Merges layers, the bottom one first. Equal chunks of different layers point at the lowest layer's copy; blobs that
 * no visible file needs are left out of the device table.
 * @throws EUCLEAN layers that cannot lie on one another; ENOTSUP more than RAFS v6 holds
 */
export function mergeBuiltLayers(layers: readonly BuiltLayer[], options: MergeOptions): MergedImage {
  const [only, ...others] = layers;
  const alone = only !== undefined && others.length === 0 ? mergedAlone(only, options) : undefined;
  if (alone !== undefined) return alone;
  const all = blobsWithData(layers);
  const tree = mergeTrees(layers, all);
  const used = usedBlobs(tree);
  const blobs = all.filter((_, i) => used.has(i));
  const { chunkBytes, compressor, digester, prefetchPaths = [] } = options;
  const root = blobs.length === all.length ? tree : mergeTrees(layers, blobs);
  const prefetch = [...new Set(prefetchPaths.flatMap((path) => findNode(root, path) ?? []))];
  const bootstrap = encodeBootstrap({
    root,
    prefetch,
    blobs: blobs.map((blob) => blob.record),
    chunkBytes,
    compressor,
    digester,
  });
  return { bootstrap, blobs, prefetched: prefetch.length };
}

/**
 * The image of one layer that has nothing to merge: its own bootstrap with the blob named, which on one core saves the
 * end of a conversion half of its time. Undefined where merging changes more.
 */
function mergedAlone({ tree, blob, bootstrap }: BuiltLayer, options: MergeOptions): MergedImage | undefined {
  const { record } = blob;
  const asks = (options.prefetchPaths?.length ?? 0) > 0;
  if (bootstrap === undefined || record === undefined || asks || !isMerged(tree)) return undefined;
  const named = bootstrap.slice();
  replaceOnlyBlob(named, record);
  return { bootstrap: named, blobs: [{ ...blob, record }], prefetched: 0 };
}

/** Whether a layer's tree is what it looks like alone: no whiteout, no marker, and a file that needs the blob. */
function isMerged(root: TreeNode): boolean {
  if (isImplicit(root)) return false;
  let hasData = false;
  const ahead = [root];
  for (let dir = ahead.pop(); dir !== undefined; dir = ahead.pop()) {
    for (const [name, node] of dir.children) {
      if (isWhiteoutName(name) || isWhiteoutNode(node) || isImplicit(node)) return false;
      if (node.type === "dir") ahead.push(node);
      else if (node.xattrs.has(HARDLINK_XATTR)) return false;
      hasData ||= node.chunks.length > 0;
    }
  }
  return hasData;
}

type DataBlob = WrittenBlob & { readonly record: BlobRecord };

/** The blobs that have data, in the order of the layers; a layer that occurs twice has one. */
function blobsWithData(layers: readonly BuiltLayer[]): DataBlob[] {
  const blobs = layers.map((layer) => layer.blob).filter((blob): blob is DataBlob => blob.record !== undefined);
  return [...new Map(blobs.map((blob) => [blob.digest, blob])).values()];
}

/** Merges; chunks name their blob by its place in `blobs`. */
function mergeTrees(layers: readonly BuiltLayer[], blobs: readonly DataBlob[]): TreeNode {
  const numbers = new Map(blobs.map((blob, i) => [blob.digest, i]));
  const copies = new Map<string, ChunkRecord>();
  return mergeLayers(
    layers.map((layer) => layer.tree),
    {
      remapChunk(chunk, layer) {
        const key = keyOfBytes(chunk.digest);
        const known = copies.get(key);
        if (known !== undefined && known.sizeBytes === chunk.sizeBytes) return known;
        // A blob that is not listed is named by files only that a higher layer hides.
        const blob = numbers.get((layers[layer] as BuiltLayer).blob.digest) ?? 0;
        const moved = blob === chunk.blob ? chunk : { ...chunk, blob };
        copies.set(key, moved);
        return moved;
      },
    },
  );
}

function usedBlobs(root: TreeNode): ReadonlySet<number> {
  const used = new Set<number>();
  const ahead = [root];
  for (let node = ahead.pop(); node !== undefined; node = ahead.pop()) {
    for (const chunk of node.chunks) used.add(chunk.blob);
    for (const child of node.children.values()) ahead.push(child);
  }
  return used;
}
