import { rmSync } from "node:fs";
import { join } from "node:path";
import type { Benchmark, Sides } from "../benchmark.ts";
import type { Lab } from "../lab.ts";
import { type LayerFile, type LayoutImage, makeSubset, tarBytesOf } from "../layout.ts";

const MEGA = 1e6;

/** Layers that are converted: all, or the lowest. */
function layersOf(lab: Lab, count: number): readonly LayerFile[] {
  return lab.image.layers.slice(0, count);
}

function tarBytes(layers: readonly LayerFile[]): number {
  return layers.reduce((sum, layer) => sum + tarBytesOf(layer), 0);
}

/** Converts an image to a layout that is removed again. @returns seconds */
export async function convertOnce(lab: Lab, image: LayoutImage, before: readonly string[] = []): Promise<number> {
  const dir = lab.scratch();
  await lab.settle();
  const program = [...before, lab.nydus, "--root", join(dir, "state")];
  const { seconds } = await lab.run([...program, "convert", "--quiet", image.name, `oci:${dir}/out:nydus`]);
  rmSync(dir, { recursive: true });
  return seconds;
}

/** Where nydus-image leaves what it makes. */
export interface PeerOutput {
  readonly blobDir: string;
  readonly bootstraps: readonly string[];
  readonly seconds: number;
}

/** Has nydus-image convert layers one after the other. */
export async function createByPeer(lab: Lab, layers: readonly LayerFile[], dir: string): Promise<PeerOutput> {
  const create = [lab.peers.nydusImage, "create", "--log-level", "warn", "--type", "targz-rafs", "--fs-version", "6"];
  const bootstraps: string[] = [];
  let seconds = 0;
  for (const [i, layer] of layers.entries()) {
    const bootstrap = join(dir, `layer-${i}.boot`);
    const finished = await lab.run([...create, "--bootstrap", bootstrap, "--blob-dir", dir, layer.path]);
    seconds += finished.seconds;
    bootstraps.push(bootstrap);
  }
  return { blobDir: dir, bootstraps, seconds };
}

/** Layers by nydus-image, and merged where there are several. @returns seconds */
async function convertByPeer(lab: Lab, layers: readonly LayerFile[]): Promise<number> {
  const dir = lab.scratch();
  await lab.settle();
  const { bootstraps, seconds } = await createByPeer(lab, layers, dir);
  let mergeSeconds = 0;
  if (bootstraps.length > 1) {
    const merge = [lab.peers.nydusImage, "merge", "--log-level", "warn", "--bootstrap", join(dir, "merged.boot")];
    mergeSeconds = (await lab.run([...merge, ...bootstraps])).seconds;
  }
  rmSync(dir, { recursive: true });
  return seconds + mergeSeconds;
}

async function convertSides(lab: Lab, row: string, count: number): Promise<Sides> {
  const layers = layersOf(lab, count);
  const megabytes = tarBytes(layers) / MEGA;
  const image = count >= lab.image.layers.length ? lab.image : makeSubset(lab.image, lab.scratch(), count);
  return {
    ours: async () => ({ [row]: megabytes / (await convertOnce(lab, image)) }),
    peer: async () => ({ [row]: megabytes / (await convertByPeer(lab, layers)) }),
  };
}

/** Conversion of one layer. */
export const convertLayer: Benchmark = {
  name: "convert-layer",
  peer: "nydus-image",
  rows: [
    {
      name: "convert-layer",
      title: "Convert a gzip layer to zstd",
      unit: "MB/s",
      better: "more",
      target: { ratio: 1.8 },
    },
  ],
  prepare: (lab) => convertSides(lab, "convert-layer", 1),
};

/** Conversion of the whole image. */
export const convertImage: Benchmark = {
  name: "convert-image",
  peer: "nydus-image",
  rows: [
    {
      name: "convert-image",
      title: "Convert the image, all layers",
      unit: "MB/s",
      better: "more",
      target: { ratio: 2 },
    },
  ],
  prepare: (lab) => convertSides(lab, "convert-image", Number.POSITIVE_INFINITY),
};

/** What the second core is worth to us. */
export const convertCores: Benchmark = {
  name: "convert-cores",
  peer: "ours on one core",
  rows: [
    {
      name: "convert-cores",
      title: "Convert the image: all cores and one",
      unit: "MB/s",
      better: "more",
      target: { ratio: 1.6 },
    },
  ],
  prepare: async (lab) => {
    const megabytes = tarBytes(lab.image.layers) / MEGA;
    return {
      ours: async () => ({ "convert-cores": megabytes / (await convertOnce(lab, lab.image)) }),
      peer: async () => ({ "convert-cores": megabytes / (await convertOnce(lab, lab.image, ["taskset", "-c", "0"])) }),
    };
  },
};
