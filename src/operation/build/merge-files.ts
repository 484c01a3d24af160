import { basename } from "node:path";
import { keyOfBytes } from "../../base/bytes.ts";
import { NydusError } from "../../base/errors.ts";
import type { Compressor, Digester } from "../../format/codec/codecs.ts";
import { BLOB_FEATURES, type BlobRecord, hasFeature, INLINE_BLOB_ID } from "../../format/rafs/blob-table.ts";
import type { RafsImage } from "../../format/rafs/image.ts";
import { readTree } from "../../format/rafs/read-tree.ts";
import { encodeBootstrap } from "../../format/rafs/writer.ts";
import type { ChunkRecord, TreeNode } from "../../format/tree/node.ts";
import { mergeLayers } from "../../format/tree/overlay.ts";
import { findNode } from "../../format/tree/resolve.ts";

const BLOB_ID = /^[0-9a-f]{64}$/;

/** A tree, and the blobs that its chunks name by their places. */
export interface MergedTree {
  readonly root: TreeNode;
  readonly blobs: readonly BlobRecord[];
}

/** What is known of a layer's own blob beside its bootstrap: each overrides what that says. */
export interface LayerBlob {
  /** 64 hex digits. */
  readonly id?: string | undefined;
  readonly sizeBytes?: number | undefined;
  /** SHA-256 of its table of contents, 32 bytes. */
  readonly tocDigest?: Uint8Array | undefined;
  readonly tocBytes?: number | undefined;
}

/** A bootstrap to be merged. */
export interface LayerBootstrap {
  /** Its file: a layer's bootstrap, which cannot know its blob's digest, is named by that. */
  readonly path: string;
  readonly image: RafsImage;
  readonly blob?: LayerBlob;
}

/** What a merge makes. */
export interface MergedBootstrap {
  readonly bootstrap: Uint8Array;
  /** In the order of its device table. */
  readonly blobs: readonly BlobRecord[];
  readonly compressor: Compressor;
}

/** How bootstraps are merged. */
export interface MergeFilesOptions {
  /** What all of them lie on. */
  readonly parent?: RafsImage | undefined;
  /** Ids of the blobs of the dictionary that the layers were built with: these are no layer's own. */
  readonly dictBlobs?: ReadonlySet<string> | undefined;
  readonly prefetchPaths: readonly Uint8Array[];
}

/** Every inode of a tree, once for each of its names. */
export function* eachNode(root: TreeNode): Generator<TreeNode> {
  const ahead = [root];
  for (let node = ahead.pop(); node !== undefined; node = ahead.pop()) {
    yield node;
    ahead.push(...node.children.values());
  }
}

/**
 * Merges the bootstraps of layers, the bottom one first, whoever built them. Blobs that no visible file needs are left
 * out; equal chunks point at the lowest layer's copy.
 * @throws EINVAL none, a layer whose blob has no name, other chunk sizes or digesters; EUCLEAN damaged bootstraps, or
 *   layers that cannot lie on one another; ENOTSUP more than RAFS v6 holds
 */
export function mergeBootstraps(layers: readonly LayerBootstrap[], options: MergeFilesOptions): MergedBootstrap {
  const images = [...(options.parent === undefined ? [] : [options.parent]), ...layers.map(({ image }) => image)];
  const { chunkBytes, digester } = agreed(images);
  const compressor = images.at(-1)?.compressor ?? "none";
  const parts = layers.map((layer) => readLayer(layer, options.dictBlobs ?? new Set()));
  const parent = options.parent && { root: readTree(options.parent), blobs: options.parent.blobs };
  const { root, blobs } = mergeParts(parent === undefined ? parts : [parent, ...parts]);
  const prefetch = [...new Set(options.prefetchPaths.flatMap((path) => findNode(root, path) ?? []))];
  const bootstrap = encodeBootstrap({ root, blobs, chunkBytes, compressor, digester, prefetch });
  return { bootstrap, blobs, compressor };
}

