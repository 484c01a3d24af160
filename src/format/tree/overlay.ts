import { keyOfBytes } from "../../base/bytes.ts";
import { NydusError } from "../../base/errors.ts";
import {
  HARDLINK_XATTR,
  hiddenName,
  IMPLICIT_XATTR,
  isImplicit,
  isWhiteoutName,
  isWhiteoutNode,
  OPAQUE_NAME,
} from "./markers.ts";
import { type ChunkRecord, makeNode, type TreeNode } from "./node.ts";
import { dirAt, resolveDir, showPath } from "./resolve.ts";

/** How layers are merged. */
export interface MergeOptions {
  /**
   * A chunk of layer `layer` (its place in the stack, 0 the bottom) as the merged tree is to have it: with the index
   * of its blob in the merged blob list. Called once for each chunk of each file that is visible when its layer is
   * merged. Without it chunks stay as they are.
   */
  readonly remapChunk?: (chunk: ChunkRecord, layer: number) => ChunkRecord;
}

/**
 * The tree that a stack of layer trees shows, as the kernel's overlayfs shows the layers unpacked by containerd
 * (README.md beside this file has the rules). No whiteout and no marker is left in it.
 * The layers are not changed and may be merged again; the result shares their inodes other than directories, so neither
 * may be changed afterwards.
 * @param layers roots, the bottom layer first; the same tree may occur twice
 * @throws EUCLEAN a hard link to what no lower layer has
 */
export function mergeLayers(layers: readonly TreeNode[], options: MergeOptions = {}): TreeNode {
  const merged = makeNode("dir");
  for (const [i, layer] of layers.entries()) new LayerMerge(merged, i, options).apply(layer);
  return merged;
}

/** One layer on its way onto the merged tree, whose directories all belong to the merge. */
class LayerMerge {
  readonly #merged: TreeNode;
  readonly #layer: number;
  readonly #options: MergeOptions;
  /** Inodes of the layer as they go into the merged tree: hard links stay one object. */
  readonly #adopted = new Map<TreeNode, TreeNode>();
  /** Inodes of lower layers that the layer links to, by resolved path: each is copied up once. */
  readonly #copiedUp = new Map<string, TreeNode>();

  constructor(merged: TreeNode, layer: number, options: MergeOptions) {
    this.#merged = merged;
    this.#layer = layer;
    this.#options = options;
  }

  apply(root: TreeNode): void {
    this.#linkLower(root, []);
    this.#describe(this.#merged, root);
    this.#applyDir(this.#merged, root);
  }

  /** Finds every link to the layers below while they are as this layer found them. */
  #linkLower(dir: TreeNode, path: string[]): void {
    for (const [name, node] of dir.children) {
      if (isWhiteoutName(name)) continue;
      path.push(name);
      const target = node.xattrs.get(HARDLINK_XATTR);
      if (node.type === "dir") this.#linkLower(node, path);
      else if (target !== undefined && !this.#adopted.has(node)) {
        this.#adopted.set(node, this.#copyUp(keyOfBytes(target).split("/"), path));
      }
      path.pop();
    }
  }

  /**
   * The lower inode at a path, made this layer's own as overlayfs does before it links: its other names keep the old.
   */
  #copyUp(target: readonly string[], link: readonly string[]): TreeNode {
    const steps = resolveDir(this.#merged, target.slice(0, -1));
    const name = target.at(-1) as string;
    const dir = dirAt(this.#merged, steps);
    const node = dir?.children.get(name);
    if (dir === undefined || node === undefined || node.type === "dir") {
      const found = node === undefined ? "which no lower layer has" : "a directory";
      const shown = JSON.stringify(showPath(target));
      throw new NydusError("EUCLEAN", `Cannot merge layers: a hard link to ${shown}, ${found}`, {
        path: showPath(link),
      });
    }
    const key = [...steps.map((step) => step.name), name].join("/");
    const known = this.#copiedUp.get(key);
    if (known !== undefined) return known;
    const copy = { ...node };
    dir.children.set(name, copy);
    this.#copiedUp.set(key, copy);
    return copy;
  }

  /** Whiteouts first: they hide what is below, never what their own layer has. */
  #applyDir(target: TreeNode, upper: TreeNode): void {
    if (upper.children.has(OPAQUE_NAME)) target.children.clear();
    for (const [name, node] of upper.children) {
      const hidden = hiddenName(name) ?? (isWhiteoutNode(node) ? name : undefined);
      if (hidden !== undefined) target.children.delete(hidden);
    }
    for (const [name, node] of upper.children) {
      if (!isWhiteoutName(name) && !isWhiteoutNode(node)) this.#applyChild(target, name, node);
    }
  }

  #applyChild(target: TreeNode, name: string, node: TreeNode): void {
    if (node.type !== "dir") {
      target.children.set(name, this.#adopt(node));
      return;
    }
    const there = target.children.get(name);
    const dir = there?.type === "dir" ? there : makeNode("dir");
    if (dir !== there) target.children.set(name, dir);
    this.#describe(dir, node);
    this.#applyDir(dir, node);
  }

  /** A directory that the layer describes takes all its attributes; an implicit one leaves what is there. */
  #describe(dir: TreeNode, upper: TreeNode): void {
    if (isImplicit(upper)) return;
    const { mode, uid, gid, mtimeSec, mtimeNsec, xattrs } = upper;
    Object.assign(dir, { mode, uid, gid, mtimeSec, mtimeNsec, xattrs: new Map(xattrs) });
    dir.xattrs.delete(IMPLICIT_XATTR);
  }

  #adopt(node: TreeNode): TreeNode {
    const known = this.#adopted.get(node);
    if (known !== undefined) return known;
    const { remapChunk } = this.#options;
    if (remapChunk === undefined || node.chunks.length === 0) return node;
    const adopted = { ...node, chunks: node.chunks.map((chunk) => remapChunk(chunk, this.#layer)) };
    this.#adopted.set(node, adopted);
    return adopted;
  }
}
