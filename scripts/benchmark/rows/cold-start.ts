import { existsSync } from "node:fs";
import { join } from "node:path";
import { type Benchmark, type Figures, Missing } from "../benchmark.ts";
import { type Lab, needMounting } from "../lab.ts";
import { type Mounted, mountNydusd, mountOurs } from "../mounts.ts";
import { pushImage, startRegistry } from "../registry.ts";
import { type ShapingProxy, startShapingProxy } from "../shaping-proxy.ts";

/** The link between the registry and the machine. */
const LINK = { bitsPerSecond: 400e6, roundTripMs: 10 } as const;
const REPOSITORY = "bench/image";
const PYTHON = "/usr/bin/python3";
const MEGA = 1e6;

/** Time and bytes of one command in a new mount; what mounting itself took is not counted. */
async function importNumpy(lab: Lab, mounted: Mounted, proxy: ShapingProxy): Promise<Figures> {
  try {
    if (!existsSync(join(mounted.mountpoint, PYTHON))) throw new Missing("the image has no python3");
    const before = proxy.traffic.downBytes;
    const { seconds } = await lab.chroot(mounted.mountpoint, [PYTHON, "-c", "import numpy"]);
    return { "import-time": seconds, "import-bytes": (proxy.traffic.downBytes - before) / MEGA };
  } finally {
    await mounted[Symbol.asyncDispose]();
  }
}

/** A program's first start out of a registry. */
export const coldStart: Benchmark = {
  name: "cold-start",
  peer: "nydusd",
  rows: [
    {
      name: "import-time",
      title: "Cold `import numpy`, 400 Mbit/s, 10 ms",
      unit: "s",
      better: "less",
      target: { ratio: 0.8 },
    },
    {
      name: "import-bytes",
      title: "Bytes fetched by it",
      unit: "MB",
      better: "less",
      target: { ratio: 0.8 },
    },
  ],
  prepare: async (lab) => {
    needMounting();
    const { bootstrap, layout } = await lab.rafs();
    const registry = await startRegistry(lab);
    await pushImage(lab, layout.name, `docker://127.0.0.1:${registry}/${REPOSITORY}:nydus`);
    const proxy = lab.own(await startShapingProxy(registry, LINK));
    const host = `127.0.0.1:${proxy.port}`;
    const backend = { type: "registry", config: { scheme: "http", host, repo: REPOSITORY } } as const;
    return {
      ours: async () => importNumpy(lab, await mountOurs(lab, [`docker://${host}/${REPOSITORY}:nydus`]), proxy),
      peer: lab.options.peers && (async () => importNumpy(lab, await mountNydusd(lab, bootstrap, backend), proxy)),
    };
  },
};
