import type { TreeNode } from "./node.ts";

/**
 * Xattr of a layer tree's directory that no entry of the layer describes: it is there for its children only, so a
 * merge keeps the lower layer's attributes. Never in a merged tree. Its value is empty.
 */
export const IMPLICIT_XATTR = "trusted.nydus.implicit";

/**
 * Xattr of a layer tree's file that stands for a hard link to a path of the layers below; its value is that path, raw,
 * without a leading slash. A merge puts the linked inode in its place. Never in a merged tree.
 */
export const HARDLINK_XATTR = "trusted.nydus.hardlink";

/** What overlayfs keeps its own state in; it never shows these to anyone. */
export const OVERLAY_XATTR_PREFIX = "trusted.overlay.";

/** Set to "y" on a directory by overlayfs: the layers below are hidden. */
export const OVERLAY_OPAQUE_XATTR = "trusted.overlay.opaque";

/** A name with this prefix hides the rest of it in the layers below (image-spec, layer.md, Whiteouts). */
export const WHITEOUT_PREFIX = ".wh.";

/** Names with this prefix hide nothing by that name: AUFS kept its own files there. */
export const WHITEOUT_META_PREFIX = ".wh..wh.";

/** In a directory: everything that the layers below have in it is hidden. */
export const OPAQUE_NAME = ".wh..wh..opq";

/** Whether a name is a whiteout of any kind; such names are never in a merged tree. */
export function isWhiteoutName(name: string): boolean {
  return name.startsWith(WHITEOUT_PREFIX);
}

/** The name that a whiteout hides, or undefined for other names, the opaque marker and AUFS's. */
export function hiddenName(name: string): string | undefined {
  if (!isWhiteoutName(name) || name.startsWith(WHITEOUT_META_PREFIX)) return undefined;
  return name.slice(WHITEOUT_PREFIX.length);
}

/** Whether a node is overlayfs's form of a whiteout: a character device 0:0, hiding its own name. */
export function isWhiteoutNode(node: TreeNode): boolean {
  return node.type === "char" && node.rdevMajor === 0 && node.rdevMinor === 0;
}

/** Whether a directory of a layer tree is there for its children only. */
export function isImplicit(node: TreeNode): boolean {
  return node.xattrs.has(IMPLICIT_XATTR);
}
