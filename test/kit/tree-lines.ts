import { bytesOfKey, keyOfBytes } from "../../src/base/bytes.ts";
import type { TarEntryType } from "../../src/format/tar/reader.ts";
import { type LayerEntry, LayerTree } from "../../src/format/tree/build.ts";
import type { TreeNode } from "../../src/format/tree/node.ts";

/** An entry in words: `TYPE PATH [TARGET|MAJOR:MINOR]`, and fields that differ from the defaults. */
export type Line = string | readonly [line: string, fields: Partial<LayerEntry>];

/** The layer tree of entries in words; each counts as one tar block. */
export function layerOf(...lines: Line[]): TreeNode {
  const tree = new LayerTree();
  lines.forEach((line, i) => {
    const [words, fields] = typeof line === "string" ? [line, {}] : line;
    const [type, path = "", more = ""] = words.split(" ") as [TarEntryType, string?, string?];
    const [rdevMajor, rdevMinor] = type === "char" || type === "block" ? more.split(":").map(Number) : [0, 0];
    tree.add({
      path: bytesOfKey(path),
      type,
      mode: type === "dir" ? 0o755 : 0o644,
      uid: 0,
      gid: 0,
      mtimeSec: 0,
      mtimeNsec: 0,
      sizeBytes: 0,
      linkPath: bytesOfKey(more),
      rdevMajor: rdevMajor ?? 0,
      rdevMinor: rdevMinor ?? 0,
      xattrs: new Map(),
      offset: i * 512,
      ...fields,
    });
  });
  return tree.root;
}

/** A tree in words, as `layerOf` takes them, in the order of paths; a further name of an inode is `hardlink`. */
export function linesOf(root: TreeNode): string[] {
  const seen = new Map<TreeNode, string>();
  const lines: string[] = [];
  const visit = (dir: TreeNode, prefix: string): void => {
    for (const [name, node] of [...dir.children].sort(([a], [b]) => (a < b ? -1 : 1))) {
      const path = prefix + name;
      lines.push(lineOf(node, path, seen.get(node)));
      if (node.type === "dir") visit(node, `${path}/`);
      else seen.set(node, seen.get(node) ?? path);
    }
  };
  visit(root, "");
  return lines;
}

function lineOf(node: TreeNode, path: string, first: string | undefined): string {
  if (first !== undefined) return `hardlink ${path} ${first}`;
  if (node.type === "symlink") return `symlink ${path} ${keyOfBytes(node.target)}`;
  if (node.type === "char" || node.type === "block") return `${node.type} ${path} ${node.rdevMajor}:${node.rdevMinor}`;
  return `${node.type} ${path}`;
}
