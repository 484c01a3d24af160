import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { checkBootstrap } from "../../../../src/format/rafs/check.ts";
import { openRafs } from "../../../../src/format/rafs/image.ts";
import { fullGolden } from "../../../kit/golden.ts";
import { diffTrees, readTree, type TreeEntry } from "../../../kit/tree.ts";
import { bootstrapsOf, devicesOf, entriesOfImage, variants } from "./samples.ts";

/** nydus-image drops nanoseconds, takes another time for 0, for hard links and for the root (golden README). */
function ignoresTime(field: keyof TreeEntry, golden: TreeEntry): boolean {
  return field === "mtime" && (golden.mtime === "0" || (golden.nlink ?? 1) > 1 || golden.path === "/");
}

function wholeSeconds(entries: TreeEntry[]): TreeEntry[] {
  return entries.map((entry) => {
    const ns = BigInt(entry.mtime);
    return { ...entry, mtime: (ns - (((ns % 1_000_000_000n) + 1_000_000_000n) % 1_000_000_000n)).toString() };
  });
}

test.skipIf(fullGolden() === undefined)("the full golden set is among the variants", () => {
  expect(variants().some(({ name }) => name.startsWith("full "))).toBe(true);
});

describe.each(variants())("the golden variant $name", (variant) => {
  test("openRafs() gives the tree and the content of every file of the merged bootstrap", () => {
    const merged = bootstrapsOf(variant)[0];
    const image = openRafs(merged?.bytes as Uint8Array);
    const found = entriesOfImage(image.erofs, devicesOf(image, join(variant.dir, "blobs")));
    const golden = wholeSeconds(readTree(variant.tree));
    expect(golden.length).toBeGreaterThan(100);
    expect(diffTrees(golden, found, { ignore: ignoresTime })).toEqual([]);
  });

  test("checkBootstrap() finds nothing wrong, and every row of the chunk table referenced", () => {
    for (const { name, bytes } of bootstrapsOf(variant)) {
      const { findings, counts } = checkBootstrap(bytes);
      expect({ name, findings, unreferenced: counts.unreferencedChunks }).toEqual({
        name,
        findings: [],
        unreferenced: 0,
      });
      expect(counts.inodes).toBeGreaterThan(5);
    }
  });
});
