import { describe, expect, test } from "bun:test";
import type { NydusError } from "../../../../src/base/errors.ts";
import { IMPLICIT_XATTR, OPAQUE_NAME } from "../../../../src/format/tree/markers.ts";
import type { ChunkRecord, TreeNode } from "../../../../src/format/tree/node.ts";
import { mergeLayers } from "../../../../src/format/tree/overlay.ts";
import { type Line, layerOf, linesOf } from "../../../kit/tree-lines.ts";

const OPAQUE = `file d/${OPAQUE_NAME}`;

describe("mergeLayers()", () => {
  test.each([
    ["a whiteout hides a lower file", [["file a", "file b"], ["file .wh.a"]], ["file b"]],
    ["a whiteout hides a lower directory whole", [["file d/x", "file b"], ["file .wh.d"]], ["file b"]],
    ["a whiteout spares its own layer's file before it", [["dir a"], ["file a", "file .wh.a"]], ["file a"]],
    ["a whiteout spares its own layer's file after it", [["dir a"], ["file .wh.a", "file a"]], ["file a"]],
    ["a directory beside its whiteout starts anew", [["file d/x"], ["file d/y", "file .wh.d"]], ["dir d", "file d/y"]],
    ["a whiteout of nothing is nothing", [["file a"], ["file .wh.b", "file d/.wh.c"]], ["file a", "dir d"]],
    ["a whiteout in the bottom layer is nothing", [["file .wh.a", "file a"]], ["file a"]],
    [
      "an opaque directory hides all below",
      [
        ["file d/x", "file d/e/y"],
        ["file d/z", OPAQUE],
      ],
      ["dir d", "file d/z"],
    ],
    [
      "an opaque marker spares files before it",
      [["file d/x"], ["file d/a", OPAQUE, "file d/b"]],
      ["dir d", "file d/a", "file d/b"],
    ],
    ["an opaque root hides everything below", [["file a"], [`file ${OPAQUE_NAME}`, "file b"]], ["file b"]],
    ["AUFS's own files are left out", [["file .wh..wh.aufs", "file .wh..wh.plnk/x", "file a"]], ["file a"]],
    ["a device 0:0 is a whiteout", [["file a"], ["char a 0:0"]], []],
    ["a directory put over a device 0:0 is opaque", [["file d/x"], ["char d 0:0", "file d/y"]], ["dir d", "file d/y"]],
    ["a file over a directory", [["file d/x"], ["file d"]], ["file d"]],
    ["a directory over a file", [["file d"], ["file d/x"]], ["dir d", "file d/x"]],
    ["a symlink over a directory", [["file d/x"], ["symlink d e"]], ["symlink d e"]],
    [
      "a directory over a symlink, which is not followed",
      [["dir e", "symlink d e"], ["file d/x"]],
      ["dir d", "file d/x", "dir e"],
    ],
    ["a file between two directories parts them", [["file d/x"], ["file d"], ["file d/y"]], ["dir d", "file d/y"]],
    [
      "a whiteout between two directories parts them",
      [["file d/x"], ["file .wh.d"], ["file d/y"]],
      ["dir d", "file d/y"],
    ],
    ["an empty layer changes nothing", [["file a"], []], ["file a"]],
    ["no layers are an empty root", [], []],
  ] as [string, Line[][], string[]][])("%s", (_, layers, wanted) => {
    expect(linesOf(mergeLayers(layers.map((lines) => layerOf(...lines))))).toEqual(wanted);
  });

  test("a directory's entry gives it its attributes and xattrs whole; an implicit one leaves them", () => {
    const xattrs = new Map([["user.a", new Uint8Array(1)]]);
    const lower = layerOf(["dir d", { mode: 0o700, uid: 5, mtimeSec: 7, xattrs }], "file d/x");
    const implicit = mergeLayers([lower, layerOf("file d/y")]).children.get("d");
    expect(implicit).toMatchObject({ mode: 0o700, uid: 5, mtimeSec: 7, xattrs });
    expect([...(implicit?.children.keys() ?? [])]).toEqual(["x", "y"]);
    const described = mergeLayers([lower, layerOf(["dir d", { mode: 0o711, mtimeSec: 8 }])]).children.get("d");
    expect(described).toMatchObject({ mode: 0o711, uid: 0, mtimeSec: 8, xattrs: new Map() });
  });

  test("a directory that was whited out and comes back implicit has none of the lower attributes", () => {
    const lower = layerOf(["dir d", { mode: 0o700, uid: 5 }]);
    for (const upper of [layerOf("file .wh.d", "file d/x"), layerOf("char d 0:0", "file d/x")]) {
      expect(mergeLayers([lower, upper]).children.get("d")).toMatchObject({ mode: 0o755, uid: 0 });
    }
  });

  test("no marker is left", () => {
    const merged = mergeLayers([layerOf("file a/b"), layerOf("file c/d", "hardlink l a/b")]);
    const visit = (node: TreeNode): void => {
      expect([...node.xattrs.keys()]).toEqual([]);
      for (const child of node.children.values()) visit(child);
    };
    visit(merged);
    expect(layerOf("file a/b").xattrs.has(IMPLICIT_XATTR)).toBe(true);
  });

  test("replacing one name of a link group leaves the others linked", () => {
    const lower = layerOf("file a", "hardlink b a", "hardlink c a");
    expect(linesOf(mergeLayers([lower, layerOf("file b")]))).toEqual(["file a", "file b", "hardlink c a"]);
    expect(linesOf(mergeLayers([lower, layerOf("file .wh.a")]))).toEqual(["file b", "hardlink c b"]);
  });

  test("a link to a lower file takes that name along, and parts it from its other names", () => {
    const lower = layerOf(["file old", { mode: 0o600, mtimeSec: 9 }], "hardlink old2 old");
    const merged = mergeLayers([lower, layerOf("hardlink new old", "hardlink new2 old")]);
    expect(linesOf(merged)).toEqual(["file new", "hardlink new2 new", "hardlink old new", "file old2"]);
    expect(merged.children.get("new")).toMatchObject({ mode: 0o600, mtimeSec: 9 });
  });

  test("a link to a lower file keeps its content where the layer replaces or deletes the name", () => {
    const lower = layerOf(["file old", { sizeBytes: 5 }]);
    for (const upper of [layerOf("hardlink new old", "symlink old x"), layerOf("hardlink new old", "file .wh.old")]) {
      expect(mergeLayers([lower, upper]).children.get("new")?.sizeBytes).toBe(5);
    }
  });

  test("a link to a lower path follows the symlinks of the layers below, but not the last", () => {
    const lower = layerOf("symlink lib usr/lib", "symlink usr/lib/s t");
    expect(linesOf(mergeLayers([lower, layerOf("hardlink l lib/s")]))).toContain("hardlink usr/lib/s l");
  });

  test.each([
    ["nothing", "hardlink d/l no/such", "no lower layer has"],
    ["a directory", "hardlink d/l dir", "a directory"],
  ])("refuses a link to %s below, naming the link", (_, line, message) => {
    let caught: unknown;
    try {
      mergeLayers([layerOf("dir dir"), layerOf(line)]);
    } catch (error) {
      caught = error;
    }
    expect((caught as NydusError).code).toBe("EUCLEAN");
    expect((caught as NydusError).message).toContain(message);
    expect((caught as NydusError).at.path).toBe("d/l");
  });

  test("chunks go through the hook once a file, hard links and all, with their layer", () => {
    const chunk = (blob: number): ChunkRecord => ({
      blob,
      index: 0,
      digest: new Uint8Array(32),
      compressed: false,
      blobOffset: 0,
      blobSizeBytes: 1,
      deviceOffset: 0,
      sizeBytes: 1,
    });
    const layerWith = (blob: number, ...lines: Line[]): TreeNode => {
      const root = layerOf(...lines);
      for (const node of root.children.values())
        if (node.type === "file" && node.xattrs.size === 0) node.chunks = [chunk(blob)];
      return root;
    };
    const calls: [number, number][] = [];
    const layers = [layerWith(0, "file a", "hardlink b a"), layerWith(0, "file c", "hardlink d a")];
    const merged = mergeLayers(layers, {
      remapChunk: (record, layer) => {
        calls.push([record.blob, layer]);
        return { ...record, blob: layer * 10 };
      },
    });
    const blobs = ["a", "b", "c", "d"].map((name) => merged.children.get(name)?.chunks[0]?.blob);
    expect(blobs).toEqual([0, 0, 10, 0]);
    expect(calls).toEqual([
      [0, 0],
      [0, 1],
    ]);
    expect(linesOf(merged)).toEqual(["file a", "file b", "file c", "hardlink d a"]);
  });

  test("leaves the layers as they are: the same stack merges to the same again, and twice over", () => {
    const lower = layerOf("file d/a", "file d/b", "hardlink c d/a");
    const upper = layerOf("file d/.wh.a", "hardlink d/n d/b", "file e/f");
    const once = linesOf(mergeLayers([lower, upper]));
    expect(linesOf(mergeLayers([lower, upper]))).toEqual(once);
    expect(linesOf(mergeLayers([lower, lower, lower]))).toEqual(linesOf(mergeLayers([lower])));
    expect(linesOf(lower)).toEqual(["file c", "dir d", "hardlink d/a c", "file d/b"]);
  });
});
