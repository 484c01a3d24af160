import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { openRafs } from "../../src/format/rafs/image.ts";
import { fullGolden, smallGolden } from "../kit/golden.ts";
import { readImage } from "../kit/oci-image.ts";
import { isBuilt, nydusOk } from "../kit/program.ts";
import { run, shell } from "../kit/shell.ts";
import { diffTrees, readTree, type TreeEntry, treeOf } from "../kit/tree.ts";

const EROFS_MOUNT = join(dirname(fileURLToPath(import.meta.url)), "..", "kit", "erofs-mount.py");
const canMount = process.getuid?.() === 0 && existsSync("/dev/fuse") && isBuilt;
const REFS = ["oci", "docker", "zstd"];
const COMPRESSORS = ["zstd", "lz4_block", "none"];
const CHUNK_SIZES = ["4KiB", "1MiB"];

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), "nydus-golden-"));
});
afterAll(async () => {
  for (const mount of ["fuse", "erofs"]) await run("umount", "-l", join(dir, mount));
  rmSync(dir, { recursive: true, force: true });
});

/** Differences from the golden tree; no layer sets the root directory's time. */
function differences(golden: string, tree: readonly TreeEntry[]): string[] {
  const isRootTime = (field: string, entry: TreeEntry): boolean => field === "mtime" && entry.path === "/";
  return diffTrees(readTree(join(golden, "tree.jsonl")), tree, { ignore: isRootTime });
}

async function treeThroughFuse(image: string, state: string): Promise<TreeEntry[]> {
  const mountpoint = join(dir, "fuse");
  mkdirSync(mountpoint, { recursive: true });
  await nydusOk("--root", state, "mount", image, mountpoint);
  try {
    return await treeOf(mountpoint);
  } finally {
    await nydusOk("--root", state, "umount", mountpoint);
  }
}

/** The tree that the kernel's EROFS driver shows over the cache files that a FUSE mount has filled. */
async function treeThroughErofs(bootstrap: string, state: string): Promise<TreeEntry[]> {
  const mountpoint = join(dir, "erofs");
  mkdirSync(mountpoint, { recursive: true });
  const devices = deviceFiles(bootstrap, state);
  expect((await run("python3", EROFS_MOUNT, bootstrap, mountpoint, ...devices)).stderr).toBe("");
  try {
    return await treeOf(mountpoint);
  } finally {
    await shell(`umount ${mountpoint}`);
  }
}

function deviceFiles(bootstrap: string, state: string): string[] {
  const { blobs } = openRafs(new Uint8Array(readFileSync(bootstrap)));
  return blobs.map((blob) => join(state, "cache", `${blob.id}.data`));
}

async function treeThroughUnpack(image: string, state: string): Promise<TreeEntry[]> {
  const target = join(dir, "unpacked");
  await nydusOk("--root", state, "unpack", image, target);
  try {
    return await treeOf(target);
  } finally {
    rmSync(target, { recursive: true });
  }
}

/** The bootstrap of the only image that was mounted under `state`. */
function bootstrapOf(state: string): string {
  const [only] = readdirSync(join(state, "bootstraps"));
  return join(state, "bootstraps", only as string, "image.boot");
}

function goldenTrees(name: string, golden: string | undefined): void {
  describe.skipIf(!canMount || golden === undefined)(`${name} golden image`, () => {
    const images = join(golden ?? "", "images");
    const cases = REFS.flatMap((ref) => COMPRESSORS.flatMap((c) => CHUNK_SIZES.map((size) => [ref, c, size] as const)));

    test.each(cases)(
      "of ref %s, as %s in chunks of %s: FUSE, unpack, the kernel's EROFS and fsck agree",
      async (ref, compressor, chunkSize) => {
        const image = `oci:${join(dir, "out")}:${ref}`;
        const state = join(dir, "state");
        rmSync(state, { recursive: true, force: true });
        const flags = ["--compressor", compressor, "--chunk-size", chunkSize];
        await nydusOk("--root", state, "convert", ...flags, `oci:${images}:${ref}`, image);
        expect(differences(golden ?? "", await treeThroughFuse(image, state))).toEqual([]);
        expect(differences(golden ?? "", await treeThroughUnpack(image, state))).toEqual([]);
        const bootstrap = bootstrapOf(state);
        expect(differences(golden ?? "", await treeThroughErofs(bootstrap, state))).toEqual([]);
        const devices = deviceFiles(bootstrap, state).map((file) => `--device=${file}`);
        expect((await run("fsck.erofs", ...devices, bootstrap)).status).toBe(0);
      },
    );

    test("converted with every codec in the WASM core shows the same tree", async () => {
      const image = `oci:${join(dir, "out")}:core`;
      const state = join(dir, "state-core");
      process.env["NYDUS_CORE"] = "wasm";
      try {
        await nydusOk("--root", state, "convert", "--compressor", "lz4_block", `oci:${images}:zstd`, image);
        expect(differences(golden ?? "", await treeThroughFuse(image, state))).toEqual([]);
      } finally {
        delete process.env["NYDUS_CORE"];
      }
    });

    test("has its runtime config byte for byte, and diff ids and history that fit its layers", () => {
      const [source, converted] = [readImage(images, "zstd"), readImage(join(dir, "out"), "core")];
      const runtimeConfig = (text: string): string => /"config":(\{.*?\}),"rootfs"/.exec(text)?.[1] ?? "none";
      expect(runtimeConfig(converted.config)).toBe(runtimeConfig(source.config));
      const config = JSON.parse(converted.config) as {
        rootfs: { diff_ids: string[] };
        history: { created_by: string; comment?: string }[];
      };
      expect<string[]>(config.rootfs.diff_ids.slice(0, -1)).toEqual(converted.layers.slice(0, -1));
      expect(config.rootfs.diff_ids).toHaveLength(converted.layers.length);
      expect(config.history.at(-1)).toEqual({ created_by: "Nydus Converter", comment: "Nydus Bootstrap Layer" });
    });
  });
}

goldenTrees("small", smallGolden());
goldenTrees("full", fullGolden());
