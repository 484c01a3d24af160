import { alignUp } from "../../base/bytes.ts";
import { inPlace, NydusError } from "../../base/errors.ts";
import type { TreeNode } from "../tree/node.ts";
import { ChunkIndex } from "./device.ts";
import { Dirent, NAME_LIMIT_BYTES } from "./dirent.ts";
import { InodeExtended, LAYOUT, RDEV_LIMITS } from "./inode.ts";
import { BLOCK_BITS, SLOT_BYTES } from "./superblock.ts";
import { encodeXattrs } from "./xattr.ts";

const BLOCK_BYTES = 2 ** BLOCK_BITS;
/** Longest target that Linux takes (PATH_MAX less its NUL). */
const TARGET_LIMIT_BYTES = 4095;
const INO_LIMIT = 2 ** 31 - 1;
const ID_LIMIT = 2 ** 32 - 1;
/** Gaps remembered for smaller inodes: more would search longer than they save. */
const GAP_LIMIT = 32;

/** Where one inode and its data go. Offsets are bytes in the image. */
export interface PlannedInode {
  readonly node: TreeNode;
  /** 1, 2, … in the order of the plan. */
  readonly ino: number;
  /** Of a directory: itself for the root. */
  readonly parent: TreeNode;
  /** Names of a directory with `.` and `..`, sorted as bytes; empty else. */
  readonly names: readonly string[];
  readonly sizeBytes: number;
  readonly layout: number;
  readonly xattrs: Uint8Array;
  /** Names of the inode; of a directory 2 and its subdirectories. */
  nlink: number;
  offset: number;
  /** Full blocks of a flat inode; undefined for none. */
  blocksOffset: number | undefined;
}

/** A whole tree, placed. */
export interface ErofsPlan {
  readonly inodes: readonly PlannedInode[];
  readonly byNode: ReadonlyMap<TreeNode, PlannedInode>;
  /** Nid of a node of the tree. @throws EINVAL not of this tree */
  nidOf(node: TreeNode): number;
  /** `meta_blkaddr`: one block before the first inode, so that no nid is 0. */
  readonly metaBlkaddr: number;
  /** Where the planned area ends: a multiple of 4096. */
  readonly end: number;
}

/** Bytes of an inline tail. */
export function tailBytes(inode: Pick<PlannedInode, "layout" | "sizeBytes">): number {
  return inode.layout === LAYOUT.flatInline ? inode.sizeBytes % BLOCK_BYTES : 0;
}

/**
 * Places every inode of a tree from `start` on: breadth first, names in byte order, so that a directory's inodes lie
 * together and the same tree gives the same plan however its maps are ordered.
 * @param start multiple of 4096, at least 4096
 * @throws EINVAL a tree that is none (a directory with two names, impossible names or ids); ENOTSUP what EROFS cannot
 *   hold (names, attributes, device numbers)
 */
export function planErofs(root: TreeNode, start: number): ErofsPlan {
  const { inodes, byNode } = collect(root);
  const end = place(inodes, start);
  const metaBlkaddr = start / BLOCK_BYTES - 1;
  return {
    inodes,
    byNode,
    nidOf(node) {
      const inode = byNode.get(node);
      if (inode === undefined) throw new NydusError("EINVAL", "Cannot give a nid: the node is not of this tree");
      return (inode.offset - metaBlkaddr * BLOCK_BYTES) / SLOT_BYTES;
    },
    metaBlkaddr,
    end,
  };
}

interface Collected {
  readonly inodes: PlannedInode[];
  readonly byNode: Map<TreeNode, PlannedInode>;
}

/** Every inode once, breadth first; link counts are complete when the walk is. */
function collect(root: TreeNode): Collected {
  if (root.type !== "dir") throw new NydusError("EINVAL", `Cannot plan image: its root is a ${root.type}`);
  const collected: Collected = { inodes: [], byNode: new Map() };
  addInode(collected, root, root);
  for (let i = 0; i < collected.inodes.length; i++) {
    const dir = collected.inodes[i] as PlannedInode;
    for (const name of dir.names) {
      if (name === "." || name === "..") continue;
      const child = dir.node.children.get(name) as TreeNode;
      try {
        addName(collected, dir, child);
      } catch (error) {
        inPlace({ path: name }, () => {
          throw error;
        });
      }
    }
  }
  return collected;
}

function addInode({ inodes, byNode }: Collected, node: TreeNode, parent: TreeNode): void {
  const planned = planInode(node, parent, inodes.length + 1);
  inodes.push(planned);
  byNode.set(node, planned);
}

function addName(collected: Collected, dir: PlannedInode, child: TreeNode): void {
  const known = collected.byNode.get(child);
  if (child.type === "dir") {
    if (known !== undefined) throw new NydusError("EINVAL", "Cannot plan directory: it has two names");
    dir.nlink++;
  }
  if (known === undefined) addInode(collected, child, dir.node);
  else known.nlink++;
}

function quote(name: string): string {
  return JSON.stringify(name);
}

function planInode(node: TreeNode, parent: TreeNode, ino: number): PlannedInode {
  if (ino > INO_LIMIT) throw new NydusError("ENOTSUP", `Cannot plan image: more than ${INO_LIMIT} inodes`);
  checkNode(node);
  const names = node.type === "dir" ? sortedNames(node) : [];
  const sizeBytes = sizeOf(node, names);
  const xattrs = encodeXattrs(node.xattrs);
  return {
    node,
    ino,
    parent,
    names,
    sizeBytes,
    layout: layoutOf(node, sizeBytes, xattrs),
    xattrs,
    nlink: node.type === "dir" ? 2 : 1,
    offset: 0,
    blocksOffset: undefined,
  };
}

