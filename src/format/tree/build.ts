import { bytesOfKey, keyOfBytes } from "../../base/bytes.ts";
import { inPlace, NydusError } from "../../base/errors.ts";
import type { TarEntry } from "../tar/reader.ts";
import {
  HARDLINK_XATTR,
  hiddenName,
  IMPLICIT_XATTR,
  isImplicit,
  isWhiteoutNode,
  OPAQUE_NAME,
  OVERLAY_OPAQUE_XATTR,
  OVERLAY_XATTR_PREFIX,
  WHITEOUT_PREFIX,
} from "./markers.ts";
import { type ChunkRecord, makeNode, type TreeNode } from "./node.ts";
import { dirAt, present, resolveDir, type Step, showPath, splitPath } from "./resolve.ts";

/** What a layer tree takes of a tar entry. */
export type LayerEntry = Omit<TarEntry, "content">;

/** Longest name that EROFS holds. */
const MAX_NAME_LENGTH = 255;
const NO_BYTES = new Uint8Array(0);
const OPAQUE_YES = 0x79; // "y"

/**
 * One layer as a tree, made entry by entry in the order of its tar. Whiteouts stay in it as the entries that they are
 * (one whose name EROFS cannot hold becomes a character device 0:0 of the hidden name); `mergeLayers` obeys them.
 * Directories and links that need the layers below carry the markers of `markers.ts`.
 */
export class LayerTree {
  /** Of the layer; implicit until an entry describes it. */
  readonly root: TreeNode = makeImplicitDir();
  /** Where the entry before went. */
  #lastParent: { readonly path: string; readonly node: TreeNode } | undefined;

  /**
   * Adds an entry; one of the same path that came before is replaced, but for directories, which keep their children.
   * @param chunks of a file, in file order; they may also be set on the returned node later
   * @returns the entry's node: for a hard link the linked one
   * @throws EUCLEAN what no extractor could make of the layer: a parent that is a file, a link to a directory or to
   *   what the layer deletes
   */
  add(entry: LayerEntry, chunks: readonly ChunkRecord[] = []): TreeNode {
    const path = keyOfBytes(entry.path);
    try {
      return this.#add(entry, path, chunks);
    } catch (error) {
      return inPlace({ path: showPath([path]), offset: entry.offset }, () => {
        throw error;
      });
    }
  }

  #add(entry: LayerEntry, path: string, chunks: readonly ChunkRecord[]): TreeNode {
    if (path === "") {
      if (entry.type !== "dir") throw refused(`the root is a ${entry.type}, a directory wanted`);
      return describeDir(this.root, entry);
    }
    const slash = path.lastIndexOf("/");
    const name = path.slice(slash + 1);
    const hidden = hiddenName(name);
    if (hidden === "" || hidden === "." || hidden === "..") throw refused("a whiteout hides no name");
    const parent = this.#parentOf(slash < 0 ? "" : path.slice(0, slash));
    if (hidden !== undefined && name.length > MAX_NAME_LENGTH) return hideLongName(parent, hidden);
    const there = parent.children.get(name);
    if (entry.type === "dir" && there?.type === "dir") return describeDir(there, entry);
    if (there !== undefined) this.#lastParent = undefined; // by way of what is replaced, its path may lead elsewhere now
    if (entry.type === "dir") return describeDir(makeDir(parent, name), entry);
    const node = entry.type === "hardlink" ? this.#linked(entry) : makeLeaf(entry, entry.type, chunks);
    parent.children.set(name, node);
    return node;
  }

  /** The directory of an entry, made where it is missing; entries of one directory mostly follow one another. */
  #parentOf(path: string): TreeNode {
    if (this.#lastParent?.path === path) return this.#lastParent.node;
    const node = this.#makeDirs(resolveDir(this.root, path === "" ? [] : path.split("/")));
    this.#lastParent = { path, node };
    return node;
  }

  #makeDirs(steps: readonly Step[]): TreeNode {
    let dir = this.root;
    for (const { name, node } of steps) dir = node ?? makeDir(dir, name);
    return dir;
  }

  /** The inode that a hard link names: of this layer, or a placeholder of one below. */
  #linked(entry: LayerEntry): TreeNode {
    const parts = splitPath(entry.linkPath);
    const name = parts.at(-1);
    if (name === undefined) throw refused("a hard link to the root");
    const steps = resolveDir(this.root, parts.slice(0, -1));
    const node = present(dirAt(this.root, steps)?.children.get(name));
    if (node?.type === "dir") throw refused(`a hard link to the directory ${JSON.stringify(showPath(parts))}`);
    if (node !== undefined) return node;
    const path = [...steps.map((step) => step.name), name];
    if (isLowerHidden(this.root, path)) {
      throw refused(`a hard link to ${JSON.stringify(showPath(path))}, which the layer deletes`);
    }
    return makeNode("file", { xattrs: new Map([[HARDLINK_XATTR, bytesOfKey(path.join("/"))]]) });
  }
}

