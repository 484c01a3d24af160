import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { chmodSync, cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { NydusError } from "../../../../src/base/errors.ts";
import { openSource } from "../../../../src/content/store/open-store.ts";
import { hostPlatform } from "../../../../src/format/oci/platform.ts";
import type { TreeNode } from "../../../../src/format/tree/node.ts";
import { checkImage } from "../../../../src/operation/image/check.ts";
import { compareWithSource } from "../../../../src/operation/image/compare.ts";
import { inspectImage } from "../../../../src/operation/image/inspect.ts";
import { formatMode, formatTime, listPath } from "../../../../src/operation/image/list.ts";
import { readFile } from "../../../../src/operation/image/read-file.ts";
import { readManifestOf } from "../../../../src/operation/image/read-manifest.ts";
import { readSourceTree, type SourceTree } from "../../../../src/operation/image/source-tree.ts";
import { printableBytes, resolvePath, walkImage } from "../../../../src/operation/image/walk.ts";
import type { CodecPool } from "../../../../src/os/codec-pool.ts";
import { openCodecPool } from "../../../../src/os/codec-threads.ts";
import { loadCodecs } from "../../../../src/os/codecs.ts";
import { smallGolden } from "../../../kit/golden.ts";
import { openRafsDir } from "../../../kit/rafs-dir.ts";
import { readTree } from "../../../kit/tree.ts";

const GOLDEN = smallGolden();
const RAFS = join(GOLDEN, "rafs", "v6-zstd-blake3-64k");
const TREE = readTree(join(GOLDEN, "tree.jsonl"));
const encoder = new TextEncoder();
const { sha256 } = await loadCodecs();

let dir: string;
let pool: CodecPool;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), "nydus-look-"));
  pool = openCodecPool({ threads: 2 });
});
afterAll(async () => {
  await pool[Symbol.asyncDispose]();
  rmSync(dir, { recursive: true, force: true });
});

test("walkImage() meets every path of the golden tree once", async () => {
  await using image = await openRafsDir(RAFS);
  expect([...walkImage(image.rafs.erofs)]).toHaveLength(TREE.length);
});

describe("resolvePath()", () => {
  test("finds every path of the golden tree, with and without the leading slash", async () => {
    await using image = await openRafsDir(RAFS);
    for (const { path, type } of TREE.filter((entry) => !entry.path.includes("\\"))) {
      for (const text of [path, path.slice(1)]) {
        const { nid } = resolvePath(image.rafs.erofs, encoder.encode(text), { followLast: false });
        expect(`${text} ${image.rafs.erofs.inode(nid).type}`).toBe(`${text} ${type}`);
      }
    }
  });

  test("follows symlinks inside the image only, and '..' not above its root", async () => {
    await using image = await openRafsDir(RAFS);
    const link = TREE.find(({ type, target }) => type === "symlink" && target?.startsWith("/") === false);
    expect(link).toBeDefined();
    const up = resolvePath(image.rafs.erofs, encoder.encode("../../..//./"), { followLast: true });
    expect(up.nid).toBe(image.rafs.erofs.rootNid);
    const own = resolvePath(image.rafs.erofs, encoder.encode(link?.path ?? ""), { followLast: false });
    expect(image.rafs.erofs.inode(own.nid).type).toBe("symlink");
  });

  test("says ENOENT for what is not there, and for a path through a file", async () => {
    await using image = await openRafsDir(RAFS);
    const file = TREE.find(({ type }) => type === "file")?.path;
    for (const path of ["/nothing", `${file}/below`]) {
      expect(() => resolvePath(image.rafs.erofs, encoder.encode(path), { followLast: true })).toThrow(
        "Cannot find file in image",
      );
    }
  });
});

test("readFile() gives the bytes of every file of the golden tree", async () => {
  await using image = await openRafsDir(RAFS);
  for (const { path, sha256: wanted } of TREE.filter((entry) => entry.type === "file" && !entry.path.includes("\\"))) {
    const { nid } = resolvePath(image.rafs.erofs, encoder.encode(path), { followLast: false });
    const hash = createHash("sha256");
    for await (const bytes of readFile(image, nid, { pool })) hash.update(bytes);
    expect(`${path} ${hash.digest("hex")}`).toBe(`${path} ${wanted}`);
  }
});