function inRange(value: number, limit: number): boolean {
  return Number.isInteger(value) && value >= 0 && value <= limit;
}

function checkNode(node: TreeNode): void {
  if (!inRange(node.uid, ID_LIMIT) || !inRange(node.gid, ID_LIMIT) || !inRange(node.mode, 0o7777)) {
    throw new NydusError("EINVAL", `Cannot plan inode: uid ${node.uid}, gid ${node.gid}, mode ${node.mode}`);
  }
  if (!Number.isSafeInteger(node.mtimeSec) || !inRange(node.mtimeNsec, 999_999_999)) {
    throw new NydusError("EINVAL", `Cannot plan inode: time ${node.mtimeSec} s ${node.mtimeNsec} ns`);
  }
  const { major, minor } = RDEV_LIMITS;
  if (!inRange(node.rdevMajor, major) || !inRange(node.rdevMinor, minor)) {
    const found = `device ${node.rdevMajor}:${node.rdevMinor}, at most ${major}:${minor} fit`;
    throw new NydusError("ENOTSUP", `Cannot plan inode: ${found}`);
  }
  if (node.type === "symlink" && (node.target.length === 0 || node.target.length > TARGET_LIMIT_BYTES)) {
    const found = `target of ${node.target.length} bytes, 1 to ${TARGET_LIMIT_BYTES} fit`;
    throw new NydusError("ENOTSUP", `Cannot plan symbolic link: ${found}`);
  }
}

/** The names of a directory, `.` and `..` among them, in byte order: keys are latin-1, so code units are bytes. */
function sortedNames(dir: TreeNode): string[] {
  for (const name of dir.children.keys()) {
    const impossible = name === "" || name === "." || name === ".." || name.includes("/") || name.includes("\0");
    if (impossible) throw new NydusError("EINVAL", `Cannot plan directory: no file is named ${quote(name)}`);
    if (name.length > NAME_LIMIT_BYTES) {
      const message = `Cannot plan directory: name of ${name.length} bytes, at most ${NAME_LIMIT_BYTES} fit`;
      throw new NydusError("ENOTSUP", message, { path: name });
    }
  }
  return [...dir.children.keys(), ".", ".."].sort();
}

function sizeOf(node: TreeNode, names: readonly string[]): number {
  if (node.type === "file") return node.sizeBytes;
  if (node.type === "symlink") return node.target.length;
  let size = 0;
  for (const name of names) {
    const bytes = Dirent.sizeBytes + name.length;
    if ((size % BLOCK_BYTES) + bytes > BLOCK_BYTES) size = alignUp(size, BLOCK_BYTES);
    size += bytes;
  }
  return size;
}

/** A tail is inline when it fits into one block with its inode: older kernels read short links from there only. */
function layoutOf(node: TreeNode, sizeBytes: number, xattrs: Uint8Array): number {
  if (node.type === "file") return LAYOUT.chunkBased;
  const tail = sizeBytes % BLOCK_BYTES;
  const fits = tail > 0 && InodeExtended.sizeBytes + xattrs.length + tail <= BLOCK_BYTES;
  return fits ? LAYOUT.flatInline : LAYOUT.flatPlain;
}

/** Bytes that an inode takes: with attributes and what lies inline. */
function inodeBytes(inode: PlannedInode): number {
  const head = InodeExtended.sizeBytes + inode.xattrs.length;
  if (inode.layout !== LAYOUT.chunkBased) return head + tailBytes(inode);
  return alignUp(head, ChunkIndex.sizeBytes) + inode.node.chunks.length * ChunkIndex.sizeBytes;
}

interface Gap {
  start: number;
  end: number;
}

/** First offset from `from` on at which the inode may begin: a slot, with an inline tail in one block. */
function fitFrom(inode: PlannedInode, from: number): number {
  const offset = alignUp(from, SLOT_BYTES);
  if (tailBytes(inode) === 0) return offset;
  return (offset % BLOCK_BYTES) + inodeBytes(inode) <= BLOCK_BYTES ? offset : alignUp(offset, BLOCK_BYTES);
}

/** The first gap that an inode of `bytes` fits into. */
function gapFor(inode: PlannedInode, bytes: number, gaps: readonly Gap[]): Gap | undefined {
  for (const gap of gaps) {
    if (gap.end - gap.start >= bytes && fitFrom(inode, gap.start) + bytes <= gap.end) return gap;
  }
  return undefined;
}

/** Places inodes one behind the other, small ones into the gaps that tails leave; then full blocks behind them all. */
function place(inodes: readonly PlannedInode[], start: number): number {
  const gaps: Gap[] = [];
  let cursor = start;
  for (const inode of inodes) {
    const bytes = inodeBytes(inode);
    const gap = gapFor(inode, bytes, gaps);
    inode.offset = fitFrom(inode, gap?.start ?? cursor);
    if (gap !== undefined) {
      gap.start = inode.offset + bytes;
      continue;
    }
    if (inode.offset - cursor >= InodeExtended.sizeBytes) gaps.push({ start: cursor, end: inode.offset });
    if (gaps.length > GAP_LIMIT) gaps.shift();
    cursor = inode.offset + bytes;
  }
  let blocks = alignUp(cursor, BLOCK_BYTES);
  for (const inode of inodes) {
    const full = inode.layout === LAYOUT.chunkBased ? 0 : inode.sizeBytes - tailBytes(inode);
    if (full === 0) continue;
    inode.blocksOffset = blocks;
    blocks += alignUp(full, BLOCK_BYTES);
  }
  return blocks;
}

/** What a name of a planned directory stands for; `.` and `..` resolved. */
export function nodeOf(dir: PlannedInode, name: string): TreeNode {
  return name === "." ? dir.node : name === ".." ? dir.parent : (dir.node.children.get(name) as TreeNode);
}
