import { NydusError } from "../../base/errors.ts";
import { bytes, type StructOf, struct, u16, u32 } from "../../base/struct.ts";
import { FEATURE_INCOMPAT_DEVICE_TABLE, type SuperBlock } from "./superblock.ts";

/** One row of the device table. @see erofs_fs.h erofs_deviceslot */
export const DeviceSlot = struct("erofs_deviceslot", 128, {
  tag: [0, bytes(64)],
  blocksLo: [64, u32],
  uniaddrLo: [68, u32],
  blocksHi: [72, u16],
  uniaddrHi: [74, u16],
  reserved: [76, bytes(52)],
});
export type DeviceSlot = StructOf<typeof DeviceSlot>;

/** Where one chunk of a chunk-based file lies. @see erofs_fs.h erofs_inode_chunk_index */
export const ChunkIndex = struct("erofs_inode_chunk_index", 8, {
  startblkHi: [0, u16],
  deviceId: [2, u16],
  startblkLo: [4, u32],
});
export type ChunkIndex = StructOf<typeof ChunkIndex>;

/** Bits of a chunk-based inode's `i_u`: log2 of blocks a chunk. */
export const CHUNK_FORMAT_BLKBITS_MASK = 0x1f;
/** 8-byte chunk indexes rather than 4-byte block numbers. */
export const CHUNK_FORMAT_INDEXES = 0x20;
/** `startblk_lo` of a hole. */
export const NULL_BLKADDR = 0xffff_ffff;

/** A device of the image: for RAFS the uncompressed address space of one blob. */
export interface Device {
  /** 1-based, as chunk indexes store it. */
  readonly slot: number;
  /** What the tag says up to its first NUL, latin-1: for RAFS the blob id. */
  readonly tag: string;
  /** 0 when the image does not say (mkfs.erofs 1.5); never so in RAFS. */
  readonly blocks: number;
  /** First block in the unified address space; 0 when the device has none. */
  readonly uniaddr: number;
}

/** The bits of `device_id` that name a device; RAFS packs others above them, as the kernel lets it. */
export function deviceIdMask(extraDevices: number): number {
  let power = 1;
  while (power < extraDevices + 1) power *= 2;
  return power - 1;
}

/**
 * The device table, in the order of slots.
 * @throws EUCLEAN when it does not fit into the image
 */
export function decodeDevices(image: Uint8Array, sb: SuperBlock): Device[] {
  if ((sb.featureIncompat & FEATURE_INCOMPAT_DEVICE_TABLE) === 0) return [];
  const start = sb.devtSlotoff * DeviceSlot.sizeBytes;
  const length = sb.extraDevices * DeviceSlot.sizeBytes;
  if (start + length > image.length) {
    const message = `Cannot decode device table: ${sb.extraDevices} slots end past the image, ${image.length} bytes`;
    throw new NydusError("EUCLEAN", message, { offset: start, length });
  }
  return Array.from({ length: sb.extraDevices }, (_, i) => {
    const slot = DeviceSlot.read(image, start + i * DeviceSlot.sizeBytes);
    const nul = slot.tag.indexOf(0);
    return {
      slot: i + 1,
      tag: String.fromCharCode(...(nul < 0 ? slot.tag : slot.tag.subarray(0, nul))),
      blocks: slot.blocksLo,
      uniaddr: slot.uniaddrLo,
    };
  });
}
