import { viewOf } from "../../base/bytes.ts";
import { NydusError } from "../../base/errors.ts";
import type { Compressor, Digester } from "../codec/codecs.ts";
import { ErofsReader } from "../erofs/reader.ts";
import { BLOB_LIMITS, type BlobInfo, decodeBlobTable } from "./blob-table.ts";
import type { ChunkMap } from "./chunk-map.ts";
import { decodeRafsSuperblock, type RafsSuperblock } from "./superblock.ts";
import { chunkMapOf, chunkTableRows } from "./table-map.ts";

/** An opened RAFS v6 bootstrap: a file system, and for each of its devices the blob and chunks behind it. */
export interface RafsImage {
  /** The bootstrap, which may be a mapping; never copied. */
  readonly bytes: Uint8Array;
  readonly erofs: ErofsReader;
  readonly superblock: RafsSuperblock;
  /** Largest chunk, bytes; every chunk of a file but its last has this size. */
  readonly chunkBytes: number;
  readonly compressor: Compressor;
  readonly digester: Digester;
  /** `blobs[i]` is behind device slot i + 1. */
  readonly blobs: readonly BlobInfo[];
  /** Nids whose data (of directories: all below) the builder wants first. */
  readonly prefetch: readonly number[];
  /**
   * Chunks of a blob by device offset: those that the bootstrap's chunk table has. They are the ones with a digest,
   * and, in bootstraps of nydus-image and of this program, exactly the ones that files reference (`checkBootstrap`
   * tells).
   * @param blobMeta content of the blob's `.blob.meta` file (`image/<id>.blob.meta` of a bootstrap layer, or made of
   *   the blob's tail by `encodeBlobMetaFile`); needed where {@link needsBlobMeta} says so, else ignored
   * @throws EUCLEAN damaged; EINVAL no such blob, or its meta is missing; ENOTSUP zran
   */
  chunkMap(blobIndex: number, blobMeta?: Uint8Array): ChunkMap;
}

/**
 * Opens a RAFS v6 bootstrap over its bytes.
 * @throws ENOTSUP RAFS v5, plain EROFS, tarfs, encryption; EUCLEAN damaged
 */
export function openRafs(bytes: Uint8Array): RafsImage {
  const superblock = decodeRafsSuperblock(bytes);
  const erofs = new ErofsReader(bytes);
  const blobs = decodeBlobTable(bytes, superblock.blobTable, superblock.chunkBytes);
  checkDevices(erofs, blobs);
  const table = { image: bytes, region: superblock.chunkTable };
  chunkTableRows(table);
  return {
    bytes,
    erofs,
    superblock,
    chunkBytes: superblock.chunkBytes,
    compressor: superblock.compressor,
    digester: superblock.digester,
    blobs,
    prefetch: decodePrefetch(bytes, superblock),
    chunkMap(blobIndex, blobMeta) {
      const blob = blobs[blobIndex];
      if (blob === undefined) {
        throw new NydusError("EINVAL", `Cannot map chunks: blob ${blobIndex} of ${blobs.length}`);
      }
      return chunkMapOf(table, blob, blobMeta);
    },
  };
}

/** Each blob has its device, of the same name and no shorter. */
function checkDevices(erofs: ErofsReader, blobs: readonly BlobInfo[]): void {
  if (blobs.length > BLOB_LIMITS.blobs || erofs.devices.length !== blobs.length) {
    const found = `${blobs.length} blobs and ${erofs.devices.length} devices`;
    throw new NydusError("EUCLEAN", `Cannot open bootstrap: ${found}`);
  }
  for (const blob of blobs) {
    const device = erofs.devices[blob.index];
    if (device?.tag !== blob.id) {
      throw new NydusError("EUCLEAN", `Cannot open bootstrap: device ${blob.deviceSlot} is not blob ${blob.id}`);
    }
    const excess = device.blocks * erofs.blockBytes - blob.deviceBytes;
    if (device.blocks < 1 || excess >= erofs.blockBytes) {
      const found = `device ${blob.deviceSlot} has ${device.blocks} blocks, its blob ${blob.deviceBytes} bytes`;
      throw new NydusError("EUCLEAN", `Cannot open bootstrap: ${found}`);
    }
  }
}

function decodePrefetch(bytes: Uint8Array, superblock: RafsSuperblock): number[] {
  const { offset, length } = superblock.prefetchTable;
  const view = viewOf(bytes);
  const nids = Array.from({ length: Math.floor(length / 4) }, (_, i) => view.getUint32(offset + 4 * i, true));
  return nids.filter((nid) => nid !== 0); // unused places are zero
}
