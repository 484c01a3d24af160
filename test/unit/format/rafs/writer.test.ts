import { describe, expect, test } from "bun:test";
import { bytesOfKey, keyOfBytes } from "../../../../src/base/bytes.ts";
import { NydusError } from "../../../../src/base/errors.ts";
import { chunkBytesOf } from "../../../../src/format/erofs/extent.ts";
import { LAYOUT } from "../../../../src/format/erofs/inode.ts";
import { checkBootstrap } from "../../../../src/format/rafs/check.ts";
import { decodeChunk } from "../../../../src/format/rafs/chunk-table.ts";
import { openRafs } from "../../../../src/format/rafs/image.ts";
import { readTree } from "../../../../src/format/rafs/read-tree.ts";
import { type BootstrapOptions, encodeBootstrap } from "../../../../src/format/rafs/writer.ts";
import { makeNode, type TreeNode } from "../../../../src/format/tree/node.ts";
import { diffTrees } from "../../../kit/tree.ts";
import { entriesOfImage, entriesOfTree, FakeBlob, patternDevice, type RandomTree, randomTree } from "./samples.ts";

const ALGORITHMS = { compressor: "none", digester: "sha256" } as const;
const SEEDS = Array.from({ length: 12 }, (_, i) => ({ seed: 100 + i }));

function encode(tree: RandomTree): Uint8Array {
  return encodeBootstrap({ ...tree, ...ALGORITHMS });
}

/** The same tree with every map filled in the other order. */
function reversed(node: TreeNode, done = new Map<TreeNode, TreeNode>()): TreeNode {
  const known = done.get(node);
  if (known !== undefined) return known;
  const copy = { ...node, xattrs: new Map([...node.xattrs].reverse()), children: new Map<string, TreeNode>() };
  done.set(node, copy);
  for (const [name, child] of [...node.children].reverse()) copy.children.set(name, reversed(child, done));
  return copy;
}

describe.each(SEEDS)("the random tree of seed $seed", ({ seed }) => {
  const tree = randomTree(seed);
  const bootstrap = encode(tree);

  test("openRafs() shows what encodeBootstrap() was given", () => {
    const devices = tree.blobs.map(patternDevice);
    expect(diffTrees(entriesOfTree(tree.root, devices), entriesOfImage(openRafs(bootstrap).erofs, devices))).toEqual(
      [],
    );
  });

  test("readTree() gives a tree that encodes to the same bytes", () => {
    expect(Bun.hash(encode({ ...tree, root: readTree(openRafs(bootstrap)) }))).toBe(Bun.hash(bootstrap));
  });

  test("the order of the maps does not change a byte", () => {
    expect(Bun.hash(encode({ ...tree, root: reversed(tree.root) }))).toBe(Bun.hash(bootstrap));
  });

  test("checkBootstrap() finds nothing, and each row of the chunk table in use", () => {
    const { findings, counts } = checkBootstrap(bootstrap);
    expect(findings).toEqual([]);
    expect(counts.unreferencedChunks).toBe(0);
  });
});

test("a file whose chunks lie end to end becomes one large chunk for EROFS, others keep the image's size", () => {
  const blobs = [new FakeBlob(0, 4096), new FakeBlob(1, 4096)] as const;
  const root = makeNode("dir");
  root.children.set("whole", blobs[0].file(5 * 4096 + 1));
  root.children.set("one", blobs[0].file(4096));
  const [second, first] = [blobs[0].chunk(10), blobs[0].chunk(4096)];
  root.children.set("backwards", makeNode("file", { sizeBytes: 4106, chunks: [first, second] }));
  const split = [blobs[0].chunk(4096), blobs[1].chunk(10)];
  root.children.set("split", makeNode("file", { sizeBytes: 4106, chunks: split }));
  const image = openRafs(
    encodeBootstrap({ root, blobs: blobs.map((blob) => blob.record), chunkBytes: 4096, ...ALGORITHMS }),
  );
  const chunkBytes = (name: string): number =>
    chunkBytesOf(image.erofs.inode(image.erofs.lookup(image.erofs.rootNid, bytesOfKey(name))?.nid ?? 0));
  expect([chunkBytes("whole"), chunkBytes("one"), chunkBytes("split")]).toEqual([32768, 4096, 4096]);
  expect(chunkBytes("backwards")).toBe(4096);
  const splitNid = image.erofs.lookup(image.erofs.rootNid, bytesOfKey("split"))?.nid ?? 0;
  expect([...image.erofs.extents(splitNid, 4000, 200)]).toEqual([
    { kind: "device", device: 1, deviceOffset: 9 * 4096 + 4000, fileOffset: 4000, length: 96 },
    { kind: "device", device: 2, deviceOffset: 0, fileOffset: 4096, length: 10 },
  ]);
});

