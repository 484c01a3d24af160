import type { Benchmark, Figures } from "../benchmark.ts";
import { mountPlain, needErofs } from "../erofs.ts";
import { fio, largestFiles, readOnce } from "../fio.ts";
import { type Lab, needMounting, needProgram } from "../lab.ts";
import { type Mounted, mountNydusd, mountOurs, OurMounts } from "../mounts.ts";
import { LIST_ALL, READ_ALL, timePass } from "../passes.ts";

const FILES = 8;
const MIB = 1 << 20;
/** Longer than the engine takes to see that a file is complete, and to leave it to the kernel alone. */
const SETTLED_MS = 1_500;

/** The first pass over a new mount, and one over its tree. */
async function readCold(lab: Lab, mounted: Mounted): Promise<Figures> {
  const { mountpoint } = mounted;
  try {
    return {
      "erofs-read-cold": await timePass(lab, READ_ALL, mountpoint),
      "erofs-find": await timePass(lab, LIST_ALL, mountpoint),
    };
  } finally {
    await mounted[Symbol.asyncDispose]();
  }
}

/** The EROFS engine where data is fetched, beside nydusd's FUSE. */
export const erofsRead: Benchmark = {
  name: "erofs-read",
  peer: "nydusd",
  rows: [
    {
      name: "erofs-read-cold",
      title: "EROFS: read all files, nothing cached",
      unit: "s",
      better: "less",
      target: { ratio: 0.6 },
    },
    {
      name: "erofs-find",
      title: "EROFS: find -printf over the tree",
      unit: "s",
      better: "less",
      target: { ratio: 0.2 },
    },
  ],
  prepare: async (lab) => {
    needMounting();
    needErofs();
    const { bootstrap, blobDir } = await lab.rafs();
    const backend = { type: "localfs", config: { dir: blobDir } } as const;
    const ours = ["--bootstrap", bootstrap, "--blob-dir", blobDir] as const;
    return {
      ours: async () => readCold(lab, await mountOurs(lab, "erofs", ours)),
      peer: lab.options.peers && (async () => readCold(lab, await mountNydusd(lab, bootstrap, backend))),
    };
  },
};

/** A pass with the page cache empty, and one that finds everything there. */
async function readComplete(lab: Lab, mountpoint: string): Promise<Figures> {
  const seconds = await timePass(lab, READ_ALL, mountpoint);
  const files = await largestFiles(lab, mountpoint, FILES);
  await readOnce(lab, files);
  const { bw_bytes: rate } = await fio(lab, files, ["--rw=read", "--bs=128k", "--invalidate=0"]);
  return { "erofs-read-cached": seconds, "erofs-sequential": rate / MIB };
}

/** The EROFS engine where all data is there, beside the kernel's driver over the same files. */
export const erofsPlain: Benchmark = {
  name: "erofs-plain",
  peer: "plain EROFS",
  rows: [
    {
      name: "erofs-read-cached",
      title: "EROFS: read all files, page cache dropped",
      unit: "s",
      better: "less",
      target: { ratio: 1.1 },
    },
    {
      name: "erofs-sequential",
      title: "EROFS: 128 KiB sequential reads, warm",
      unit: "MiB/s",
      better: "more",
      target: { ratio: 0.95 },
    },
  ],
  prepare: async (lab) => {
    needMounting();
    needErofs();
    needProgram("fio");
    const { bootstrap, blobDir } = await lab.rafs();
    const mounts = lab.own(new OurMounts(lab, "erofs"));
    const mount = (): Promise<string> => mounts.mount(["--bootstrap", bootstrap, "--blob-dir", blobDir]);
    await lab.run(["sh", "-c", READ_ALL, await mount()]); // from here on the cache is complete
    await mounts.end();
    return {
      ours: async () => {
        try {
          const mountpoint = await mount();
          await Bun.sleep(SETTLED_MS);
          return await readComplete(lab, mountpoint);
        } finally {
          await mounts.end();
        }
      },
      peer: async () => {
        await using plain = await mountPlain(lab, bootstrap, mounts.cacheDir);
        return await readComplete(lab, plain.mountpoint);
      },
    };
  },
};
