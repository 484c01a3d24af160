import { bytesOfKey, keyOfBytes } from "../../base/bytes.ts";
import { NydusError } from "../../base/errors.ts";
import { isWhiteoutNode } from "./markers.ts";
import type { TreeNode } from "./node.ts";

/** Most symlinks on one way (path_resolution(7)). */
const MAX_SYMLINKS = 40;

/** Deepest directory: as deep as the longest path that Linux takes. */
export const MAX_DEPTH = 2048;

/** A directory on the way: what it is called, and what the tree has there, if anything. */
export interface Step {
  readonly name: string;
  readonly node: TreeNode | undefined;
}

/** The components of a path of raw bytes, as Latin-1 keys. */
export function splitPath(path: Uint8Array): string[] {
  return path.length === 0 ? [] : keyOfBytes(path).split("/");
}

/** A path as a person reads it. */
export function showPath(parts: readonly string[]): string {
  return new TextDecoder().decode(bytesOfKey(parts.join("/")));
}

/**
 * The way to a directory, its symlinks followed without ever leaving the root, as containerd's applier goes it.
 * Components that the tree does not have (or has whited out) are steps without a node.
 * @param parts components of the directory's path
 * @throws EUCLEAN a component that is no directory, too many symlinks, or deeper than 2,048
 */
export function resolveDir(root: TreeNode, parts: readonly string[]): Step[] {
  const steps: Step[] = [];
  const ahead = [...parts].reverse();
  let symlinks = 0;
  for (let name = ahead.pop(); name !== undefined; name = ahead.pop()) {
    if (name === "..") steps.pop();
    if (name === "" || name === "." || name === "..") continue;
    const node = present(dirAt(root, steps)?.children.get(name));
    if (node?.type === "symlink") {
      symlinks++;
      if (symlinks > MAX_SYMLINKS) throw refused(parts, `has more than ${MAX_SYMLINKS} symlinks in it`);
      follow(keyOfBytes(node.target), steps, ahead);
    } else {
      steps.push({ name, node: directory(node, parts) });
      if (steps.length > MAX_DEPTH) throw refused(parts, `is deeper than ${MAX_DEPTH} directories`);
    }
  }
  return steps;
}

/** The directory at the end of a way, or undefined where the tree does not have it. */
export function dirAt(root: TreeNode, steps: readonly Step[]): TreeNode | undefined {
  return steps.length === 0 ? root : steps.at(-1)?.node;
}

/**
 * What a path names in a tree, all of its symlinks followed without ever leaving the root.
 * @param path raw bytes, with or without a leading slash
 * @returns undefined when there is nothing
 */
export function findNode(root: TreeNode, path: Uint8Array): TreeNode | undefined {
  try {
    let parts = splitPath(path);
    for (let links = 0; links <= MAX_SYMLINKS; links++) {
      const above = resolveDir(root, parts.slice(0, -1));
      const last = parts.at(-1) ?? "";
      if (last === "" || last === "." || last === "..") return dirAt(root, resolveDir(root, parts));
      const node = present(dirAt(root, above)?.children.get(last));
      if (node?.type !== "symlink") return node;
      const target = keyOfBytes(node.target);
      parts = [...(target.startsWith("/") ? [] : above.map(({ name }) => name)), ...target.split("/")];
    }
  } catch (error) {
    if (!(error instanceof NydusError)) throw error;
  }
  return undefined;
}

/** Puts a symlink's target on the way ahead; an absolute one begins at the root again. */
function follow(target: string, steps: Step[], ahead: string[]): void {
  if (target.startsWith("/")) steps.length = 0;
  for (const name of target.split("/").reverse()) ahead.push(name);
}

function directory(node: TreeNode | undefined, parts: readonly string[]): TreeNode | undefined {
  if (node === undefined || node.type === "dir") return node;
  throw refused(parts, `has a ${node.type} in the place of a directory`);
}

/** What a directory has under a name, whiteouts aside. */
export function present(node: TreeNode | undefined): TreeNode | undefined {
  return node === undefined || isWhiteoutNode(node) ? undefined : node;
}

function refused(parts: readonly string[], why: string): NydusError {
  return new NydusError("EUCLEAN", `Cannot resolve path: it ${why}`, { path: showPath(parts) });
}
