import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import type { Benchmark } from "../benchmark.ts";
import { createByPeer } from "./convert.ts";

const MEGA = 1e6;
const DIGEST = /^[0-9a-f]{64}$/;

/** The blobs of all layers together; ours hold their layer's bootstrap and chunk table too. */
export const blobSize: Benchmark = {
  name: "blob-size",
  peer: "nydus-image",
  runsFactor: 0,
  rows: [
    {
      name: "blob-size",
      title: "Blobs of the image, all layers",
      unit: "MB",
      better: "less",
      target: { ratio: 1.02 },
    },
  ],
  prepare: async (lab) => ({
    ours: async () => {
      const { layout } = await lab.rafs();
      const bytes = layout.layers.slice(0, -1).reduce((sum, layer) => sum + layer.sizeBytes, 0);
      return { "blob-size": bytes / MEGA };
    },
    peer: async () => {
      const blobDir = lab.scratch();
      await createByPeer(lab, lab.image.layers, blobDir);
      const blobs = readdirSync(blobDir).filter((name) => DIGEST.test(name));
      return { "blob-size": blobs.reduce((sum, name) => sum + statSync(join(blobDir, name)).size, 0) / MEGA };
    },
  }),
};
