import { alignUp, BLOCK_BYTES, bytesOfKey, viewOf } from "../../base/bytes.ts";
import { NydusError } from "../../base/errors.ts";
import type { Compressor, Digester } from "../codec/codecs.ts";
import { type ChunkIndex, DeviceSlot } from "../erofs/device.ts";
import { type ErofsPlan, planErofs } from "../erofs/plan.ts";
import {
  FEATURE_COMPAT_RAFS_V6,
  FEATURE_INCOMPAT_CHUNKED_FILE,
  FEATURE_INCOMPAT_DEVICE_TABLE,
} from "../erofs/superblock.ts";
import { type ChunkEncoder, emitErofs, emitSuperblock } from "../erofs/writer.ts";
import type { ChunkRecord, TreeNode } from "../tree/node.ts";
import { BLOB_FEATURES, BLOB_LIMITS, type BlobRecord, encodeBlobRow, hasFeature, RafsBlob } from "./blob-table.ts";
import { encodeChunk, RafsChunk } from "./chunk-table.ts";
import {
  CHUNK_BYTES_LIMITS,
  COMPRESSORS,
  DEVICE_TABLE_OFFSET,
  DIGESTERS,
  EXT_OFFSET,
  RafsSuperBlockExt,
  SUPER_FLAGS,
} from "./superblock.ts";

/** nydusd maps devices into one address space at multiples of this, bytes. */
const UNIADDR_ALIGN_BYTES = 0x8_0000;
const U32_LIMIT = 2 ** 32 - 1;
const ROOT_NID_LIMIT = 0xffff;
const NID_BYTES = 4;

/** What a bootstrap is made of. */
export interface BootstrapOptions {
  readonly root: TreeNode;
  /** Chunks of the tree name these by position. Every blob must have a chunk (the format has no empty device). */
  readonly blobs: readonly BlobRecord[];
  readonly chunkBytes: number;
  readonly compressor: Compressor;
  readonly digester: Digester;
  /** Nodes whose data is wanted first. */
  readonly prefetch?: readonly TreeNode[];
}

/**
 * A RAFS v6 bootstrap: the kernel's EROFS, nydusd and `nydus-image check` read it. The same tree and blobs give the
 * same bytes. The chunk table has one row for each chunk that some file has, by blob and device offset.
 * @returns a multiple of 4096 bytes
 * @throws EINVAL chunks that do not make up their file or are not in their blob; ENOTSUP what the format cannot hold
 */
export function encodeBootstrap(options: BootstrapOptions): Uint8Array {
  checkOptions(options);
  const { blobs } = options;
  const deviceTableEnd = DEVICE_TABLE_OFFSET + blobs.length * DeviceSlot.sizeBytes;
  const blobTable = { offset: alignUp(deviceTableEnd, BLOCK_BYTES), length: blobs.length * RafsBlob.sizeBytes };
  const prefetchTable = {
    offset: blobTable.offset + blobTable.length,
    length: blobs.length === 0 ? 0 : (options.prefetch?.length ?? 0) * NID_BYTES,
  };
  const plan = planErofs(options.root, alignUp(prefetchTable.offset + prefetchTable.length, BLOCK_BYTES));
  const chunks = collectChunks(plan, options);
  const chunkTable = { offset: plan.end, length: chunks.length * RafsChunk.sizeBytes };
  const image = new Uint8Array(alignUp(chunkTable.offset + chunkTable.length, BLOCK_BYTES));

  emitErofs(image, plan, chunkEncoder(options.chunkBytes));
  chunks.forEach((row, i) => {
    encodeChunk(image, chunkTable.offset + i * RafsChunk.sizeBytes, row);
  });
  blobs.forEach((blob, index) => {
    encodeBlobRow(image, blobTable.offset + index * RafsBlob.sizeBytes, { blob, index });
  });
  emitPrefetch(image, prefetchTable, plan, options.prefetch ?? []);
  const blocks = emitDevices(image, blobs);
  emitSuperblock(image, {
    rootNid: rootNid(plan, options.root),
    inodeCount: plan.inodes.length,
    metaBlkaddr: plan.metaBlkaddr,
    blocks,
    devices: blobs.length,
    deviceTableOffset: DEVICE_TABLE_OFFSET,
    featureCompat: FEATURE_COMPAT_RAFS_V6,
    featureIncompat: FEATURE_INCOMPAT_CHUNKED_FILE | FEATURE_INCOMPAT_DEVICE_TABLE,
  });
  RafsSuperBlockExt.write(image, EXT_OFFSET, {
    sFlags: superFlags(options, plan),
    sBlobTableOffset: blobTable.offset,
    sBlobTableSize: blobTable.length,
    sChunkSize: options.chunkBytes,
    sChunkTableOffset: chunkTable.offset,
    sChunkTableSize: chunkTable.length,
    sPrefetchTableOffset: prefetchTable.length === 0 ? 0 : prefetchTable.offset,
    sPrefetchTableSize: prefetchTable.length,
  });
  return image;
}

