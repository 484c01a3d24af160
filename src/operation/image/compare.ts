import { bytesOfKey, equalBytes, keyOfBytes } from "../../base/bytes.ts";
import { type MakeHasher, toHex } from "../../base/digest.ts";
import type { TreeNode } from "../../format/tree/node.ts";
import { ContentQueue, pieceBytes } from "./read-file.ts";
import type { SourceTree } from "./source-tree.ts";
import type { ReadableImage, ReadFilesOptions } from "./unit-batches.ts";
import { contentNids, type NamedEntry, walkNames, xattrsOf } from "./unpack.ts";
import { printableBytes, printablePath } from "./walk.ts";

/** One thing that an image shows otherwise than the layers that it should be made of. */
export interface Difference {
  readonly path: string;
  /** `presence`, `type`, `mode`, `owner`, `mtime`, `size`, `content`, `target`, `device`, `xattrs` or `links`. */
  readonly what: string;
  readonly image: string;
  readonly source: string;
}

/** How images are compared. */
export interface CompareOptions extends ReadFilesOptions {
  readonly sha256: MakeHasher;
}

/** A node of the source by its path, and the first path of its inode. */
interface SourceNode {
  readonly node: TreeNode;
  readonly firstPath: string;
}

/**
 * Compares a Nydus image with the merged layers of another one, path by path: attributes, xattrs, hard links, contents.
 * @throws EBADMSG, EUCLEAN the Nydus image is damaged
 */
export async function* compareWithSource(
  image: ReadableImage,
  source: SourceTree,
  options: CompareOptions,
): AsyncGenerator<Difference> {
  const nodes = flatten(source.root);
  await using queue = new ContentQueue(image, contentNids(image.rafs.erofs), options);
  for (const entry of walkNames(image.rafs.erofs)) {
    const key = keyOfBytes(entry.path);
    const found = nodes.get(key);
    nodes.delete(key);
    const digest = await contentDigest(entry, queue, options.sha256);
    const path = printablePath(entry.path);
    if (found === undefined) {
      yield { path, what: "presence", image: entry.inode.type, source: "none" };
      continue;
    }
    if (key === "" && !source.rootIsDescribed) continue;
    for (const [what, ofImage, ofSource] of fieldsOf(image, { ...entry, digest }, found)) {
      if (ofImage !== ofSource) yield { path, what, image: ofImage, source: ofSource };
    }
  }
  for (const [key, { node }] of nodes) {
    yield { path: printablePath(bytesOfKey(key)), what: "presence", image: "none", source: node.type };
  }
}

/** Every path of a tree, in the order of {@link walkNames}: what is the first path of an inode must agree. */
function flatten(root: TreeNode): Map<string, SourceNode> {
  const nodes = new Map<string, SourceNode>();
  const firstPaths = new Map<TreeNode, string>();
  const todo: [string, TreeNode][] = [["", root]];
  for (let next = todo.pop(); next !== undefined; next = todo.pop()) {
    const [path, node] = next;
    const firstPath = firstPaths.get(node) ?? path;
    firstPaths.set(node, firstPath);
    nodes.set(path, { node, firstPath });
    // Latin-1 keys compare as their bytes do; the last pushed comes first.
    const names = [...node.children.keys()].sort((a, b) => (a < b ? 1 : -1));
    for (const name of names) {
      todo.push([path === "" ? name : `${path}/${name}`, node.children.get(name) as TreeNode]);
    }
  }
  return nodes;
}

async function contentDigest(entry: NamedEntry, queue: ContentQueue, sha256: MakeHasher): Promise<string> {
  if (entry.inode.type !== "file" || entry.linkTo !== undefined) return "";
  if (entry.inode.sizeBytes === 0) {
    for await (const _ of queue.nextFile()) {
      // an empty file has no pieces; this only takes its turn
    }
    return "";
  }
  const hasher = sha256();
  for await (const piece of queue.nextFile()) {
    for (const bytes of pieceBytes(piece)) hasher.update(bytes);
  }
  return toHex(hasher.digest());
}

type Field = readonly [what: string, image: string, source: string];

function fieldsOf(
  image: ReadableImage,
  { inode, digest, path, linkTo }: NamedEntry & { readonly digest: string },
  { node, firstPath }: SourceNode,
): Field[] {
  if (inode.type !== node.type) return [["type", inode.type, node.type]];
  const fields: Field[] = [
    ["mode", inode.mode.toString(8), node.mode.toString(8)],
    ["owner", `${inode.uid}:${inode.gid}`, `${node.uid}:${node.gid}`],
    ["mtime", timeText(inode), timeText(node)],
    ["xattrs", xattrText(xattrsOf(image.rafs.erofs, inode.nid)), xattrText(node.xattrs)],
  ];
  if (inode.type === "dir") return fields;
  fields.push(["links", printablePath(linkTo ?? path), printablePath(bytesOfKey(firstPath))]);
  if (inode.type === "symlink") {
    const target = image.rafs.erofs.readlink(inode.nid);
    if (!equalBytes(target, node.target)) {
      fields.push(["target", printableBytes(target), printableBytes(node.target)]);
    }
  } else if (inode.type === "file") {
    fields.push(["size", String(inode.sizeBytes), String(node.sizeBytes)]);
    const [whole] = node.chunks;
    if (linkTo === undefined) fields.push(["content", digest, whole === undefined ? "" : toHex(whole.digest)]);
  } else {
    fields.push(["device", `${inode.rdevMajor}:${inode.rdevMinor}`, `${node.rdevMajor}:${node.rdevMinor}`]);
  }
  return fields;
}

function timeText({ mtimeSec, mtimeNsec }: { readonly mtimeSec: number; readonly mtimeNsec: number }): string {
  return `${mtimeSec}.${String(mtimeNsec).padStart(9, "0")}`;
}

function xattrText(xattrs: ReadonlyMap<string, Uint8Array>): string {
  const rows = [...xattrs].map(([name, value]) => `${printableBytes(bytesOfKey(name))}=${toHex(value)}`);
  return rows.sort().join(" ");
}