test("chunk numbers above 65535 and the 254th blob survive their packing", () => {
  const blobs = Array.from({ length: 254 }, (_, i) => new FakeBlob(i, 4096));
  const last = blobs[253] as FakeBlob;
  const chunk = { ...last.chunk(4096), index: 0xabcdef };
  const root = makeNode("dir");
  blobs.forEach((blob, i) => {
    root.children.set(`f${i}`, blob.file(1));
  });
  root.children.set("high", makeNode("file", { sizeBytes: 4096, chunks: [chunk] }));
  const records = blobs.map((blob) => ({ ...blob.record, chunkCount: 2 ** 24 }));
  const bootstrap = encodeBootstrap({ root, blobs: records, chunkBytes: 4096, ...ALGORITHMS });
  expect(checkBootstrap(bootstrap).findings).toEqual([]);
  const high = readTree(openRafs(bootstrap)).children.get("high") as TreeNode;
  expect(high.chunks[0]).toMatchObject({ blob: 253, index: 0xabcdef, deviceOffset: chunk.deviceOffset });
});

test("the chunk table lies in the order of blobs and device offsets", () => {
  const { bytes, superblock } = openRafs(encode(randomTree(1)));
  const { offset, length } = superblock.chunkTable;
  const rows = Array.from({ length: length / 80 }, (_, i) => decodeChunk(bytes, offset + i * 80));
  expect(new Set(rows.map((row) => row.blob)).size).toBe(3);
  expect(rows.length).toBeGreaterThan(50);
  const keys = rows.map((row) => row.blob * 2 ** 45 + row.deviceOffset);
  expect(keys).toEqual([...keys].sort((a, b) => a - b));
});

test("the prefetch table names the nids of the nodes asked for", () => {
  const blob = new FakeBlob(0, 4096);
  const root = makeNode("dir");
  const file = blob.file(10);
  root.children.set("file", file);
  const options = { root, blobs: [blob.record], chunkBytes: 4096, ...ALGORITHMS };
  const image = openRafs(encodeBootstrap({ ...options, prefetch: [file, root] }));
  expect(image.prefetch).toEqual([
    image.erofs.lookup(image.erofs.rootNid, bytesOfKey("file"))?.nid ?? 0,
    image.erofs.rootNid,
  ]);
});

test("an inline tail and its whole inode lie in one block, longer ones have blocks of their own", () => {
  const root = makeNode("dir");
  for (const length of [1, 100, 2000, 3000, 4000, 4032, 4033, 4095]) {
    for (let i = 0; i < 5; i++) {
      const xattrs = new Map(i === 0 ? [] : [["user.x", new Uint8Array(i * 900)]]);
      root.children.set(`${length}.${i}`, makeNode("symlink", { target: new Uint8Array(length).fill(97), xattrs }));
    }
  }
  const { erofs } = openRafs(encodeBootstrap({ root, blobs: [], chunkBytes: 4096, ...ALGORITHMS }));
  let inline = 0;
  for (const { name, nid, type } of erofs.readdir(erofs.rootNid)) {
    if (type !== "symlink") continue;
    const { offset, xattrBytes, sizeBytes, layout } = erofs.inode(nid);
    const bytes = 64 + xattrBytes + sizeBytes;
    expect([keyOfBytes(name), layout]).toEqual([
      keyOfBytes(name),
      bytes <= 4096 ? LAYOUT.flatInline : LAYOUT.flatPlain,
    ]);
    if (layout !== LAYOUT.flatInline) continue;
    inline++;
    expect((offset % 4096) + bytes).toBeLessThanOrEqual(4096);
  }
  expect(inline).toBeGreaterThan(10);
});