/**
 * Makes the one blob of a bootstrap of {@link encodeBootstrap} another: the bytes are then those that the same tree and
 * options give with that blob.
 * @param blob equal to the old one in what decides about the tree: its device, its chunks and whether digests are inside
 */
export function replaceOnlyBlob(bootstrap: Uint8Array, blob: BlobRecord): void {
  bootstrap.set(bytesOfKey(blob.id), DEVICE_TABLE_OFFSET + DeviceSlot.at.tag);
  const blobTable = alignUp(DEVICE_TABLE_OFFSET + DeviceSlot.sizeBytes, BLOCK_BYTES);
  encodeBlobRow(bootstrap, blobTable, { blob, index: 0 });
}

function checkOptions({ blobs, chunkBytes }: BootstrapOptions): void {
  const { min, max } = CHUNK_BYTES_LIMITS;
  if (!(chunkBytes >= min && chunkBytes <= max) || !Number.isInteger(Math.log2(chunkBytes))) {
    throw new NydusError("EINVAL", `Cannot encode bootstrap: chunk size ${chunkBytes}`);
  }
  if (blobs.length > BLOB_LIMITS.blobs) {
    const found = `${blobs.length} blobs, at most ${BLOB_LIMITS.blobs} fit`;
    throw new NydusError("ENOTSUP", `Cannot encode bootstrap: ${found}`);
  }
  const ids = new Set(blobs.map((blob) => blob.id));
  if (ids.size !== blobs.length) throw new NydusError("EINVAL", "Cannot encode bootstrap: a blob is listed twice");
  for (const blob of blobs) {
    const sized = blob.deviceBytes > 0 && blob.chunkCount > 0 && blob.chunkBytes === chunkBytes;
    if (!sized) {
      const found = `${blob.deviceBytes} bytes in ${blob.chunkCount} chunks of at most ${blob.chunkBytes}`;
      throw new NydusError("EINVAL", `Cannot encode bootstrap: blob ${blob.id} has ${found}`);
    }
    if (blob.deviceBytes > BLOB_LIMITS.deviceBytes || blob.compressedBytes > BLOB_LIMITS.blobBytes) {
      throw new NydusError("ENOTSUP", `Cannot encode bootstrap: blob ${blob.id} is too large`);
    }
  }
}

function superFlags(options: BootstrapOptions, plan: ErofsPlan): bigint {
  const hasXattr = plan.inodes.some((inode) => inode.xattrs.length > 0);
  const inlinedDigests = options.blobs.every((blob) => hasFeature(blob, BLOB_FEATURES.inlinedChunkDigest));
  return (
    COMPRESSORS[options.compressor].flag |
    DIGESTERS[options.digester].flag |
    SUPER_FLAGS.explicitUidGid |
    SUPER_FLAGS.encryptionNone |
    (hasXattr ? SUPER_FLAGS.hasXattr : 0n) |
    (inlinedDigests ? SUPER_FLAGS.inlinedChunkDigest : 0n)
  );
}

function rootNid(plan: ErofsPlan, root: TreeNode): number {
  const nid = plan.nidOf(root);
  if (nid > ROOT_NID_LIMIT) throw new NydusError("ENOTSUP", `Cannot encode bootstrap: root nid ${nid} is above 65535`);
  return nid;
}

interface ChunkRow {
  readonly chunk: ChunkRecord;
  readonly fileOffset: number;
}