describe("listPath()", () => {
  test("lists a directory's own entries, or all below it", async () => {
    await using image = await openRafsDir(RAFS);
    const paths = (recursive: boolean): string[] =>
      [...listPath(image.rafs.erofs, encoder.encode("/etc"), { recursive })].map(({ path }) => path);
    const below = TREE.map(({ path }) => path).filter((path) => path.startsWith("/etc/"));
    expect(paths(true).length).toBe(below.length);
    expect(paths(false).length).toBe(below.filter((path) => !path.slice("/etc/".length).includes("/")).length);
  });

  test("lists a file as itself", async () => {
    await using image = await openRafsDir(RAFS);
    const file = TREE.find(({ type, path }) => type === "file" && !path.includes("\\"));
    const entries = [...listPath(image.rafs.erofs, encoder.encode(file?.path ?? ""), { recursive: false })];
    expect(entries.map(({ path, sizeBytes }) => [path, sizeBytes])).toEqual([[file?.path ?? "", file?.size ?? 0]]);
  });
});

test.each([
  ["file", 0o4755, "-rwsr-xr-x"],
  ["file", 0o4644, "-rwSr--r--"],
  ["dir", 0o1777, "drwxrwxrwt"],
  ["dir", 0o3770, "drwxrws--T"],
  ["symlink", 0o777, "lrwxrwxrwx"],
  ["char", 0, "c---------"],
] as const)("formatMode(%s, %o) is what ls prints", (type, mode, text) => {
  expect(formatMode({ type, mode })).toBe(text);
});

test("formatTime() reaches from 1901 beyond 2106, and never throws", () => {
  expect(formatTime(0)).toBe("1970-01-01 00:00:00");
  expect(formatTime(-(2 ** 31))).toBe("1901-12-13 20:45:52");
  expect(formatTime(4_500_000_000)).toBe("2112-08-07 08:00:00");
  expect(formatTime(2 ** 52)).toBe(`@${2 ** 52}`);
});

test.each([
  [[0x61, 0x62], "ab"],
  [[0xc3, 0xa9], "é"],
  [[0xff, 0x61], "\\377a"],
  [[0x0a], "\\012"],
  [[0x1b, 0x5b], "\\033["],
  [[0x5c], "\\134"],
  [[0xc2, 0x9b], "\\302\\233"],
  [[0xef, 0xbf, 0xbd], "\ufffd"],
  [[0xed, 0xa0, 0x80], "\\355\\240\\200"],
])("printableBytes(%p) is safe on a terminal and unambiguous", (bytes, text) => {
  expect(printableBytes(Uint8Array.from(bytes))).toBe(text);
});

test("inspectImage() counts what the golden tree holds", async () => {
  await using image = await openRafsDir(RAFS);
  const report = inspectImage(image);
  const count = (type: string): number => TREE.filter((entry) => entry.type === type).length;
  const links = TREE.filter(({ type, nlink }) => type === "file" && (nlink ?? 1) > 1);
  const inodes = new Set(links.map(({ sha256: digest, nlink, size }) => `${digest} ${nlink} ${size}`)).size;
  expect(report.names).toBe(TREE.length);
  expect(report.inodes.dir).toBe(count("dir"));
  expect(report.inodes.fifo).toBe(count("fifo"));
  expect(report.inodes.file).toBe(count("file") - links.length + inodes);
  expect(report.referencedChunks).toBeLessThanOrEqual(report.chunks);
  expect(report.uniqueBytes + report.dedupBytes).toBe(report.fileBytes);
});

describe("checkImage()", () => {
  test.each(["v6-zstd-blake3-64k", "v6-lz4-sha256-4k"])("finds nothing wrong with %s", async (variant) => {
    await using image = await openRafsDir(join(GOLDEN, "rafs", variant));
    const report = await checkImage(image, { pool, sha256 });
    expect(report.problems.map(({ message }) => message)).toEqual([]);
    expect(report.chunks).toBe(image.blobs.reduce((sum, blob) => sum + blob.chunks.count, 0));
  });

  test("reports the chunk and the blob of one changed byte, by digest and place", async () => {
    const copy = join(dir, "damaged");
    cpSync(RAFS, copy, { recursive: true });
    await using whole = await openRafsDir(copy);
    const blob = whole.blobs.findIndex(({ chunks }) => chunks.count > 0);
    const id = whole.rafs.blobs[blob]?.id ?? "";
    const at = whole.blobs[blob]?.chunks.blobOffset(0) ?? 0;
    const path = join(copy, "blobs", id);
    chmodSync(path, 0o644);
    writeFileSync(
      path,
      readFileSync(path).map((byte, i) => (i === at ? byte ^ 0xff : byte)),
    );
    await using image = await openRafsDir(copy);
    const { problems } = await checkImage(image, { pool, sha256 });
    expect(problems.map((problem) => problem.at.digest)).toEqual([`sha256:${id}`, `sha256:${id}`]);
    expect(problems[0]?.at.offset).toBe(at);
    expect(problems[1]?.message).toContain("Cannot verify layer");
  });

  test("ends with ECANCELED when it is interrupted, instead of a report", async () => {
    await using image = await openRafsDir(RAFS);
    const signal = AbortSignal.abort(new NydusError("ECANCELED", "Interrupted"));
    expect(checkImage(image, { pool, sha256, signal })).rejects.toThrow("Interrupted");
  });
});

