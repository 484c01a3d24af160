import { rmSync } from "node:fs";
import { join } from "node:path";
import type { Benchmark, Figures, Row, Sides } from "../benchmark.ts";
import type { Lab } from "../lab.ts";
import { type LayerFile, type LayoutImage, makeSubset, tarBytesOf } from "../layout.ts";
import type { Finished } from "../process.ts";

const MEGA = 1e6;

/** Layers that are converted: all, or the lowest. */
function layersOf(lab: Lab, count: number): readonly LayerFile[] {
  return lab.image.layers.slice(0, count);
}

function tarBytes(layers: readonly LayerFile[]): number {
  return layers.reduce((sum, layer) => sum + tarBytesOf(layer), 0);
}

/** What a conversion took, seconds: by the clock, and of the processors. */
type Spent = Pick<Finished, "seconds" | "cpuSeconds">;

function sum(parts: readonly Spent[]): Spent {
  const total = (name: keyof Spent): number => parts.reduce((all, part) => all + part[name], 0);
  return { seconds: total("seconds"), cpuSeconds: total("cpuSeconds") };
}

/** Converts an image to a layout that is removed again. */
async function convertOnce(lab: Lab, image: LayoutImage, before: readonly string[] = []): Promise<Spent> {
  const dir = lab.scratch();
  await lab.settle();
  const program = [...before, lab.nydus, "--root", join(dir, "state")];
  const spent = await lab.run([...program, "convert", "--quiet", image.name, `oci:${dir}/out:nydus`]);
  rmSync(dir, { recursive: true });
  return spent;
}

/** Has nydus-image convert layers one after the other: a bootstrap for each in `dir`, and the blobs. */
export async function createByPeer(
  lab: Lab,
  layers: readonly LayerFile[],
  dir: string,
): Promise<Spent & { readonly bootstraps: readonly string[] }> {
  const create = [lab.peers.nydusImage, "create", "--log-level", "warn", "--type", "targz-rafs", "--fs-version", "6"];
  const bootstraps: string[] = [];
  const parts: Spent[] = [];
  for (const [i, layer] of layers.entries()) {
    const bootstrap = join(dir, `layer-${i}.boot`);
    parts.push(await lab.run([...create, "--bootstrap", bootstrap, "--blob-dir", dir, layer.path]));
    bootstraps.push(bootstrap);
  }
  return { ...sum(parts), bootstraps };
}

/** Layers by nydus-image, and merged where there are several. */
async function convertByPeer(lab: Lab, layers: readonly LayerFile[]): Promise<Spent> {
  const dir = lab.scratch();
  await lab.settle();
  const created = await createByPeer(lab, layers, dir);
  const parts: Spent[] = [created];
  if (created.bootstraps.length > 1) {
    const merge = [lab.peers.nydusImage, "merge", "--log-level", "warn", "--bootstrap", join(dir, "merged.boot")];
    parts.push(await lab.run([...merge, ...created.bootstraps]));
  }
  rmSync(dir, { recursive: true });
  return sum(parts);
}

/** The rows of a conversion: its rate, which is to reach the target, and the processor time that it takes. */
function convertRows(name: string, title: string, ratio: number): Row[] {
  return [
    { name, title, unit: "MB/s", better: "more", target: { ratio } },
    { name: `${name}-cpu`, title: "Processor time of it", unit: "s", better: "less" },
  ];
}

function figures(name: string, megabytes: number, { seconds, cpuSeconds }: Spent): Figures {
  return { [name]: megabytes / seconds, [`${name}-cpu`]: cpuSeconds };
}

async function convertSides(lab: Lab, name: string, count: number): Promise<Sides> {
  const layers = layersOf(lab, count);
  const megabytes = tarBytes(layers) / MEGA;
  const image = count >= lab.image.layers.length ? lab.image : makeSubset(lab.image, lab.scratch(), count);
  return {
    ours: async () => figures(name, megabytes, await convertOnce(lab, image)),
    peer: async () => figures(name, megabytes, await convertByPeer(lab, layers)),
  };
}

/** Conversion of one layer. */
export const convertLayer: Benchmark = {
  name: "convert-layer",
  peer: "nydus-image",
  rows: convertRows("convert-layer", "Convert a gzip layer to zstd", 1.8),
  prepare: (lab) => convertSides(lab, "convert-layer", 1),
};

/** Conversion of the whole image. */
export const convertImage: Benchmark = {
  name: "convert-image",
  peer: "nydus-image",
  rows: convertRows("convert-image", "Convert the image, all layers", 2),
  prepare: (lab) => convertSides(lab, "convert-image", Number.POSITIVE_INFINITY),
};

/** What the second core is worth to us. */
export const convertCores: Benchmark = {
  name: "convert-cores",
  peer: "ours on one core",
  rows: convertRows("convert-cores", "Convert the image: all cores and one", 1.6),
  prepare: async (lab) => {
    const name = "convert-cores";
    const megabytes = tarBytes(lab.image.layers) / MEGA;
    return {
      ours: async () => figures(name, megabytes, await convertOnce(lab, lab.image)),
      peer: async () => figures(name, megabytes, await convertOnce(lab, lab.image, ["taskset", "-c", "0"])),
    };
  },
};
