import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { mergeLayers } from "../../../../src/format/tree/overlay.ts";
import { fullGolden, smallGolden } from "../../../kit/golden.ts";
import { goldenLayers } from "../../../kit/golden-layers.ts";
import { listNodes } from "../../../kit/list-nodes.ts";
import { contentHash, layerTreeOf, streamOf } from "../../../kit/overlay-oracle.ts";
import { diffTrees, readTree } from "../../../kit/tree.ts";

const full = fullGolden();

describe("mergeLayers() of the golden image's layers is the golden tree", () => {
  const check = async (golden: string, ref: string): Promise<void> => {
    const layers = goldenLayers(golden, ref).map((tar) => layerTreeOf(streamOf(tar, 65_536)));
    const ours = listNodes(mergeLayers(await Promise.all(layers)), { sha256: contentHash });
    expect(diffTrees(ours, readTree(join(golden, "tree.jsonl")))).toEqual([]);
  };

  test.each(["oci", "docker"])("small set, %s", (ref) => check(smallGolden(), ref));

  test.skipIf(full === undefined).each(["oci", "docker"])("full set, %s", (ref) => check(full ?? "", ref));
});
