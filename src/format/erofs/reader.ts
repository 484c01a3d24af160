import { BLOCK_BYTES, viewOf } from "../../base/bytes.ts";
import { NydusError } from "../../base/errors.ts";
import type { NodeType } from "../tree/node.ts";
import { type Device, decodeDevices } from "./device.ts";
import {
  compareToDirent,
  Dirent,
  type DirentBlock,
  direntCount,
  direntName,
  direntNid,
  direntType,
  findDirent,
} from "./dirent.ts";
import { type Extent, type ExtentArea, listExtents, mapExtents } from "./extent.ts";
import { decodeInode, type Inode, type InodeArea, LAYOUT } from "./inode.ts";
import { BLOCK_BITS, decodeSuperblock, type SuperBlock } from "./superblock.ts";
import { decodeXattrs, type Xattr } from "./xattr.ts";

const SLASH = 0x2f;

/** A name in a directory. */
export interface DirEntry {
  /** A view into the image. */
  readonly name: Uint8Array;
  readonly nid: number;
  readonly type: NodeType;
  /** Where reading goes on behind this entry: the `cookie` of a later `readdir`. */
  readonly next: number;
}

/**
 * An EROFS image in memory, read in place: nothing is kept but the superblock and the devices, so the bytes may be
 * a mapping of any size. Every access is checked against the bytes: what a damaged image gives is an EUCLEAN, or an
 * ENOTSUP for what EROFS has and this program does not read.
 */
export class ErofsReader {
  readonly bytes: Uint8Array;
  readonly superblock: SuperBlock;
  readonly rootNid: number;
  /** As the superblock says. */
  readonly inodeCount: number;
  readonly blockBits = BLOCK_BITS;
  readonly blockBytes = BLOCK_BYTES;
  /** Seconds since 1970. */
  readonly buildTime: number;
  /** 16 bytes. */
  readonly uuid: Uint8Array;
  /** In the order of slots: `devices[slot - 1]`. */
  readonly devices: readonly Device[];
  readonly #view: DataView;
  readonly #inodes: InodeArea;
  readonly #area: ExtentArea;
  readonly #sharedXattrOffset: number;

