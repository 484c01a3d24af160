import type { Benchmark, Figures } from "../benchmark.ts";
import { fio, largestFiles, readOnce } from "../fio.ts";
import { type Lab, needMounting, needProgram } from "../lab.ts";
import { type Mounted, mountNydusd, mountOurs } from "../mounts.ts";

/** Files of the sequential pass: the largest ones, a directory's worth of the image. */
const FILES = 8;
const JOBS = 2;
const MIB = 1 << 20;

/** Both patterns over the cached files of a mount; other caches are emptied in between. */
async function measureMount(lab: Lab, mounted: Mounted): Promise<Figures> {
  try {
    const files = await largestFiles(lab, mounted.mountpoint, FILES);
    await readOnce(lab, files);
    await lab.dropCaches();
    const random = ["--rw=randread", "--bs=4k", "--direct=1", `--numjobs=${JOBS}`];
    const { iops } = await fio(lab, files.slice(0, 1), random);
    await lab.dropCaches();
    const { bw_bytes: rate } = await fio(lab, files, ["--rw=read", "--bs=128k", "--invalidate=1"]);
    return { "read-random": iops, "read-sequential": rate / MIB };
  } finally {
    await mounted[Symbol.asyncDispose]();
  }
}

/** Reads of cached files, in two patterns. */
export const mountFio: Benchmark = {
  name: "mount-fio",
  peer: "nydusd",
  rows: [
    {
      name: "read-random",
      title: "FUSE: 4 KiB direct random reads",
      unit: "reads/s",
      better: "more",
      target: { ratio: 1 },
    },
    {
      name: "read-sequential",
      title: "FUSE: 128 KiB sequential reads",
      unit: "MiB/s",
      better: "more",
      target: { ratio: 1 },
    },
  ],
  prepare: async (lab) => {
    needMounting();
    needProgram("fio");
    const { bootstrap, blobDir } = await lab.rafs();
    const backend = { type: "localfs", config: { dir: blobDir } } as const;
    const ours = ["--bootstrap", bootstrap, "--blob-dir", blobDir] as const;
    return {
      ours: async () => measureMount(lab, await mountOurs(lab, "fuse", ours)),
      peer: lab.options.peers && (async () => measureMount(lab, await mountNydusd(lab, bootstrap, backend))),
    };
  },
};