describe("compareWithSource()", () => {
  const variant = join(GOLDEN, "rafs", "v6-zstd-blake3-64k");

  async function treeOf(ref: string): Promise<SourceTree> {
    await using source = await openSource(`oci:${join(GOLDEN, "images")}:${ref}`, { root: dir });
    const { manifest } = await readManifestOf(source, hostPlatform(process.arch));
    const options = { codecs: await loadCodecs(), signal: new AbortController().signal };
    return await readSourceTree(source, manifest.layers, options);
  }

  async function differences(tree: SourceTree): Promise<string[]> {
    await using image = await openRafsDir(variant);
    const found: string[] = [];
    for await (const { path, what } of compareWithSource(image, tree, { pool, sha256 })) found.push(`${path}: ${what}`);
    return found.filter((line) => !line.endsWith(": mtime"));
  }

  /** A node of a tree by its path, with the directory that it is in. */
  function nodeAt(root: TreeNode, path: string): { parent: TreeNode; name: string; node: TreeNode } {
    const names = path.split("/").slice(1);
    const name = names.pop() ?? "";
    const parent = names.reduce((dir, part) => dir.children.get(part) as TreeNode, root);
    return { parent, name, node: parent.children.get(name) as TreeNode };
  }

  test.each(["oci", "docker", "zstd"])("finds only nydus-image's known times between its image and %s", async (ref) => {
    expect(await differences(await treeOf(ref))).toEqual([]);
  });

  const FILE = TREE.find(({ type, nlink, size }) => type === "file" && nlink === 1 && size)?.path ?? "";
  const LINKED = TREE.filter(({ type, nlink }) => type === "file" && (nlink ?? 1) > 1).at(-1)?.path ?? "";
  const SYMLINK = TREE.find(({ type }) => type === "symlink")?.path ?? "";
  const DEVICE = TREE.find(({ type }) => type === "char")?.path ?? "";

  test.each([
    ["mode", FILE, (node: TreeNode) => ({ ...node, mode: node.mode ^ 1 })],
    ["owner", FILE, (node: TreeNode) => ({ ...node, gid: node.gid + 1 })],
    ["size", FILE, (node: TreeNode) => ({ ...node, sizeBytes: node.sizeBytes + 1 })],
    [
      "content",
      FILE,
      (node: TreeNode) => ({ ...node, chunks: node.chunks.map((c) => ({ ...c, digest: c.digest.map((b) => b ^ 1) })) }),
    ],
    ["xattrs", FILE, (node: TreeNode) => ({ ...node, xattrs: new Map([["user.more", new Uint8Array(1)]]) })],
    ["type", FILE, (node: TreeNode) => ({ ...node, type: "fifo" as const })],
    ["links", LINKED, (node: TreeNode) => ({ ...node })],
    ["target", SYMLINK, (node: TreeNode) => ({ ...node, target: Uint8Array.of(1) })],
    ["device", DEVICE, (node: TreeNode) => ({ ...node, rdevMinor: node.rdevMinor + 1 })],
  ])("finds another %s", async (what, path, change) => {
    const tree = await treeOf("oci");
    const { parent, name, node } = nodeAt(tree.root, path);
    parent.children.set(name, change(node));
    expect(await differences(tree)).toContain(`${path}: ${what}`);
  });

  test("finds what only one of the two has", async () => {
    const tree = await treeOf("oci");
    const { parent, name, node } = nodeAt(tree.root, FILE);
    parent.children.delete(name);
    parent.children.set("only-source", node);
    const other = `${FILE.slice(0, FILE.lastIndexOf("/"))}/only-source`;
    expect((await differences(tree)).sort()).toEqual([`${FILE}: presence`, `${other}: presence`].sort());
  });
});
