import { NydusError } from "../../base/errors.ts";
import { bytes, type StructOf, struct, u8, u16, u32, u64n } from "../../base/struct.ts";

/** Where the superblock lies in the image, bytes. */
export const SUPER_OFFSET = 1024;

/** Little-endian magic of an EROFS superblock. */
export const SUPER_MAGIC = 0xe0f5e1e2;

/** Bytes of one slot of the inode area: a nid counts these. */
export const SLOT_BYTES = 32;

/** The only block size this program takes, as a shift: 4096 bytes. */
export const BLOCK_BITS = 12;

/** RAFS v6: an extended superblock follows the superblock. */
export const FEATURE_COMPAT_RAFS_V6 = 0x4000_0000;

const FEATURE_INCOMPAT_LZ4_0PADDING = 0x1;
export const FEATURE_INCOMPAT_CHUNKED_FILE = 0x4;
export const FEATURE_INCOMPAT_DEVICE_TABLE = 0x8;

/** Zero padding alone changes nothing: compressed inodes are refused one by one. */
const INCOMPAT_KNOWN = FEATURE_INCOMPAT_LZ4_0PADDING | FEATURE_INCOMPAT_CHUNKED_FILE | FEATURE_INCOMPAT_DEVICE_TABLE;

/** The superblock without extension slots. @see erofs_fs.h erofs_super_block */
export const SuperBlock = struct("erofs_super_block", 128, {
  magic: [0, u32],
  checksum: [4, u32],
  featureCompat: [8, u32],
  blkszbits: [12, u8],
  sbExtslots: [13, u8],
  rootnid2b: [14, u16],
  inos: [16, u64n],
  epoch: [24, u64n],
  fixedNsec: [32, u32],
  blocksLo: [36, u32],
  metaBlkaddr: [40, u32],
  xattrBlkaddr: [44, u32],
  uuid: [48, bytes(16)],
  volumeName: [64, bytes(16)],
  featureIncompat: [80, u32],
  u1: [84, u16],
  extraDevices: [86, u16],
  devtSlotoff: [88, u16],
  dirblkbits: [90, u8],
  xattrPrefixCount: [91, u8],
  xattrPrefixStart: [92, u32],
  packedNid: [96, u64n],
  xattrFilterReserved: [104, u8],
  isharePrefixId: [105, u8],
  reserved: [106, bytes(2)],
  buildTime: [108, u32],
  rootnid8b: [112, u64n],
  reserved2: [120, u64n],
});
export type SuperBlock = StructOf<typeof SuperBlock>;

/** Whether the bytes begin like an EROFS image: enough for the superblock and its magic. */
export function isErofs(image: Uint8Array): boolean {
  if (image.length < SUPER_OFFSET + SuperBlock.sizeBytes) return false;
  return SuperBlock.read(image, SUPER_OFFSET).magic === SUPER_MAGIC;
}

/**
 * The superblock of an image, checked for what this reader knows.
 * The checksum is not verified: RAFS leaves it zero and its digest covers the whole image.
 * @throws EUCLEAN no magic or too short; ENOTSUP features or a block size that are not read here
 */
export function decodeSuperblock(image: Uint8Array): SuperBlock {
  const sb = SuperBlock.read(image, SUPER_OFFSET);
  const at = (field: keyof typeof SuperBlock.at): { offset: number } => ({
    offset: SUPER_OFFSET + SuperBlock.at[field],
  });
  if (sb.magic !== SUPER_MAGIC) {
    const found = `0x${sb.magic.toString(16)}`;
    throw new NydusError("EUCLEAN", `Cannot decode superblock: magic ${found}, wanted 0xe0f5e1e2`, at("magic"));
  }
  if (sb.blkszbits !== BLOCK_BITS) {
    const message = `Cannot read image: blocks of 2^${sb.blkszbits} bytes, only 2^${BLOCK_BITS} are supported`;
    const known = sb.blkszbits >= 9 && sb.blkszbits <= 16;
    throw new NydusError(known ? "ENOTSUP" : "EUCLEAN", message, at("blkszbits"));
  }
  const unknown = sb.featureIncompat & ~INCOMPAT_KNOWN;
  if (unknown !== 0) {
    const bits = `0x${(unknown >>> 0).toString(16)}`;
    throw new NydusError("ENOTSUP", `Cannot read image: incompatible features ${bits}`, at("featureIncompat"));
  }
  if (sb.dirblkbits !== 0) {
    throw new NydusError("ENOTSUP", `Cannot read image: directory block bits ${sb.dirblkbits}`, at("dirblkbits"));
  }
  if (BigInt(sb.metaBlkaddr) << BigInt(BLOCK_BITS) >= image.length) {
    const message = `Cannot decode superblock: metadata block ${sb.metaBlkaddr} is past the end, ${image.length} bytes`;
    throw new NydusError("EUCLEAN", message, at("metaBlkaddr"));
  }
  return sb;
}