/** What all images with data have in common. @throws EINVAL none, or images that differ */
function agreed(images: readonly RafsImage[]): { readonly chunkBytes: number; readonly digester: Digester } {
  const [first] = images;
  if (first === undefined) throw new NydusError("EINVAL", "Cannot merge bootstraps: there is none");
  const [wanted = first, ...others] = images.filter(({ blobs }) => blobs.length > 0);
  for (const { chunkBytes, digester } of others) {
    if (chunkBytes === wanted.chunkBytes && digester === wanted.digester) continue;
    const found = `chunks of ${chunkBytes} bytes by ${digester} and of ${wanted.chunkBytes} by ${wanted.digester}`;
    throw new NydusError("EINVAL", `Cannot merge bootstraps: ${found}`);
  }
  return wanted;
}

function readLayer(layer: LayerBootstrap, dictBlobs: ReadonlySet<string>): MergedTree {
  const own = layer.image.blobs.filter(({ id }) => !dictBlobs.has(id));
  if (own.length > 1) {
    const found = `${own.length} blobs that are in no chunk dictionary`;
    throw new NydusError("EINVAL", `Cannot merge layer: it has ${found}`, { path: layer.path });
  }
  const blobs = layer.image.blobs.map((blob) => (blob === own[0] ? ownBlob(blob, layer) : blob));
  return { root: readTree(layer.image), blobs };
}

/** The row of a layer's own blob as the merged bootstrap has it. */
function ownBlob(row: BlobRecord, { path, blob = {} }: LayerBootstrap): BlobRecord {
  const isInline = hasFeature(row, BLOB_FEATURES.inlinedFsMeta) || row.id === INLINE_BLOB_ID;
  const id = blob.id ?? (isInline ? basename(path) : row.id);
  if (!BLOB_ID.test(id)) {
    const found = `${JSON.stringify(id)} is not 64 hex digits`;
    throw new NydusError("EINVAL", `Cannot name the layer's blob: ${found}; name its bootstrap by them`, { path });
  }
  return {
    ...row,
    id,
    features: row.features & ~BLOB_FEATURES.inlinedFsMeta,
    compressedBytes: blob.sizeBytes ?? row.compressedBytes,
    tocDigest: blob.tocDigest ?? row.tocDigest,
    tocBytes: blob.tocBytes ?? row.tocBytes,
  };
}

/** Merges trees with their blobs; the result has only blobs that its tree needs. */
export function mergeParts(parts: readonly MergedTree[]): MergedTree {
  const all = [...new Map(parts.flatMap(({ blobs }) => blobs).map((blob) => [blob.id, blob])).values()];
  const tree = mergeTrees(parts, all);
  const used = new Set<number>();
  for (const node of eachNode(tree)) for (const { blob } of node.chunks) used.add(blob);
  const blobs = all.filter((_, place) => used.has(place));
  return { root: blobs.length === all.length ? tree : mergeTrees(parts, blobs), blobs };
}

/** Merges; chunks name their blob by its place in `blobs`. */
function mergeTrees(parts: readonly MergedTree[], blobs: readonly BlobRecord[]): TreeNode {
  const places = new Map(blobs.map(({ id }, place) => [id, place]));
  const copies = new Map<string, ChunkRecord>();
  return mergeLayers(
    parts.map(({ root }) => root),
    {
      remapChunk(chunk, layer) {
        const key = keyOfBytes(chunk.digest);
        const known = copies.get(key);
        if (known !== undefined && known.sizeBytes === chunk.sizeBytes) return known;
        const id = parts[layer]?.blobs[chunk.blob]?.id;
        // A blob that is not listed is named by files only that a higher layer hides.
        const moved = { ...chunk, blob: (id === undefined ? undefined : places.get(id)) ?? 0 };
        copies.set(key, moved);
        return moved;
      },
    },
  );
}
