import { readU64 } from "../../base/bytes.ts";
import { NydusError } from "../../base/errors.ts";
import { bytes, struct, u16, u32, u64, u64n } from "../../base/struct.ts";
import type { NodeType } from "../tree/node.ts";
import { SLOT_BYTES } from "./superblock.ts";

/** The 32-byte inode. @see erofs_fs.h erofs_inode_compact */
export const InodeCompact = struct("erofs_inode_compact", 32, {
  iFormat: [0, u16],
  iXattrIcount: [2, u16],
  iMode: [4, u16],
  iNlink: [6, u16],
  iSize: [8, u32],
  iMtime: [12, u32],
  iU: [16, u32],
  iIno: [20, u32],
  iUid: [24, u16],
  iGid: [26, u16],
  iReserved: [28, u32],
});

/** The 64-byte inode; the first 24 bytes but `i_size` lie as in the compact one. @see erofs_fs.h erofs_inode_extended */
export const InodeExtended = struct("erofs_inode_extended", 64, {
  iFormat: [0, u16],
  iXattrIcount: [2, u16],
  iMode: [4, u16],
  iNb: [6, u16],
  iSize: [8, u64],
  iU: [16, u32],
  iIno: [20, u32],
  iUid: [24, u32],
  iGid: [28, u32],
  iMtime: [32, u64n],
  iMtimeNsec: [40, u32],
  iNlink: [44, u32],
  iReserved2: [48, bytes(16)],
});

/** Where an inode's data is, as the on-disk numbers say. @see erofs_fs.h EROFS_INODE_* */
export const LAYOUT = { flatPlain: 0, compressedFull: 1, flatInline: 2, compressedCompact: 3, chunkBased: 4 } as const;

/** `i_format` of an extended inode has this bit. */
export const FORMAT_EXTENDED = 1;
/** Where the layout lies in `i_format`. */
export const FORMAT_LAYOUT_SHIFT = 1;
const FORMAT_LAYOUT_MASK = 0x7;
const FORMAT_KNOWN = 0xf;

/** File type bits of `st_mode`, by node type. */
export const MODE_TYPES = {
  fifo: 0o010000,
  char: 0o020000,
  dir: 0o040000,
  block: 0o060000,
  file: 0o100000,
  symlink: 0o120000,
  socket: 0o140000,
} as const satisfies Record<NodeType, number>;

const MODE_TYPE_SHIFT = 12;
const TYPE_OF_MODE: readonly (NodeType | undefined)[] = Array.from({ length: 16 }, (_, bits) =>
  (Object.keys(MODE_TYPES) as NodeType[]).find((type) => MODE_TYPES[type] === bits << MODE_TYPE_SHIFT),
);

/** Bytes of the header that begins an inline xattr area. */
const XATTR_HEADER_BYTES = 12;
const XATTR_UNIT_BYTES = 4;
const NSEC_LIMIT = 1_000_000_000;
const TWO_32 = 2 ** 32;

/** One inode, decoded: small, made anew for each call, kept by nobody. */
export interface Inode {
  /** Address of the inode: unique, what the kernel shows as `st_ino`. */
  readonly nid: number;
  /** The 32-bit number stored in the inode. */
  readonly ino: number;
  readonly type: NodeType;
  /** Permission bits, 0 to 0o7777. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly sizeBytes: number;
  /** Seconds since 1970, may be negative. */
  readonly mtimeSec: number;
  readonly mtimeNsec: number;
  readonly nlink: number;
  /** Of a device, else 0. */
  readonly rdevMajor: number;
  readonly rdevMinor: number;
  /** One of {@link LAYOUT}. */
  readonly layout: number;
  /** `i_u` as stored: first block, chunk format or device number. */
  readonly u: number;
  /** Byte offset of the inode in the image. */
  readonly offset: number;
  /** Byte offset of the inline xattr area. */
  readonly xattrOffset: number;
  /** Bytes of the inline xattr area, 0 for none. */
  readonly xattrBytes: number;
}

/** What decoding an inode needs of its image. */
export interface InodeArea {
  readonly view: DataView;
  /** Byte offset of nid 0. */
  readonly metaOffset: number;
  /** Base of compact inodes' times, seconds. */
  readonly epochSec: number;
  readonly fixedNsec: number;
}

/** Bytes of an inline xattr area of `icount` as `i_xattr_icount` has it. */
export function xattrAreaBytes(icount: number): number {
  return icount === 0 ? 0 : XATTR_HEADER_BYTES + (icount - 1) * XATTR_UNIT_BYTES;
}

/** Device number as the kernel's new_encode_dev() has it. */
export function encodeRdev(major: number, minor: number): number {
  return ((minor & 0xff) | (major << 8) | ((minor & ~0xff) << 12)) >>> 0;
}

/** Largest device numbers that {@link encodeRdev} holds. */
export const RDEV_LIMITS = { major: 0xfff, minor: 0xfffff } as const;

/**
 * Decodes the inode at `nid`.
 * @throws EUCLEAN outside the image, or fields no file system has; ENOTSUP compressed data or unknown format bits
 */
