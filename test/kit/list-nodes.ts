import { bytesOfKey } from "../../src/base/bytes.ts";
import { toHex } from "../../src/base/digest.ts";
import type { TreeNode } from "../../src/format/tree/node.ts";
import type { TreeEntry } from "./tree.ts";

/** A path of a tree, and under which path its inode is met first. */
export interface ListedNode extends TreeEntry {
  readonly first?: string;
}

/** What a listing takes from elsewhere. */
export interface ListOptions {
  /** Hex SHA-256 of a file's content; left out, the listing has none. */
  readonly sha256?: (node: TreeNode) => string;
  /** Whether hard links of anything tell their first name and their count; else files tell their count, as tree.py. */
  readonly groups?: boolean;
}

/** A tree in memory as `tree.py` lists one on disk. */
export function listNodes(root: TreeNode, options: ListOptions = {}): ListedNode[] {
  const names = new Map<TreeNode, { first: string; count: number }>();
  const found: { path: string; node: TreeNode }[] = [];
  const visit = (node: TreeNode, path: string): void => {
    found.push({ path, node });
    const known = names.get(node);
    if (known === undefined) names.set(node, { first: path, count: 1 });
    else known.count++;
    for (const [name, child] of [...node.children].sort(([a], [b]) => (a < b ? -1 : 1)))
      visit(child, `${path}/${name}`);
  };
  visit(root, "");
  return found.map(({ path, node }) => {
    const { first, count } = names.get(node) as { first: string; count: number };
    const isLink = options.groups === true ? node.type !== "dir" : node.type === "file";
    return {
      path: escapeKey(path) || "/",
      ...describe(node, options),
      ...(isLink ? { nlink: count } : {}),
      ...(isLink && options.groups === true ? { first: escapeKey(first) } : {}),
    };
  });
}

function describe(node: TreeNode, { sha256 }: ListOptions): Omit<TreeEntry, "path"> {
  const isDevice = node.type === "char" || node.type === "block";
  return {
    type: node.type,
    mode: node.mode.toString(8).padStart(4, "0"),
    uid: node.uid,
    gid: node.gid,
    mtime: String(BigInt(node.mtimeSec) * 1_000_000_000n + BigInt(node.mtimeNsec)),
    ...(node.type === "file" ? { size: node.sizeBytes } : {}),
    ...(node.type === "file" && sha256 !== undefined ? { sha256: sha256(node) } : {}),
    ...(node.type === "symlink" ? { target: escapeBytes(node.target) } : {}),
    ...(isDevice ? { rdev: [node.rdevMajor, node.rdevMinor] } : {}),
    ...(node.xattrs.size > 0 ? { xattrs: hexXattrs(node.xattrs) } : {}),
  };
}

function hexXattrs(xattrs: ReadonlyMap<string, Uint8Array>): Record<string, string> {
  return Object.fromEntries([...xattrs].map(([name, value]) => [escapeKey(name), toHex(value)]));
}

function escapeKey(key: string): string {
  return escapeBytes(bytesOfKey(key));
}

/** Raw bytes as tree.py shows them: UTF-8, and `\udcXX` for each byte that is none. */
export function escapeBytes(bytes: Uint8Array): string {
  const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  let text = "";
  for (let at = 0; at < bytes.length; ) {
    const length = [1, 2, 3, 4].find((n) => at + n <= bytes.length && decodes(strict, bytes.subarray(at, at + n)));
    if (length === undefined) text += `\\udc${(bytes[at] as number).toString(16)}`;
    else text += strict.decode(bytes.subarray(at, at + length));
    at += length ?? 1;
  }
  return text;
}

function decodes(decoder: TextDecoder, bytes: Uint8Array): boolean {
  try {
    decoder.decode(bytes);
    return true;
  } catch {
    return false;
  }
}
