import { BLOCK_BYTES, concatBytes, equalBytes } from "../../../base/bytes.ts";
import { NydusError } from "../../../base/errors.ts";
import type { Extent } from "../../../format/erofs/extent.ts";
import { encodeRdev, type Inode, MODE_TYPES } from "../../../format/erofs/inode.ts";
import type { DirEntry, ErofsReader } from "../../../format/erofs/reader.ts";
import { FUSE_ROOT_ID } from "../../../format/fuse/abi.ts";

/**
 * Node ids that are not EROFS nids: 0 means "none" to the kernel and 1 is the root. Nids, which may be both, follow
 * behind them, so that a node id needs no table and is the same in every mount of an image.
 */
const NODEID_BASE = 2;

/** Longest symlink target that Linux follows, bytes. */
const TARGET_LIMIT_BYTES = 4095;
const NUL = new Uint8Array(1);

/** An image as a file system: metadata straight from the bytes of its bootstrap, nothing kept for an inode. */
export class ImageFs {
  readonly #reader: ErofsReader;

  constructor(reader: ErofsReader) {
    this.#reader = reader;
  }

  /** The node id of an inode, also its `st_ino`: one for each inode, so hard links share it. */
  nodeidOf(nid: number): number {
    return nid === this.#reader.rootNid ? FUSE_ROOT_ID : nid + NODEID_BASE;
  }

  /** The inverse of {@link nodeidOf}. @throws EUCLEAN for 0, which no inode has */
  nidOf(nodeid: number): number {
    if (nodeid === FUSE_ROOT_ID) return this.#reader.rootNid;
    if (nodeid < NODEID_BASE) throw new NydusError("EUCLEAN", `Cannot find inode: no node has id ${nodeid}`);
    return nodeid - NODEID_BASE;
  }

  /** @throws EUCLEAN, ENOTSUP where the bootstrap is damaged */
  inode(nodeid: number): Inode {
    return this.#reader.inode(this.nidOf(nodeid));
  }

  /** The inode that `name` names in a directory, or undefined. @param name raw bytes; `.` and `..` too */
  lookup(nodeid: number, name: Uint8Array): Inode | undefined {
    const entry = this.#reader.lookup(this.nidOf(nodeid), name);
    return entry === undefined ? undefined : this.#reader.inode(entry.nid);
  }

  /** Entries of a directory, `.` and `..` among them. @param cookie 0, or `next` of the entry to go on behind */
  entries(nodeid: number, cookie: number): Iterable<DirEntry> {
    return this.#reader.readdir(this.nidOf(nodeid), cookie);
  }

  /** The target of a symlink. @throws EUCLEAN longer than Linux follows */
  readlink(nodeid: number): Uint8Array {
    const nid = this.nidOf(nodeid);
    const { sizeBytes } = this.#reader.inode(nid);
    if (sizeBytes > TARGET_LIMIT_BYTES) {
      throw new NydusError("EUCLEAN", `Cannot read link: ${sizeBytes} bytes, at most ${TARGET_LIMIT_BYTES} wanted`);
    }
    return this.#reader.readlink(nid);
  }

  /** The value of an extended attribute, or undefined. @param name whole: `user.alpha` */
  xattr(nodeid: number, name: Uint8Array): Uint8Array | undefined {
    return this.#reader.xattrs(this.nidOf(nodeid)).find((xattr) => equalBytes(xattr.name, name))?.value;
  }

  /** The names of all extended attributes, each with a NUL behind it, as listxattr(2) gives them. */
  xattrNames(nodeid: number): Uint8Array {
    return concatBytes(this.#reader.xattrs(this.nidOf(nodeid)).flatMap(({ name }) => [name, NUL]));
  }

  /** Size of the image in blocks of 4 KiB, uncompressed and with the bootstrap, and its number of inodes. */
  statfs(): { readonly blocks: number; readonly files: number } {
    const { devices, bytes, inodeCount } = this.#reader;
    const own = Math.ceil(bytes.length / BLOCK_BYTES);
    return { blocks: devices.reduce((sum, device) => sum + device.blocks, own), files: inodeCount };
  }

  /** Where a range of a file lies, clipped to the file; the `meta` parts are in {@link bytes}. */
  planRead(nodeid: number, offset: number, sizeBytes: number): Extent[] {
    return this.#reader.listExtents(this.nidOf(nodeid), offset, sizeBytes);
  }

  /** The bootstrap. */
  get bytes(): Uint8Array {
    return this.#reader.bytes;
  }
}

/** `st_mode` of an inode. */
export function stModeOf(inode: Inode): number {
  return MODE_TYPES[inode.type] | inode.mode;
}

/** `st_rdev` of an inode as 32-bit kernel interfaces have it. */
export function rdevOf(inode: Inode): number {
  return encodeRdev(inode.rdevMajor, inode.rdevMinor);
}