export function decodeInode(area: InodeArea, nid: number): Inode {
  const { view } = area;
  const offset = area.metaOffset + nid * SLOT_BYTES;
  if (!Number.isSafeInteger(nid) || nid < 0 || offset + InodeCompact.sizeBytes > view.byteLength) {
    throw new NydusError("EUCLEAN", `Cannot decode inode: nid ${nid} is outside the image`, { offset });
  }
  const format = view.getUint16(offset + InodeCompact.at.iFormat, true);
  const extended = (format & FORMAT_EXTENDED) !== 0;
  const inodeBytes = extended ? InodeExtended.sizeBytes : InodeCompact.sizeBytes;
  const xattrOffset = offset + inodeBytes;
  const xattrBytes = xattrAreaBytes(view.getUint16(offset + InodeCompact.at.iXattrIcount, true));
  if (xattrOffset + xattrBytes > view.byteLength) {
    throw new NydusError("EUCLEAN", `Cannot decode inode: nid ${nid} ends past the image`, { offset });
  }
  const layout = decodeLayout(format, nid, offset);
  const stMode = view.getUint16(offset + InodeCompact.at.iMode, true);
  const type = TYPE_OF_MODE[stMode >> MODE_TYPE_SHIFT];
  if (type === undefined) {
    throw new NydusError("EUCLEAN", `Cannot decode inode: mode 0o${stMode.toString(8)} has no file type`, { offset });
  }
  const u = view.getUint32(offset + InodeCompact.at.iU, true);
  const isDevice = type === "char" || type === "block";
  const sized = extended ? extendedFields(view, offset) : compactFields(area, offset);
  // Field by field: spreading takes several times as long, and this runs for every request of a mount.
  return {
    nid,
    ino: view.getUint32(offset + InodeCompact.at.iIno, true),
    type,
    mode: stMode & 0o7777,
    uid: sized.uid,
    gid: sized.gid,
    sizeBytes: sized.sizeBytes,
    mtimeSec: sized.mtimeSec,
    mtimeNsec: sized.mtimeNsec,
    nlink: sized.nlink,
    rdevMajor: isDevice ? (u & 0xfff00) >>> 8 : 0,
    rdevMinor: isDevice ? (u & 0xff) | ((u >>> 12) & 0xfff00) : 0,
    layout,
    u,
    offset,
    xattrOffset,
    xattrBytes,
  };
}

function decodeLayout(format: number, nid: number, offset: number): number {
  if ((format & ~FORMAT_KNOWN) !== 0) {
    throw new NydusError("ENOTSUP", `Cannot read inode: nid ${nid} has format 0x${format.toString(16)}`, { offset });
  }
  const layout = (format >> FORMAT_LAYOUT_SHIFT) & FORMAT_LAYOUT_MASK;
  if (layout === LAYOUT.compressedFull || layout === LAYOUT.compressedCompact) {
    throw new NydusError("ENOTSUP", `Cannot read inode: nid ${nid} is compressed by EROFS`, { offset });
  }
  if (layout > LAYOUT.chunkBased) {
    throw new NydusError("EUCLEAN", `Cannot decode inode: nid ${nid} has data layout ${layout}`, { offset });
  }
  return layout;
}

type SizedFields = Pick<Inode, "uid" | "gid" | "sizeBytes" | "mtimeSec" | "mtimeNsec" | "nlink">;

function compactFields(area: InodeArea, offset: number): SizedFields {
  const { view } = area;
  const at = InodeCompact.at;
  return {
    uid: view.getUint16(offset + at.iUid, true),
    gid: view.getUint16(offset + at.iGid, true),
    sizeBytes: view.getUint32(offset + at.iSize, true),
    mtimeSec: area.epochSec + view.getUint32(offset + at.iMtime, true),
    mtimeNsec: area.fixedNsec,
    nlink: view.getUint16(offset + at.iNlink, true),
  };
}

function extendedFields(view: DataView, offset: number): SizedFields {
  const at = InodeExtended.at;
  const sizeBytes = readU64(view, offset + at.iSize);
  const mtimeSec = view.getInt32(offset + at.iMtime + 4, true) * TWO_32 + view.getUint32(offset + at.iMtime, true);
  const mtimeNsec = view.getUint32(offset + at.iMtimeNsec, true);
  if (!Number.isSafeInteger(sizeBytes) || !Number.isSafeInteger(mtimeSec) || mtimeNsec >= NSEC_LIMIT) {
    const found = `size ${sizeBytes}, time ${mtimeSec} s ${mtimeNsec} ns`;
    throw new NydusError("EUCLEAN", `Cannot decode inode: ${found} is out of range`, { offset });
  }
  return {
    uid: view.getUint32(offset + at.iUid, true),
    gid: view.getUint32(offset + at.iGid, true),
    sizeBytes,
    mtimeSec,
    mtimeNsec,
    nlink: view.getUint32(offset + at.iNlink, true),
  };
}
