import { describe, expect, test } from "bun:test";
import { bytesOfKey } from "../../../../src/base/bytes.ts";
import { InodeExtended } from "../../../../src/format/erofs/inode.ts";
import { checkBootstrap } from "../../../../src/format/rafs/check.ts";
import { RafsChunk } from "../../../../src/format/rafs/chunk-table.ts";
import { dumpBootstrap } from "../../../../src/format/rafs/dump.ts";
import { openRafs, type RafsImage } from "../../../../src/format/rafs/image.ts";
import { readTree } from "../../../../src/format/rafs/read-tree.ts";
import { RegionMap } from "../../../../src/format/rafs/region-map.ts";
import { encodeBootstrap } from "../../../../src/format/rafs/writer.ts";
import { makeNode } from "../../../../src/format/tree/node.ts";
import { FakeBlob } from "./samples.ts";

const blob = new FakeBlob(0, 4096);
const root = makeNode("dir");
const file = blob.file(9000);
root.children.set("file", file).set("hard", file).set("sub", makeNode("dir")).set("zlast", makeNode("fifo"));
const sound = encodeBootstrap({ root, blobs: [blob.record], chunkBytes: 4096, compressor: "none", digester: "sha256" });

/** The inode of a name in the root, by byte offset. */
function inodeAt(image: RafsImage, name: string): number {
  const { erofs } = image;
  return erofs.inode(name === "" ? erofs.rootNid : (erofs.lookup(erofs.rootNid, bytesOfKey(name))?.nid ?? 0)).offset;
}

/** Findings after `change` has damaged a copy. */
function findingsAfter(change: (view: DataView, image: RafsImage) => void): string {
  const copy = sound.slice();
  change(new DataView(copy.buffer), openRafs(sound));
  return checkBootstrap(copy)
    .findings.map((finding) => finding.message)
    .join("\n");
}

test("a sound bootstrap has no findings, and its counts", () => {
  expect(checkBootstrap(sound)).toEqual({
    findings: [],
    counts: {
      inodes: 4,
      directories: 2,
      files: 1,
      symlinks: 0,
      specials: 1,
      extraLinks: 1,
      xattrs: 0,
      chunks: 3,
      unreferencedChunks: 0,
      fileBytes: 9000,
    },
  });
});

describe("checkBootstrap() finds", () => {
  const chunkTable = openRafs(sound).superblock.chunkTable.offset;
  const name = (text: string): number => Buffer.from(sound).indexOf(text);
  const cases: [string, (view: DataView, image: RafsImage) => void, string][] = [
    [
      "a wrong link count",
      (v, i) => v.setUint32(inodeAt(i, "file") + InodeExtended.at.iNlink, 3, true),
      "Link count is 3",
    ],
    [
      "a wrong link count of a directory",
      (v, i) => v.setUint32(inodeAt(i, "") + InodeExtended.at.iNlink, 2, true),
      "Link count is 2, wanted 3",
    ],
    ["names out of order", (v) => v.setUint8(name("zlast"), 0x61), "not sorted"],
    [
      "an entry of another type",
      (v, i) => v.setUint16(inodeAt(i, "zlast") + InodeExtended.at.iMode, 0o140644, true),
      "Entry says fifo",
    ],
    [
      "a chunk number that its row does not have",
      (v, i) => v.setUint16(inodeAt(i, "file") + 64, 9, true),
      "number 9, its row says 0",
    ],
    [
      "a chunk at another block",
      (v, i) => v.setUint32(inodeAt(i, "file") + 64 + 16 + 4, 0, true),
      "block 0, the kernel reads 2",
    ],
    ["a chunk of no device", (v, i) => v.setUint16(inodeAt(i, "file") + 64 + 2, 0, true), "in no device"],
    [
      "a row that overlaps another",
      (v) => v.setUint32(chunkTable + RafsChunk.at.uncompressedSize, 5000, true),
      "bytes at device offset",
    ],
    ["a row of no blob", (v) => v.setUint32(chunkTable + RafsChunk.at.blobIndex, 7, true), "no row for block"],
    ["bytes that nothing owns", (v) => v.setUint8(sound.length - 1, 1), "not zero"],
    ["bytes before the superblock", (v) => v.setUint8(5, 1), "not zero"],
    ["too small an inode count", (v) => v.setUint32(1024 + 16, 2, true), "there are 4"],
    [
      "a directory below itself",
      (v, i) =>
        i.erofs.readdir(i.erofs.rootNid).forEach((entry, n) => {
          if (Buffer.from(entry.name).toString() === "sub")
            v.setUint32(inodeAt(i, "") + 64 + n * 12, i.erofs.rootNid, true);
        }),
      "two names",
    ],
    [
      "a size past the table",
      (v, i) => v.setUint32(inodeAt(i, "file") + InodeExtended.at.iSize, 2 ** 31, true),
      "Inodes overlap",
    ],
    ["a device of other size", (v) => v.setUint32(1408 + 64, 1, true), "Device 1 has 1 blocks"],
  ];
  test.each(cases)("%s", (_, change, message) => {
    expect(findingsAfter(change)).toContain(message);
  });
});

test("readTree() refuses a directory below itself", () => {
  const copy = sound.slice();
  const image = openRafs(sound);
  [...image.erofs.readdir(image.erofs.rootNid)].forEach((entry, n) => {
    if (Buffer.from(entry.name).toString() !== "sub") return;
    new DataView(copy.buffer).setUint32(inodeAt(image, "") + 64 + n * 12, image.erofs.rootNid, true);
  });
  expect(() => readTree(openRafs(copy))).toThrow("two names");
});

test("readTree() refuses inodes that take more than the image", () => {
  const copy = sound.slice();
  new DataView(copy.buffer).setUint32(inodeAt(openRafs(sound), "file") + InodeExtended.at.iSize, 2 ** 31, true);
  expect(() => readTree(openRafs(copy))).toThrow("inodes overlap");
});

test("dumpBootstrap() has a line for each name, extent and chunk", () => {
  const lines = [...dumpBootstrap(sound)];
  expect(lines.filter((line) => line.startsWith("chunk ")).length).toBe(3);
  expect(lines.find((line) => line.startsWith('file "/hard"'))).toContain("links=2 size=9000");
  expect(lines.filter((line) => line.startsWith("  extent 0+9000 device 1@0")).length).toBe(2);
});

test("a region map tells overlaps and what nobody owns", () => {
  const map = new RegionMap();
  map.claim(0, 4, "a");
  map.claim(2, 4, "b");
  map.claim(8, 2, "c");
  map.claim(9, 0, "nothing");
  const image = new Uint8Array(12);
  image[7] = 1;
  image[11] = 1;
  expect([...map.problems(image)]).toEqual([
    { offset: 2, message: "b overlaps a" },
    { offset: 7, message: "bytes that nothing owns, up to 8, are not zero" },
    { offset: 11, message: "bytes that nothing owns, up to 12, are not zero" },
  ]);
});
