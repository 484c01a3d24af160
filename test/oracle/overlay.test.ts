import { describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { mergeLayers } from "../../src/format/tree/overlay.ts";
import { smallGolden } from "../kit/golden.ts";
import { goldenLayers } from "../kit/golden-layers.ts";
import { listNodes } from "../kit/list-nodes.ts";
import { compareWithOverlayfs, contentHash, layerTreeOf, overlayMissing, streamOf } from "../kit/overlay-oracle.ts";
import { diffTrees, treeOf } from "../kit/tree.ts";

const FIRST_SEED = 1;
const STACKS = 500;

const missing = overlayMissing();
if (missing !== undefined) console.log(`overlayfs cannot be asked here: ${missing}`);

describe.skipIf(missing !== undefined)("mergeLayers() shows what the kernel's overlayfs shows", () => {
  test(`of ${STACKS} generated stacks, seeds from ${FIRST_SEED}`, async () => {
    expect(await compareWithOverlayfs(FIRST_SEED, STACKS)).toEqual([]);
  }, 120_000);
});

const hasUmoci = process.getuid?.() === 0 && Bun.which("umoci") !== null;

test.skipIf(!hasUmoci)("mergeLayers() shows what umoci unpacks of the golden image and its fourth layer", async () => {
  const dir = mkdtempSync(join(tmpdir(), "nydus-umoci-"));
  try {
    const run = (...command: string[]): void => {
      const { exitCode, stderr } = Bun.spawnSync(command, { stderr: "pipe" });
      if (exitCode !== 0) throw new Error(`${command.join(" ")}: ${stderr}`);
    };
    const extras = join(smallGolden(), "extras.tar");
    run("cp", "-r", join(smallGolden(), "images"), join(dir, "images"));
    run("umoci", "raw", "add-layer", "--image", `${join(dir, "images")}:oci`, extras);
    run("umoci", "unpack", "--image", `${join(dir, "images")}:oci`, join(dir, "bundle"));
    const layers = await Promise.all(goldenLayers(smallGolden(), "oci").map((tar) => layerTreeOf(streamOf(tar))));
    layers.push(await layerTreeOf(streamOf(new Uint8Array(await Bun.file(extras).arrayBuffer()))));
    const ours = listNodes(mergeLayers(layers), { sha256: contentHash });
    const theirs = await treeOf(join(dir, "bundle", "rootfs"));
    const implicit = ["/", "/implicit", "/implicit/parents"]; // no layer sets their times
    const differences = diffTrees(ours, theirs, {
      ignore: (field, { path }) => field === "mtime" && implicit.includes(path),
    });
    expect(differences).toEqual([]);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
});
