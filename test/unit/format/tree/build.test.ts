import { describe, expect, test } from "bun:test";
import { bytesOfKey, keyOfBytes } from "../../../../src/base/bytes.ts";
import type { NydusError } from "../../../../src/base/errors.ts";
import { type LayerEntry, LayerTree } from "../../../../src/format/tree/build.ts";
import { HARDLINK_XATTR, IMPLICIT_XATTR, isImplicit, OPAQUE_NAME } from "../../../../src/format/tree/markers.ts";
import type { TreeNode } from "../../../../src/format/tree/node.ts";
import { type Line, layerOf } from "../../../kit/tree-lines.ts";

function at(root: TreeNode, path: string): TreeNode {
  return path.split("/").reduce((dir, name) => {
    const child = dir.children.get(name);
    if (child === undefined) throw new Error(`no ${name} of ${path}`);
    return child;
  }, root);
}

function failure(...lines: Line[]): NydusError {
  try {
    layerOf(...lines);
  } catch (error) {
    return error as NydusError;
  }
  throw new Error("nothing was thrown");
}

describe("LayerTree.add()", () => {
  test("makes missing parents, marked implicit until an entry describes them", () => {
    const root = layerOf("file a/b/c");
    expect([root, at(root, "a"), at(root, "a/b")].map(isImplicit)).toEqual([true, true, true]);
    const { mode, uid, gid, mtimeSec } = at(root, "a");
    expect({ mode, uid, gid, mtimeSec }).toEqual({ mode: 0o755, uid: 0, gid: 0, mtimeSec: 0 });
    const described = layerOf("file a/b/c", ["dir a/b", { mode: 0o700 }], ["dir ", { mode: 0o711 }]);
    expect([described, at(described, "a"), at(described, "a/b")].map(isImplicit)).toEqual([false, true, false]);
    expect([described.mode, at(described, "a/b").mode]).toEqual([0o711, 0o700]);
  });

  test("a second directory entry keeps the children and adds its xattrs, anything else replaces", () => {
    const xattrs = (name: string): Partial<LayerEntry> => ({ xattrs: new Map([[name, new Uint8Array(1)]]) });
    const root = layerOf(["dir d", xattrs("user.a")], "file d/x", ["dir d", { ...xattrs("user.b"), mode: 0o700 }]);
    expect([...at(root, "d").xattrs.keys()]).toEqual(["user.a", "user.b"]);
    expect([...at(root, "d").children.keys()]).toEqual(["x"]);
    expect(layerOf("dir d", "file d/x", "file d").children.get("d")?.type).toBe("file");
    expect(at(layerOf("dir d", "file d/x", "file d", "dir d"), "d").children.size).toBe(0);
    expect(at(layerOf("symlink s t", "dir s"), "s").type).toBe("dir");
  });

  test("a hard link is one object under both names, whatever it links to", () => {
    for (const target of ["file t", "symlink t x", "fifo t", "block t 7:1"]) {
      const root = layerOf(target, ["hardlink l t", { mode: 0o111, mtimeSec: 99 }]);
      expect(at(root, "l")).toBe(at(root, "t"));
      expect(at(root, "l").mtimeSec).toBe(0);
    }
  });

  test("a hard link to a path of the layers below is a marked placeholder, one for its further links", () => {
    const root = layerOf("hardlink l some/lower", "hardlink m l");
    expect(keyOfBytes(at(root, "l").xattrs.get(HARDLINK_XATTR) ?? new Uint8Array())).toBe("some/lower");
    expect(at(root, "m")).toBe(at(root, "l"));
  });

  test("a symlink of the layer in the place of a parent is followed within the root", () => {
    const root = layerOf(
      "dir usr/lib",
      "symlink lib usr/lib",
      "file lib/a",
      "symlink up ../../../usr",
      "file up/lib/b",
    );
    expect([...at(root, "usr/lib").children.keys()]).toEqual(["a", "b"]);
    expect(at(root, "lib").type).toBe("symlink");
    const absolute = layerOf("symlink d/s /x/../y", "file d/s/f");
    expect([...absolute.children.keys()]).toEqual(["d", "y"]);
    const linked = layerOf("file usr/lib/t", "symlink lib usr/lib", "hardlink l lib/t");
    expect(at(linked, "l")).toBe(at(linked, "usr/lib/t"));
  });

  test.each([
    ["a file in the place of a parent", ["file a", "file a/b"], "in the place of a directory"],
    ["symlinks in a circle", ["symlink a b", "symlink b a", "file a/x"], "symlinks"],
    ["a hard link to a directory", ["dir d", "hardlink l d"], "directory"],
    ["a hard link to the root", ["hardlink l "], "root"],
    ["a hard link to what the layer deletes", ["file d/.wh.x", "hardlink l d/x"], "deletes"],
    ["a hard link into what the layer deletes", ["file .wh.d", "dir d", "hardlink l d/x"], "deletes"],
    ["a hard link into an opaque directory", [`file d/${OPAQUE_NAME}`, "hardlink l d/x"], "deletes"],
    ["a hard link to what a device 0:0 hides", ["char x 0:0", "hardlink l x"], "deletes"],
    ["a root that is a file", ["file "], "root"],
    ["a whiteout of nothing", ["file d/.wh."], "no name"],
    ["a whiteout of the parent", ["file d/.wh..."], "no name"],
  ] as [string, Line[], string][])("refuses %s", (_, lines, message) => {
    const error = failure(...lines);
    expect(error.code).toBe("EUCLEAN");
    expect(error.message).toContain(message);
    expect(error.at.offset).toBe(512 * (lines.length - 1));
  });

  test("refuses a path that symlinks make deeper than 2,048 directories", () => {
    const deep = Array(400).fill("dddd").join("/");
    const lines = Array.from({ length: 6 }, (_, i): Line => `symlink ${"s/".repeat(i)}s ${deep}`);
    expect(failure(...lines, `file ${"s/".repeat(6)}f`).message).toContain("2048");
  });

  test("keeps whiteouts as entries", () => {
    const root = layerOf("file .wh.a", `file d/${OPAQUE_NAME}`, "file a");
    expect([...root.children.keys()]).toEqual([".wh.a", "d", "a"]);
    expect([...at(root, "d").children.keys()]).toEqual([OPAQUE_NAME]);
  });

  test("writes a whiteout that EROFS cannot name as a device 0:0, or as what is there already", () => {
    const long = "n".repeat(253);
    const alone = at(layerOf(`file d/.wh.${long}`), `d/${long}`);
    expect([alone.type, alone.rdevMajor, alone.rdevMinor]).toEqual(["char", 0, 0]);
    expect(at(layerOf(`file d/${long}`, `file d/.wh.${long}`), `d/${long}`).type).toBe("file");
    for (const lines of [
      [`file d/${long}/x`, `file d/.wh.${long}`],
      [`file d/.wh.${long}`, `file d/${long}/x`],
    ] as Line[][]) {
      const dir = at(layerOf(...lines), `d/${long}`);
      expect([...dir.children.keys()].sort()).toEqual([OPAQUE_NAME, "x"]);
      expect(isImplicit(dir)).toBe(false);
    }
  });

  test("leaves out xattrs that no file system would show, and markers that it did not make", () => {
    const names = ["user.a", "trusted.t", "trusted.overlay.origin", IMPLICIT_XATTR, HARDLINK_XATTR];
    const xattrs = new Map(names.map((name) => [name, new Uint8Array(1)]));
    const root = layerOf(["file f", { xattrs }], ["dir d", { xattrs }], ["symlink s t", { xattrs }]);
    expect([...at(root, "f").xattrs.keys()]).toEqual(["user.a", "trusted.t"]);
    expect([...at(root, "d").xattrs.keys()]).toEqual(["user.a", "trusted.t"]);
    expect([...at(root, "s").xattrs.keys()]).toEqual(["trusted.t"]);
  });

  test("takes overlayfs's own opaque mark", () => {
    const root = layerOf(["dir d", { xattrs: new Map([["trusted.overlay.opaque", bytesOfKey("y")]]) }]);
    expect(at(root, "d").children.has(OPAQUE_NAME)).toBe(true);
  });

  test("returns the node, so that its chunks can be set later", () => {
    const tree = new LayerTree();
    const entry: LayerEntry = {
      path: bytesOfKey("f"),
      type: "file",
      mode: 0o644,
      uid: 0,
      gid: 0,
      mtimeSec: 0,
      mtimeNsec: 0,
      sizeBytes: 1,
      linkPath: new Uint8Array(0),
      rdevMajor: 0,
      rdevMinor: 0,
      xattrs: new Map(),
      offset: 0,
    };
    expect(tree.add(entry)).toBe(at(tree.root, "f"));
  });
});