/** Every chunk that a file has, once, by blob and device offset. */
function collectChunks(plan: ErofsPlan, options: BootstrapOptions): ChunkRow[] {
  const rows = new Map<number, ChunkRow>();
  for (const { node } of plan.inodes) {
    if (node.type !== "file") continue;
    checkFile(node, options);
    node.chunks.forEach((chunk, i) => {
      const key = chunk.blob * BLOB_LIMITS.chunks + chunk.index;
      const known = rows.get(key);
      if (known === undefined) rows.set(key, { chunk, fileOffset: i * options.chunkBytes });
      else if (known.chunk.deviceOffset !== chunk.deviceOffset || known.chunk.sizeBytes !== chunk.sizeBytes) {
        throw new NydusError(
          "EINVAL",
          `Cannot encode bootstrap: chunk ${chunk.index} of blob ${chunk.blob} is two things`,
        );
      }
    });
  }
  const sorted = [...rows.values()];
  sorted.sort((a, b) => a.chunk.blob - b.chunk.blob || a.chunk.deviceOffset - b.chunk.deviceOffset);
  return sorted;
}

function checkFile(node: TreeNode, { blobs, chunkBytes }: BootstrapOptions): void {
  const count = Math.ceil(node.sizeBytes / chunkBytes);
  if (node.chunks.length !== count) {
    const found = `${node.chunks.length} chunks, ${node.sizeBytes} bytes make ${count}`;
    throw new NydusError("EINVAL", `Cannot encode file: ${found}`);
  }
  node.chunks.forEach((chunk, i) => {
    const sizeBytes = i < count - 1 ? chunkBytes : node.sizeBytes - (count - 1) * chunkBytes;
    const blob = blobs[chunk.blob];
    const fits =
      blob !== undefined &&
      chunk.sizeBytes === sizeBytes &&
      chunk.deviceOffset % BLOCK_BYTES === 0 &&
      chunk.deviceOffset + chunk.sizeBytes <= blob.deviceBytes &&
      chunk.index < BLOB_LIMITS.chunks;
    if (!fits) {
      const found = `chunk ${chunk.index} of blob ${chunk.blob}, ${chunk.sizeBytes} bytes at ${chunk.deviceOffset}`;
      throw new NydusError("EINVAL", `Cannot encode file: ${found}, does not fit the file or the blob`);
    }
  });
}

/**
 * RAFS packs the 24-bit number of the chunk in its blob around the kernel's fields: bits 0-15 into `startblk_hi`,
 * bits 16-23 into the high byte of the device id, which the kernel masks away.
 */
function chunkEncoder(chunkBytes: number): ChunkEncoder {
  return {
    chunkBytes: (chunks, sizeBytes) =>
      sizeBytes > chunkBytes && isContinuous(chunks, chunkBytes) ? 2 ** Math.ceil(Math.log2(sizeBytes)) : chunkBytes,
    index: (chunk): ChunkIndex => ({
      startblkHi: chunk.index & 0xffff,
      deviceId: ((chunk.index >>> 16) << 8) | (chunk.blob + 1),
      startblkLo: chunk.deviceOffset / BLOCK_BYTES,
    }),
  };
}

/** A file whose chunks lie end to end in one device is one large chunk for EROFS; every index is stored still. */
function isContinuous(chunks: readonly ChunkRecord[], chunkBytes: number): boolean {
  const [first] = chunks;
  return chunks.every(
    (chunk, i) => chunk.blob === first?.blob && chunk.deviceOffset === first.deviceOffset + i * chunkBytes,
  );
}

function emitPrefetch(
  image: Uint8Array,
  table: { readonly offset: number; readonly length: number },
  plan: ErofsPlan,
  nodes: readonly TreeNode[],
): void {
  if (table.length === 0) return;
  const view = viewOf(image);
  nodes.forEach((node, i) => {
    view.setUint32(table.offset + i * NID_BYTES, plan.nidOf(node), true);
  });
}

/** Writes the device table, one slot a blob; returns the blocks of all devices. */
function emitDevices(image: Uint8Array, blobs: readonly BlobRecord[]): number {
  let total = 0;
  let mapped = image.length;
  blobs.forEach((blob, i) => {
    const blocks = Math.ceil(blob.deviceBytes / BLOCK_BYTES);
    const uniaddr = alignUp(mapped, UNIADDR_ALIGN_BYTES) / BLOCK_BYTES;
    total += blocks;
    mapped = (uniaddr + blocks) * BLOCK_BYTES;
    if (total > U32_LIMIT || uniaddr + blocks > U32_LIMIT) {
      throw new NydusError("ENOTSUP", "Cannot encode bootstrap: blobs of more than 16 TiB together");
    }
    DeviceSlot.write(image, DEVICE_TABLE_OFFSET + i * DeviceSlot.sizeBytes, {
      tag: bytesOfKey(blob.id),
      blocksLo: blocks,
      uniaddrLo: uniaddr,
    });
  });
  return total;
}