test("hard links are one inode with its names counted, directories count their subdirectories", () => {
  const root = makeNode("dir");
  const link = makeNode("symlink", { target: bytesOfKey("x") });
  const sub = makeNode("dir", { children: new Map([["again", link]]) });
  root.children.set("a", link).set("b", link).set("sub", sub).set("other", makeNode("dir"));
  const { erofs } = openRafs(encodeBootstrap({ root, blobs: [], chunkBytes: 4096, ...ALGORITHMS }));
  const at = (dir: number, name: string): number => erofs.lookup(dir, bytesOfKey(name))?.nid ?? 0;
  const subNid = at(erofs.rootNid, "sub");
  expect([at(erofs.rootNid, "b"), at(subNid, "again")]).toEqual([at(erofs.rootNid, "a"), at(erofs.rootNid, "a")]);
  expect(erofs.inode(at(erofs.rootNid, "a")).nlink).toBe(3);
  expect([erofs.inode(erofs.rootNid).nlink, erofs.inode(subNid).nlink]).toEqual([4, 2]);
});

describe("encodeBootstrap() refuses", () => {
  const blob = new FakeBlob(0, 4096);
  const file = blob.file(5000);
  const twin = makeNode("dir");
  const rootOf = (entries: [string, TreeNode][]): TreeNode => makeNode("dir", { children: new Map(entries) });
  const cases: [string, Partial<BootstrapOptions>, string][] = [
    ["a name with a slash", { root: rootOf([["a/b", makeNode("file")]]) }, "EINVAL"],
    ["a name with a NUL", { root: rootOf([["a\0b", makeNode("file")]]) }, "EINVAL"],
    ["a file named ..", { root: rootOf([["..", makeNode("file")]]) }, "EINVAL"],
    ["a name of 256 bytes", { root: rootOf([["x".repeat(256), makeNode("file")]]) }, "ENOTSUP"],
    [
      "a directory with two names",
      {
        root: rootOf([
          ["a", twin],
          ["b", twin],
        ]),
      },
      "EINVAL",
    ],
    ["a root that is a file", { root: makeNode("file") }, "EINVAL"],
    ["an empty symbolic link", { root: rootOf([["a", makeNode("symlink")]]) }, "ENOTSUP"],
    ["a device number too large", { root: rootOf([["a", makeNode("char", { rdevMajor: 4096 })]]) }, "ENOTSUP"],
    ["a uid above 32 bits", { root: rootOf([["a", makeNode("file", { uid: 2 ** 32 })]]) }, "EINVAL"],
    ["a file with a chunk missing", { root: rootOf([["a", { ...file, chunks: file.chunks.slice(1) }]]) }, "EINVAL"],
    ["a file longer than its chunks", { root: rootOf([["a", { ...file, sizeBytes: 6000 }]]) }, "EINVAL"],
    ["a chunk of an unlisted blob", { root: rootOf([["a", file]]), blobs: [] }, "EINVAL"],
    ["a chunk size that is no power of two", { chunkBytes: 5000 }, "EINVAL"],
    ["a blob listed twice", { blobs: [blob.record, blob.record] }, "EINVAL"],
    ["a blob without chunks", { blobs: [{ ...blob.record, chunkCount: 0 }] }, "EINVAL"],
    [
      "an attribute of no known namespace",
      { root: rootOf([["a", makeNode("file", { xattrs: new Map([["os2.x", new Uint8Array(1)]]) })]]) },
      "ENOTSUP",
    ],
    [
      "an attribute value of 64 KiB",
      { root: rootOf([["a", makeNode("file", { xattrs: new Map([["user.x", new Uint8Array(65536)]]) })]]) },
      "ENOTSUP",
    ],
  ];
  test.each(cases)("%s", (_, change, code) => {
    const options = { root: rootOf([["a", file]]), blobs: [blob.record], chunkBytes: 4096, ...ALGORITHMS, ...change };
    expect(() => encodeBootstrap(options)).toThrow(NydusError);
    try {
      encodeBootstrap(options);
    } catch (error) {
      expect((error as NydusError).code as string).toBe(code);
    }
  });
});