  /** @throws EUCLEAN not an EROFS image, or damaged; ENOTSUP a feature that is not read here */
  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
    this.superblock = decodeSuperblock(bytes);
    this.#view = viewOf(bytes);
    this.#sharedXattrOffset = this.superblock.xattrBlkaddr * this.blockBytes;
    this.rootNid = this.superblock.rootnid2b;
    this.inodeCount = Number(this.superblock.inos);
    this.buildTime = Number(BigInt.asIntN(64, this.superblock.epoch));
    this.uuid = this.superblock.uuid;
    this.devices = decodeDevices(bytes, this.superblock);
    this.#inodes = {
      view: this.#view,
      metaOffset: this.superblock.metaBlkaddr * this.blockBytes,
      epochSec: this.buildTime,
      fixedNsec: this.superblock.fixedNsec,
    };
    this.#area = { bytes, view: this.#view, devices: this.devices };
    const root = this.inode(this.rootNid);
    if (root.type !== "dir") {
      throw new NydusError("EUCLEAN", `Cannot open image: its root is a ${root.type}`, { offset: root.offset });
    }
  }

  /** The inode at `nid`. @throws EUCLEAN, ENOTSUP */
  inode(nid: number): Inode {
    return decodeInode(this.#inodes, nid);
  }

  /**
   * The entry `name` of a directory; `.` and `..` are entries as others.
   * @throws EUCLEAN; EINVAL when `dirNid` is no directory
   */
  lookup(dirNid: number, name: Uint8Array): { readonly nid: number; readonly type: NodeType } | undefined {
    const dir = this.#directory(dirNid);
    let low = 0;
    let high = Math.ceil(dir.sizeBytes / this.blockBytes) - 1;
    while (low <= high) {
      const middle = Math.floor((low + high) / 2);
      const block = this.#direntBlock(dir, middle);
      if (compareToDirent(name, block, 0, direntCount(block)) < 0) {
        high = middle - 1;
        continue;
      }
      const found = findDirent(block, name);
      if (found >= 0) return { nid: direntNid(block, found), type: this.#entryType(block, found) };
      if (-1 - found < direntCount(block)) return undefined;
      low = middle + 1;
    }
    return undefined;
  }

  /**
   * The entries of a directory as stored, with `.` and `..`.
   * @param cookie 0, or the `next` of an entry: the byte offset in the directory, as the kernel's position. It names
   *   the same place for ever
   */
  *readdir(dirNid: number, cookie = 0): Generator<DirEntry> {
    const dir = this.#directory(dirNid);
    let position = Math.max(0, Math.floor(cookie));
    while (position < dir.sizeBytes) {
      const index = Math.floor(position / this.blockBytes);
      const blockStart = index * this.blockBytes;
      const block = this.#direntBlock(dir, index);
      const count = direntCount(block);
      for (let i = Math.ceil((position - blockStart) / Dirent.sizeBytes); i < count; i++) {
        yield {
          name: checkedName(direntName(block, i, count), dir),
          nid: direntNid(block, i),
          type: this.#entryType(block, i),
          next: blockStart + (i + 1) * Dirent.sizeBytes,
        };
      }
      position = blockStart + this.blockBytes;
    }
  }

  /** The target of a symbolic link: raw bytes, a view. @throws EUCLEAN; EINVAL when `nid` is no symbolic link */
  readlink(nid: number): Uint8Array {
    const inode = this.inode(nid);
    if (inode.type !== "symlink") throw new NydusError("EINVAL", `Cannot read link: nid ${nid} is a ${inode.type}`);
    if (inode.sizeBytes > this.bytes.length) {
      throw new NydusError("EUCLEAN", `Cannot read link: ${inode.sizeBytes} bytes`, { offset: inode.offset });
    }
    const target = new Uint8Array(inode.sizeBytes);
    for (const extent of mapExtents(this.#area, inode, 0, inode.sizeBytes)) {
      if (extent.kind !== "meta") throw this.#notInImage(inode);
      target.set(this.bytes.subarray(extent.offset, extent.offset + extent.length), extent.fileOffset);
    }
    return target;
  }

  /** The extended attributes of an inode, shared and inline, whole names. @throws EUCLEAN; ENOTSUP long prefixes */
  xattrs(nid: number): Xattr[] {
    const inode = this.inode(nid);
    return decodeXattrs({
      bytes: this.bytes,
      offset: inode.xattrOffset,
      length: inode.xattrBytes,
      sharedOffset: this.#sharedXattrOffset,
    });
  }

  /**
   * Where `[offset, offset + length)` of a regular file lies, clipped to its size, in file order without gaps.
   * @throws EUCLEAN, ENOTSUP; EINVAL when `nid` is no regular file
   */
  *extents(nid: number, offset: number, length: number): Generator<Extent> {
    yield* mapExtents(this.#area, this.#file(nid), offset, length);
  }

  /** {@link extents} as an array, sooner done; for short ranges. @throws as extents */
  listExtents(nid: number, offset: number, length: number): Extent[] {
    return listExtents(this.#area, this.#file(nid), offset, length);
  }

  #file(nid: number): Inode {
    const inode = this.inode(nid);
    if (inode.type !== "file") throw new NydusError("EINVAL", `Cannot map file: nid ${nid} is a ${inode.type}`);
    return inode;
  }

  #directory(nid: number): Inode {
    const inode = this.inode(nid);
    if (inode.type !== "dir") throw new NydusError("EINVAL", `Cannot read directory: nid ${nid} is a ${inode.type}`);
    return inode;
  }

  #direntBlock(dir: Inode, index: number): DirentBlock {
    if (dir.layout === LAYOUT.chunkBased) {
      throw new NydusError("ENOTSUP", `Cannot read directory: nid ${dir.nid} is chunk-based`, { offset: dir.offset });
    }
    const start = index * this.blockBytes;
    const length = Math.min(this.blockBytes, dir.sizeBytes - start);
    const [extent] = listExtents(this.#area, dir, start, length);
    if (extent?.kind !== "meta") throw this.#notInImage(dir);
    return { view: this.#view, bytes: this.bytes, start: extent.offset, end: extent.offset + length };
  }

  #entryType(block: DirentBlock, i: number): NodeType {
    return direntType(block, i) ?? this.inode(direntNid(block, i)).type;
  }

  #notInImage(inode: Inode): NydusError {
    const message = `Cannot read ${inode.type}: data of nid ${inode.nid} is not in the image`;
    return new NydusError("EUCLEAN", message, { offset: inode.offset });
  }
}

/** A name that could lead elsewhere never leaves the reader. */
function checkedName(name: Uint8Array, dir: Inode): Uint8Array {
  if (name.includes(SLASH) || name.includes(0)) {
    const message = `Cannot read directory: a name in nid ${dir.nid} has a slash or a NUL`;
    throw new NydusError("EUCLEAN", message, { offset: name.byteOffset });
  }
  return name;
}
