import { mkdirSync } from "node:fs";
import { join } from "node:path";
import type { Benchmark, Figures } from "../benchmark.ts";
import { type Lab, needMounting, type RafsImage } from "../lab.ts";
import { memoryOf } from "../memory.ts";
import { isMounted, type Mounted, mountNydusd, mountOurs, NYDUSD_FLAGS, nydusdConfig, OurMounts } from "../mounts.ts";
import { READ_ALL } from "../passes.ts";
import { runCommand, Server } from "../process.ts";

const MANY = 20;

/** Memory of a mount's processes when every file has been read. */
async function afterReading(lab: Lab, mount: Mounted): Promise<Figures> {
  await lab.run(["sh", "-c", READ_ALL, mount.mountpoint]);
  return { resident: memoryOf(mount.pids(), "VmRSS"), anonymous: memoryOf(mount.pids(), "RssAnon") };
}

async function manyOurs(lab: Lab, { bootstrap, blobDir }: RafsImage): Promise<Figures> {
  await using mounts = new OurMounts(lab, "fuse");
  for (let i = 0; i < MANY; i++) {
    const mountpoint = await mounts.mount(["--bootstrap", bootstrap, "--blob-dir", blobDir]);
    await lab.run(["ls", "-l", mountpoint]);
  }
  return { "resident-20": memoryOf(mounts.pids(), "VmRSS") };
}

/** One nydusd, told over its socket to mount the image again and again. */
async function manyByPeer(lab: Lab, { bootstrap, blobDir }: RafsImage): Promise<Figures> {
  const dir = lab.scratch();
  const [socket, mountpoint, cache] = ["api.sock", "mnt", "cache"].map((name) => join(dir, name)) as [
    string,
    string,
    string,
  ];
  mkdirSync(mountpoint);
  mkdirSync(cache);
  const flags = ["--apisock", socket, "--mountpoint", mountpoint];
  await using server = new Server([lab.peers.nydusd, ...NYDUSD_FLAGS, ...flags]);
  try {
    await server.untilReady("nydusd's mount", () => isMounted(mountpoint));
    const config = nydusdConfig({ type: "localfs", config: { dir: blobDir } }, cache);
    for (let i = 0; i < MANY; i++) {
      const body = JSON.stringify({ source: bootstrap, fs_type: "rafs", config });
      const url = `http://localhost/api/v1/mount?mountpoint=/${i}`;
      const answer = await fetch(url, { unix: socket, method: "POST", body });
      if (!answer.ok) throw new Error(`nydusd does not mount: ${answer.status} ${await answer.text()}`);
      await lab.run(["ls", "-l", join(mountpoint, `${i}`)]);
    }
    return { "resident-20": memoryOf([server.pid], "VmRSS") };
  } finally {
    if (isMounted(mountpoint)) await runCommand(["umount", "-l", mountpoint]);
  }
}

/** Memory of the processes behind mounts. */
export const memory: Benchmark = {
  name: "memory",
  peer: "nydusd",
  runsFactor: 0.4,
  rows: [
    {
      name: "resident",
      title: "FUSE: one mount, all files read: resident",
      unit: "MiB",
      better: "less",
      target: { figure: 120 },
    },
    { name: "anonymous", title: "Of it anonymous", unit: "MiB", better: "less" },
    {
      name: "resident-20",
      title: "FUSE: 20 mounts: resident",
      unit: "MiB",
      better: "less",
      target: { figure: 200 },
    },
  ],
  prepare: async (lab) => {
    needMounting();
    const rafs = await lab.rafs();
    const { bootstrap, blobDir } = rafs;
    const backend = { type: "localfs", config: { dir: blobDir } } as const;
    const oneOfOurs = async (): Promise<Figures> => {
      await using mounted = await mountOurs(lab, "fuse", ["--bootstrap", bootstrap, "--blob-dir", blobDir]);
      return await afterReading(lab, mounted);
    };
    const oneOfPeer = async (): Promise<Figures> => {
      await using mounted = await mountNydusd(lab, bootstrap, backend);
      return await afterReading(lab, mounted);
    };
    return {
      ours: async () => ({ ...(await oneOfOurs()), ...(await manyOurs(lab, rafs)) }),
      peer: lab.options.peers && (async () => ({ ...(await oneOfPeer()), ...(await manyByPeer(lab, rafs)) })),
    };
  },
};
