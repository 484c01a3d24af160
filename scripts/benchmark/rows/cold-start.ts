import { existsSync } from "node:fs";
import { join } from "node:path";
import { type Benchmark, type Figures, Missing } from "../benchmark.ts";
import { needErofs } from "../erofs.ts";
import { type Lab, needMounting } from "../lab.ts";
import { type Engine, type Mounted, mountNydusd, mountOurs } from "../mounts.ts";
import { pushImage, startRegistry } from "../registry.ts";
import { type ShapingProxy, startShapingProxy } from "../shaping-proxy.ts";

/** The link between the registry and the machine. */
const LINK = { bitsPerSecond: 400e6, roundTripMs: 10 } as const;
const REPOSITORY = "bench/image";
const PYTHON = "/usr/bin/python3";
const MEGA = 1e6;

interface FirstCommand {
  readonly seconds: number;
  readonly megabytes: number;
}

/** Time and bytes of one command in a new mount; what mounting itself took is not counted. */
async function importNumpy(lab: Lab, mounted: Mounted, proxy: ShapingProxy): Promise<FirstCommand> {
  try {
    if (!existsSync(join(mounted.mountpoint, PYTHON))) throw new Missing("the image has no python3");
    const before = proxy.traffic.downBytes;
    const { seconds } = await lab.chroot(mounted.mountpoint, [PYTHON, "-c", "import numpy"]);
    return { seconds, megabytes: (proxy.traffic.downBytes - before) / MEGA };
  } finally {
    await mounted[Symbol.asyncDispose]();
  }
}

interface ColdStart {
  readonly name: string;
  readonly engine: Engine;
  /** How it is called in titles. */
  readonly shown: string;
  /** Of names of rows. */
  readonly prefix: string;
  /** Asked of time and of bytes, in terms of nydusd's. */
  readonly ratios: readonly [number, number];
}

/** A program's first start out of a registry, by one engine. */
function coldStartBy({ name, engine, shown, prefix, ratios }: ColdStart): Benchmark {
  const [time, bytes] = [`${prefix}import-time`, `${prefix}import-bytes`];
  const [timeRatio, bytesRatio] = ratios;
  const title = `${shown}: cold \`import numpy\`, 400 Mbit/s, 10 ms`;
  return {
    name,
    peer: "nydusd",
    rows: [
      { name: time, title, unit: "s", better: "less", target: { ratio: timeRatio } },
      { name: bytes, title: "Bytes fetched by it", unit: "MB", better: "less", target: { ratio: bytesRatio } },
    ],
    prepare: async (lab) => {
      needMounting();
      if (engine === "erofs") needErofs();
      const { bootstrap, layout } = await lab.rafs();
      const registry = await startRegistry(lab);
      await pushImage(lab, layout.name, `docker://127.0.0.1:${registry}/${REPOSITORY}:nydus`);
      const proxy = lab.own(await startShapingProxy(registry, LINK));
      const host = `127.0.0.1:${proxy.port}`;
      const backend = { type: "registry", config: { scheme: "http", host, repo: REPOSITORY } } as const;
      const image = [`docker://${host}/${REPOSITORY}:nydus`] as const;
      const figures = async (mounted: Mounted): Promise<Figures> => {
        const { seconds, megabytes } = await importNumpy(lab, mounted, proxy);
        return { [time]: seconds, [bytes]: megabytes };
      };
      return {
        ours: async () => figures(await mountOurs(lab, engine, image)),
        peer: lab.options.peers && (async () => figures(await mountNydusd(lab, bootstrap, backend))),
      };
    },
  };
}

export const coldStart = coldStartBy({
  name: "cold-start",
  engine: "fuse",
  shown: "FUSE",
  prefix: "",
  ratios: [0.8, 0.8],
});

export const coldStartErofs = coldStartBy({
  name: "erofs-start",
  engine: "erofs",
  shown: "EROFS",
  prefix: "erofs-",
  ratios: [0.6, 0.8],
});