function refused(found: string): NydusError {
  return new NydusError("EUCLEAN", `Cannot read layer: ${found}`);
}

function makeImplicitDir(): TreeNode {
  return makeNode("dir", { xattrs: new Map([[IMPLICIT_XATTR, NO_BYTES]]) });
}

/** A new directory, in the place of whatever is there; over a whiteout it is opaque, as overlayfs makes it. */
function makeDir(parent: TreeNode, name: string): TreeNode {
  const there = parent.children.get(name);
  const dir = makeImplicitDir();
  if (there !== undefined && isWhiteoutNode(there)) replaceLower(dir);
  parent.children.set(name, dir);
  return dir;
}

/** Makes a directory stand in the place of a lower one, of which neither children nor attributes are left. */
function replaceLower(dir: TreeNode): void {
  makeOpaque(dir);
  dir.xattrs.delete(IMPLICIT_XATTR);
}

function makeOpaque(dir: TreeNode): void {
  dir.children.set(OPAQUE_NAME, makeNode("file", { mode: 0 }));
}

/** Gives a directory its entry's attributes. A second entry adds its xattrs, as extractors do. */
function describeDir(dir: TreeNode, entry: LayerEntry): TreeNode {
  const xattrs = keptXattrs(entry);
  const opaque = entry.xattrs.get(OVERLAY_OPAQUE_XATTR);
  if (opaque?.length === 1 && opaque[0] === OPAQUE_YES) makeOpaque(dir);
  const before = isImplicit(dir) ? [] : dir.xattrs;
  const { mode, uid, gid, mtimeSec, mtimeNsec } = entry;
  Object.assign(dir, { mode, uid, gid, mtimeSec, mtimeNsec, xattrs: new Map([...before, ...xattrs]) });
  return dir;
}

function makeLeaf(entry: LayerEntry, type: TreeNode["type"], chunks: readonly ChunkRecord[]): TreeNode {
  const node = makeNode(type);
  node.mode = type === "symlink" ? 0o777 : entry.mode;
  node.uid = entry.uid;
  node.gid = entry.gid;
  node.mtimeSec = entry.mtimeSec;
  node.mtimeNsec = entry.mtimeNsec;
  node.xattrs = keptXattrs(entry);
  node.sizeBytes = entry.sizeBytes;
  node.chunks = chunks;
  if (type === "symlink") node.target = entry.linkPath;
  node.rdevMajor = entry.rdevMajor;
  node.rdevMinor = entry.rdevMinor;
  return node;
}

/** The xattrs that a file system would show: no markers, none of overlayfs, user.* on files and directories only. */
function keptXattrs(entry: LayerEntry): Map<string, Uint8Array> {
  if (entry.xattrs.size === 0) return entry.xattrs;
  const hasUser = entry.type === "file" || entry.type === "dir";
  const isKept = (name: string): boolean =>
    name !== IMPLICIT_XATTR &&
    name !== HARDLINK_XATTR &&
    !name.startsWith(OVERLAY_XATTR_PREFIX) &&
    (hasUser || !name.startsWith("user."));
  return new Map([...entry.xattrs].filter(([name]) => isKept(name)));
}

/** A whiteout in overlayfs's form, for a name that leaves no room for the prefix. */
function hideLongName(parent: TreeNode, hidden: string): TreeNode {
  const there = parent.children.get(hidden);
  if (there?.type === "dir") replaceLower(there);
  if (there !== undefined) return there; // a file of the layer hides what is below it by being there
  const whiteout = makeNode("char", { mode: 0 });
  parent.children.set(hidden, whiteout);
  return whiteout;
}

/** Whether the layer hides what the layers below have at a path that it does not have itself. */
function isLowerHidden(root: TreeNode, path: readonly string[]): boolean {
  let dir = root;
  for (const name of path) {
    if (dir.children.has(OPAQUE_NAME) || dir.children.has(WHITEOUT_PREFIX + name)) return true;
    const child = dir.children.get(name);
    if (child === undefined) return false;
    if (isWhiteoutNode(child)) return true;
    dir = child;
  }
  return false;
}
