import { alignUp, setSafe64, viewOf } from "../../base/bytes.ts";
import type { ChunkRecord } from "../tree/node.ts";
import { CHUNK_FORMAT_INDEXES, ChunkIndex, DeviceSlot } from "./device.ts";
import { Dirent, FILE_TYPES } from "./dirent.ts";
import { encodeRdev, FORMAT_EXTENDED, FORMAT_LAYOUT_SHIFT, InodeExtended, LAYOUT, MODE_TYPES } from "./inode.ts";
import { type ErofsPlan, nodeOf, type PlannedInode, tailBytes } from "./plan.ts";
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

/** The image that is written: its bytes, zero still, and a view of them. */
interface Target {
  readonly image: Uint8Array;
  readonly view: DataView;
}

/** Writes the inodes, directories and link targets of a plan into the image, which is zero there. */
export function emitErofs(image: Uint8Array, plan: ErofsPlan, encoder: ChunkEncoder): void {
  const target: Target = { image, view: viewOf(image) };
  for (const inode of plan.inodes) {
    emitInode(target.view, inode, inodeU(inode, encoder));
    const body = inode.offset + InodeExtended.sizeBytes;
    if (inode.xattrs.length > 0) image.set(inode.xattrs, body);
    const { node } = inode;
    if (node.type === "file") emitChunks(target.view, body + inode.xattrs.length, node.chunks, encoder);
    else if (node.type === "symlink") emitFlat(image, inode, node.target);
    else if (node.type === "dir") emitDirectory(target, plan, inode);
  }
}

/** Field by field: a conversion writes each of its inodes twice, in code that is cold. */
function emitInode(view: DataView, inode: PlannedInode, u: number): void {
  const { node, offset } = inode;
  const { at } = InodeExtended;
  view.setUint16(offset + at.iFormat, FORMAT_EXTENDED | (inode.layout << FORMAT_LAYOUT_SHIFT), true);
  view.setUint16(offset + at.iXattrIcount, xattrIcount(inode.xattrs), true);
  view.setUint16(offset + at.iMode, MODE_TYPES[node.type] | node.mode, true);
  setSafe64(view, offset + at.iSize, inode.sizeBytes);
  view.setUint32(offset + at.iU, u, true);
  view.setUint32(offset + at.iIno, inode.ino, true);
  view.setUint32(offset + at.iUid, node.uid, true);
  view.setUint32(offset + at.iGid, node.gid, true);
  setSafe64(view, offset + at.iMtime, node.mtimeSec);
  view.setUint32(offset + at.iMtimeNsec, node.mtimeNsec, true);
  view.setUint32(offset + at.iNlink, inode.nlink, true);
}

/** `i_u`: chunk format, device number, or first block of flat data. */
function inodeU(inode: PlannedInode, encoder: ChunkEncoder): number {
  const { node } = inode;
  if (node.type === "char" || node.type === "block") return encodeRdev(node.rdevMajor, node.rdevMinor);
  if (inode.layout !== LAYOUT.chunkBased) return (inode.blocksOffset ?? 0) / BLOCK_BYTES;
  const chunkBytes = encoder.chunkBytes(node.chunks, node.sizeBytes);
  return CHUNK_FORMAT_INDEXES | (Math.log2(chunkBytes) - BLOCK_BITS);
}

function emitChunks(view: DataView, body: number, chunks: readonly ChunkRecord[], encoder: ChunkEncoder): void {
  let at = alignUp(body, ChunkIndex.sizeBytes);
  for (const chunk of chunks) {
    const { startblkHi, deviceId, startblkLo } = encoder.index(chunk);
    view.setUint16(at + ChunkIndex.at.startblkHi, startblkHi, true);
    view.setUint16(at + ChunkIndex.at.deviceId, deviceId, true);
    view.setUint32(at + ChunkIndex.at.startblkLo, startblkLo, true);
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
function emitDirectory(target: Target, plan: ErofsPlan, dir: PlannedInode): void {
  const full = dir.sizeBytes - tailBytes(dir);
  const tail = dir.offset + InodeExtended.sizeBytes + dir.xattrs.length;
  let first = 0;
  for (let block = 0; first < dir.names.length; block += BLOCK_BYTES) {
    const end = endOfBlock(dir.names, first);
    const at = block < full ? (dir.blocksOffset ?? 0) + block : tail;
    emitDirents(target, at, { plan, dir, first, end });
    first = end;
  }
}

/** The first name that does not fit into the block that begins with name `first`. */
function endOfBlock(names: readonly string[], first: number): number {
  let used = 0;
  for (let i = first; i < names.length; i++) {
    used += Dirent.sizeBytes + (names[i] as string).length;
    if (used > BLOCK_BYTES) return i;
  }
  return names.length;
}

/** Names of a directory, from `first` to `end`. */
interface DirentRun {
  readonly plan: ErofsPlan;
  readonly dir: PlannedInode;
  readonly first: number;
  readonly end: number;
}

function emitDirents({ image, view }: Target, block: number, { plan, dir, first, end }: DirentRun): void {
  let entry = block;
  let name = block + (end - first) * Dirent.sizeBytes;
  for (let i = first; i < end; i++) {
    const key = dir.names[i] as string;
    const node = nodeOf(dir, key);
    setSafe64(view, entry + Dirent.at.nid, plan.nidOf(node));
    view.setUint16(entry + Dirent.at.nameoff, name - block, true);
    view.setUint8(entry + Dirent.at.fileType, FILE_TYPES[node.type]);
    entry += Dirent.sizeBytes;
    for (let c = 0; c < key.length; c++) image[name++] = key.charCodeAt(c); // a latin-1 key: code units are bytes
  }
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
