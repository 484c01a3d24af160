import { BLOB_FEATURES, type BlobInfo, hasFeature } from "../../format/rafs/blob-table.ts";

/** Names of features, as nydus-image has them, in its order. */
const NAMES: readonly (readonly [keyof typeof BLOB_FEATURES, string])[] = [
  ["aligned", "aligned"],
  ["batch", "batch"],
  ["capTarToc", "cap_toc"],
  ["inlinedChunkDigest", "chunk-digest"],
  ["chunkInfoV2", "chunk-v2"],
  ["inlinedFsMeta", "fs-meta"],
  ["separate", "separate"],
  ["hasTarHeader", "tar-header"],
  ["hasToc", "toc"],
  ["zran", "zran"],
  ["encrypted", "encrypted"],
];

/** A blob's features by their names. */
export function featureNames(blob: BlobInfo): string {
  const names = NAMES.filter(([feature]) => hasFeature(blob, BLOB_FEATURES[feature]));
  return names.map(([, name]) => name).join(" ");
}
