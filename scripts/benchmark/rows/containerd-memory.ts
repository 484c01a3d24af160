import { join } from "node:path";
import type { Benchmark, Figures } from "../benchmark.ts";
import { ContainerdHost, needContainerd, type Snapshotter } from "../containerd.ts";
import { type Lab, needMounting } from "../lab.ts";
import { memoryOf } from "../memory.ts";
import { pushImage, startRegistry } from "../registry.ts";
import { ourSnapshotter, peerSnapshotter } from "../snapshotters.ts";
import { Variants } from "../variants.ts";

const MANY = 20;
const REPOSITORY = "bench/image";
const COMMAND = ["sleep", "infinity"];

/** Pushes images that differ in their bootstraps. @returns their names */
async function pushMany(lab: Lab): Promise<string[]> {
  const { layout } = await lab.rafs();
  const variants = new Variants(layout);
  const name = `127.0.0.1:${await startRegistry(lab)}/${REPOSITORY}`;
  const dir = lab.scratch();
  const names: string[] = [];
  for (let i = 0; i < MANY; i++) {
    const image = `${name}:${i}`;
    await pushImage(lab, variants.write(i, join(dir, `${i}`)).name, `docker://${image}`);
    names.push(image);
  }
  return names;
}

/** Memory of what serves the images while a container runs of each. */
async function runMany(lab: Lab, snapshotter: Snapshotter, images: readonly string[]): Promise<Figures> {
  await using host = await ContainerdHost.start(lab, snapshotter);
  const names = images.map((_, i) => `bench-${i}`);
  for (const [i, image] of images.entries()) {
    await host.nerdctl("run", "--detach", "--quiet", "--net", "none", "--name", `bench-${i}`, image, ...COMMAND);
  }
  const pids = host.servingPids();
  const figures = {
    "containerd-resident": memoryOf(pids, "VmRSS"),
    "containerd-anonymous": memoryOf(pids, "RssAnon"),
  };
  await host.nerdctl("rm", "--force", ...names);
  return figures;
}

/** Snapshotter, daemon and all beside the peers' for many running containers, each of an image of its own. */
export const containerdMemory: Benchmark = {
  name: "containerd-memory",
  peer: "nydus-snapshotter, nydusd",
  runsFactor: 0.2,
  rows: [
    {
      name: "containerd-resident",
      title: `containerd, ${MANY} images mounted: resident`,
      unit: "MiB",
      better: "less",
    },
    { name: "containerd-anonymous", title: "Of it anonymous", unit: "MiB", better: "less" },
  ],
  prepare: async (lab) => {
    needMounting();
    needContainerd();
    const images = await pushMany(lab);
    const peer = peerSnapshotter(lab, { daemonMode: "shared", prefetchAll: false });
    return {
      ours: () => runMany(lab, ourSnapshotter(lab), images),
      peer: peer && (() => runMany(lab, peer, images)),
    };
  },
};
