import { alignUp, viewOf } from "../../base/bytes.ts";
import type { ChunkRecord } from "../tree/node.ts";
import { CHUNK_FORMAT_INDEXES, ChunkIndex, DeviceSlot } from "./device.ts";
import { Dirent, FILE_TYPES } from "./dirent.ts";
import { encodeRdev, FORMAT_EXTENDED, FORMAT_LAYOUT_SHIFT, InodeExtended, LAYOUT, MODE_TYPES } from "./inode.ts";
import { type ErofsPlan, entriesOf, type PlannedInode, tailBytes } from "./plan.ts";
import { BLOCK_BITS, SUPER_MAGIC, SUPER_OFFSET, SuperBlock } from "./superblock.ts";
import { xattrIcount } from "./xattr.ts";

const BLOCK_BYTES = 2 ** BLOCK_BITS;

/** What the writer asks of whoever knows the chunks. */
export interface ChunkEncoder {
  /** Bytes of a chunk of this file as EROFS sees it: a power of two, 4096 or more. */
  chunkBytes(chunks: readonly ChunkRecord[], sizeBytes: number): number;
  /** The index of one chunk. */
  index(chunk: ChunkRecord): ChunkIndex;
}

/** Writes the inodes, directories and link targets of a plan into the image. */
export function emitErofs(image: Uint8Array, plan: ErofsPlan, encoder: ChunkEncoder): void {
  for (const inode of plan.inodes) {
    emitInode(image, inode, inodeU(inode, encoder));
    const body = inode.offset + InodeExtended.sizeBytes + inode.xattrs.length;
    if (inode.node.type === "file") emitChunks(image, body, inode.node.chunks, encoder);
    else if (inode.node.type === "symlink") emitFlat(image, inode, inode.node.target);
    else if (inode.node.type === "dir") emitFlat(image, inode, encodeDirectory(plan, inode));
  }
}

function emitInode(image: Uint8Array, inode: PlannedInode, u: number): void {
  const { node } = inode;
  InodeExtended.write(image, inode.offset, {
    iFormat: FORMAT_EXTENDED | (inode.layout << FORMAT_LAYOUT_SHIFT),
    iXattrIcount: xattrIcount(inode.xattrs),
    iMode: MODE_TYPES[node.type] | node.mode,
    iSize: inode.sizeBytes,
    iU: u,
    iIno: inode.ino,
    iUid: node.uid,
    iGid: node.gid,
    iMtime: BigInt.asUintN(64, BigInt(node.mtimeSec)),
    iMtimeNsec: node.mtimeNsec,
    iNlink: inode.nlink,
  });
  image.set(inode.xattrs, inode.offset + InodeExtended.sizeBytes);
}

/** `i_u`: chunk format, device number, or first block of flat data. */
function inodeU(inode: PlannedInode, encoder: ChunkEncoder): number {
  const { node } = inode;
  if (node.type === "char" || node.type === "block") return encodeRdev(node.rdevMajor, node.rdevMinor);
  if (inode.layout !== LAYOUT.chunkBased) return (inode.blocksOffset ?? 0) / BLOCK_BYTES;
  const chunkBytes = encoder.chunkBytes(node.chunks, node.sizeBytes);
  return CHUNK_FORMAT_INDEXES | (Math.log2(chunkBytes) - BLOCK_BITS);
}

function emitChunks(image: Uint8Array, body: number, chunks: readonly ChunkRecord[], encoder: ChunkEncoder): void {
  let at = alignUp(body, ChunkIndex.sizeBytes);
  for (const chunk of chunks) {
    ChunkIndex.write(image, at, encoder.index(chunk));
    at += ChunkIndex.sizeBytes;
  }
}

/** Full blocks where the plan has them, the rest behind the inode. */
function emitFlat(image: Uint8Array, inode: PlannedInode, data: Uint8Array): void {
  const full = data.length - tailBytes(inode);
  if (inode.blocksOffset !== undefined) image.set(data.subarray(0, full), inode.blocksOffset);
  image.set(data.subarray(full), inode.offset + InodeExtended.sizeBytes + inode.xattrs.length);
}

/** The blocks of a directory: in each the entries, then their names; zeros fill a block that is not the last. */
function encodeDirectory(plan: ErofsPlan, dir: PlannedInode): Uint8Array {
  const data = new Uint8Array(dir.sizeBytes);
  const view = viewOf(data);
  let block: { name: Uint8Array; nid: number; type: number }[] = [];
  let blockStart = 0;
  let used = 0;
  const flush = (): void => {
    let nameoff = block.length * Dirent.sizeBytes;
    block.forEach(({ name, nid, type }, i) => {
      const at = blockStart + i * Dirent.sizeBytes;
      view.setBigUint64(at + Dirent.at.nid, BigInt(nid), true);
      view.setUint16(at + Dirent.at.nameoff, nameoff, true);
      view.setUint8(at + Dirent.at.fileType, type);
      data.set(name, blockStart + nameoff);
      nameoff += name.length;
    });
    block = [];
  };
  for (const { name, node } of entriesOf(dir)) {
    const bytes = Dirent.sizeBytes + name.length;
    if (used + bytes > BLOCK_BYTES) {
      flush();
      blockStart += BLOCK_BYTES;
      used = 0;
    }
    used += bytes;
    block.push({ name, nid: plan.nidOf(node), type: FILE_TYPES[node.type] });
  }
  flush();
  return data;
}

/** What differs between superblocks that this program writes. */
export interface SuperblockFields {
  readonly rootNid: number;
  readonly inodeCount: number;
  readonly metaBlkaddr: number;
  /** Blocks of all devices together. */
  readonly blocks: number;
  readonly devices: number;
  /** Bytes from the image's start. */
  readonly deviceTableOffset: number;
  readonly featureCompat: number;
  readonly featureIncompat: number;
}

/** Writes the superblock: no checksum (RAFS wants 0), no uuid, build time 0, so that equal trees give equal bytes. */
export function emitSuperblock(image: Uint8Array, fields: SuperblockFields): void {
  SuperBlock.write(image, SUPER_OFFSET, {
    magic: SUPER_MAGIC,
    featureCompat: fields.featureCompat,
    blkszbits: BLOCK_BITS,
    rootnid2b: fields.rootNid,
    inos: BigInt(fields.inodeCount),
    blocksLo: fields.blocks,
    metaBlkaddr: fields.metaBlkaddr,
    featureIncompat: fields.featureIncompat,
    extraDevices: fields.devices,
    devtSlotoff: fields.deviceTableOffset / DeviceSlot.sizeBytes,
  });
}
