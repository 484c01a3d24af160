import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fullGolden, smallGolden } from "../kit/golden.ts";
import { isBuilt, nydusOk } from "../kit/program.ts";
import { run } from "../kit/shell.ts";
import { diffTrees, readTree, type TreeEntry, treeOf } from "../kit/tree.ts";

const canMount = process.getuid?.() === 0 && existsSync("/dev/fuse") && isBuilt;

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), "nydus-foreign-"));
  mkdirSync(join(dir, "mnt"));
});
afterAll(async () => {
  await run("umount", "-l", join(dir, "mnt"));
  rmSync(dir, { recursive: true, force: true });
});

/**
 * Where nydus-image itself departs from the tree (golden README): a time of 0 becomes the build's, nanoseconds are
 * dropped, a hard-linked file has the time of its last link, the root directory has the build's.
 */
function isBuildersTime(field: keyof TreeEntry, golden: TreeEntry, shown: TreeEntry): boolean {
  if (field !== "mtime") return false;
  if (golden.path === "/" || golden.mtime === "0" || (golden.nlink ?? 1) > 1) return true;
  return golden.mtime.slice(0, -9) === shown.mtime.slice(0, -9);
}

async function differences(golden: string, ...mountArgs: string[]): Promise<string[]> {
  const mountpoint = join(dir, "mnt");
  const state = join(dir, "state");
  await nydusOk("--root", state, "mount", ...mountArgs, mountpoint);
  try {
    const shown = await treeOf(mountpoint);
    return diffTrees(readTree(join(golden, "tree.jsonl")), shown, { ignore: isBuildersTime });
  } finally {
    await nydusOk("--root", state, "umount", mountpoint);
    rmSync(state, { recursive: true, force: true });
  }
}

function foreignImages(name: string, golden: string | undefined): void {
  describe.skipIf(!canMount || golden === undefined)(`of the ${name} golden set`, () => {
    const root = golden ?? "";
    test.each(["nydus", "nerdctl-nydus"])("the image of ref %s shows its tree", async (ref) => {
      expect(await differences(root, `oci:${join(root, "images")}:${ref}`)).toEqual([]);
    });
    const variants = golden === undefined ? [] : readdirSync(join(root, "rafs")).filter((one) => one.startsWith("v6-"));
    test.each(variants)("the bootstrap %s of nydus-image shows its tree", async (variant) => {
      const rafs = join(root, "rafs", variant);
      const args = ["--bootstrap", join(rafs, "merged.boot"), "--blob-dir", join(rafs, "blobs")];
      expect(await differences(root, ...args)).toEqual([]);
    });
    test("RAFS v5 is refused with a reason", async () => {
      const mount = nydusOk("mount", `oci:${join(root, "images")}:nydus-v5`, join(dir, "mnt"));
      expect(mount).rejects.toThrow(/status 6: .*v5/);
    });
  });
}

foreignImages("small", smallGolden());
foreignImages("full", fullGolden());
