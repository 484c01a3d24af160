import { keyOfBytes } from "../../base/bytes.ts";
import { NydusError } from "../../base/errors.ts";
import { ChunkIndex } from "../erofs/device.ts";
import { chunkIndexOffset } from "../erofs/extent.ts";
import type { Inode } from "../erofs/inode.ts";
import { type Xattr, xattrKey } from "../erofs/xattr.ts";
import { type ChunkRecord, makeNode, type TreeNode } from "../tree/node.ts";
import { decodeChunk, RafsChunk } from "./chunk-table.ts";
import type { RafsImage } from "./image.ts";
import { chunkTableRows } from "./table-map.ts";

const BLOCK_BYTES = 4096;
const DEVICE_MASK = 0xff;

/**
 * The whole tree of a bootstrap, hard links as one node, every file with its chunks: what merging layers works on.
 * Digests and attribute values are views into the bootstrap.
 * @throws EUCLEAN a directory reached twice, chunks that the chunk table lacks, or other damage
 */
export function readTree(image: RafsImage): TreeNode {
  const reader = new TreeReader(image);
  const root = reader.node(image.erofs.rootNid);
  reader.addChildren();
  return root;
}

class TreeReader {
  readonly #image: RafsImage;
  readonly #chunks: ReadonlyMap<number, ChunkRecord>;
  readonly #nodes = new Map<number, TreeNode>();
  readonly #directories: { nid: number; node: TreeNode }[] = [];
  /** What inodes that do not overlap can take; a damaged image could else make much of little. */
  #bytesLeft: number;

  constructor(image: RafsImage) {
    this.#image = image;
    this.#chunks = chunksByAddress(image);
    this.#bytesLeft = image.bytes.length;
  }

  /** The node of an inode, made at its first name. @throws EUCLEAN a second name of a directory */
  node(nid: number): TreeNode {
    const known = this.#nodes.get(nid);
    if (known?.type === "dir") throw new NydusError("EUCLEAN", `Cannot read tree: directory nid ${nid} has two names`);
    if (known !== undefined) return known;
    const inode = this.#image.erofs.inode(nid);
    this.#spend(inode);
    const node = readNode(this.#image, inode, this.#chunks);
    this.#nodes.set(nid, node);
    if (node.type === "dir") this.#directories.push({ nid, node });
    return node;
  }

  /** Fills every directory that is known, and those that turn up. */
  addChildren(): void {
    for (let dir = this.#directories.pop(); dir !== undefined; dir = this.#directories.pop()) {
      for (const entry of this.#image.erofs.readdir(dir.nid)) {
        const name = keyOfBytes(entry.name);
        if (name === "." || name === "..") continue;
        if (dir.node.children.has(name)) {
          throw new NydusError("EUCLEAN", "Cannot read tree: a name twice in one directory", { path: name });
        }
        dir.node.children.set(name, this.node(entry.nid));
      }
    }
  }

  #spend(inode: Inode): void {
    const chunkIndexes = Math.ceil(inode.sizeBytes / this.#image.chunkBytes) * ChunkIndex.sizeBytes;
    const data = inode.type === "file" ? chunkIndexes : isFlat(inode) ? inode.sizeBytes : 0;
    this.#bytesLeft -= inode.xattrBytes + data;
    if (this.#bytesLeft < 0) {
      const message = `Cannot read tree: inodes overlap, they take more than ${this.#image.bytes.length} bytes`;
      throw new NydusError("EUCLEAN", message, { offset: inode.offset });
    }
  }
}

function isFlat(inode: Inode): boolean {
  return inode.type === "dir" || inode.type === "symlink";
}

/** Rows of the chunk table by blob and number. */
function chunksByAddress(image: RafsImage): Map<number, ChunkRecord> {
  const region = image.superblock.chunkTable;
  const rows = chunkTableRows({ image: image.bytes, region });
  const chunks = new Map<number, ChunkRecord>();
  for (let i = 0; i < rows; i++) {
    const chunk = decodeChunk(image.bytes, region.offset + i * RafsChunk.sizeBytes);
    chunks.set(addressOf(chunk.blob, chunk.index), chunk);
  }
  return chunks;
}

function addressOf(blob: number, index: number): number {
  return blob * 2 ** 32 + index;
}

function readNode(image: RafsImage, inode: Inode, chunks: ReadonlyMap<number, ChunkRecord>): TreeNode {
  const { type, mode, uid, gid, mtimeSec, mtimeNsec, rdevMajor, rdevMinor } = inode;
  const xattrs = new Map(image.erofs.xattrs(inode.nid).map((xattr: Xattr) => [xattrKey(xattr), xattr.value]));
  return makeNode(type, {
    mode,
    uid,
    gid,
    mtimeSec,
    mtimeNsec,
    rdevMajor,
    rdevMinor,
    xattrs,
    ...(type === "symlink" ? { target: image.erofs.readlink(inode.nid) } : {}),
    ...(type === "file" ? { sizeBytes: inode.sizeBytes, chunks: fileChunks(image, inode, chunks) } : {}),
  });
}

/** The chunks of a file by the numbers that RAFS packs into its chunk indexes: one for each chunk of the image's size. */
function fileChunks(image: RafsImage, inode: Inode, chunks: ReadonlyMap<number, ChunkRecord>): ChunkRecord[] {
  const count = Math.ceil(inode.sizeBytes / image.chunkBytes);
  const start = chunkIndexOffset(inode);
  if (start + count * ChunkIndex.sizeBytes > image.bytes.length) {
    throw new NydusError("EUCLEAN", `Cannot read file: ${count} chunk indexes end past the image`, { offset: start });
  }
  return Array.from({ length: count }, (_, i) => {
    const at = start + i * ChunkIndex.sizeBytes;
    const { startblkHi, deviceId, startblkLo } = ChunkIndex.read(image.bytes, at);
    const chunk = chunks.get(addressOf((deviceId & DEVICE_MASK) - 1, ((deviceId >>> 8) << 16) | startblkHi));
    const sizeBytes = Math.min(image.chunkBytes, inode.sizeBytes - i * image.chunkBytes);
    if (chunk?.deviceOffset !== startblkLo * BLOCK_BYTES || chunk.sizeBytes !== sizeBytes) {
      throw new NydusError("EUCLEAN", `Cannot read file: chunk ${i} is not in the chunk table`, { offset: at });
    }
    return chunk;
  });
}
