import type { Benchmark, Figures } from "../benchmark.ts";
import { type Lab, needMounting } from "../lab.ts";
import { type Mounted, mountNydusd, mountOurs } from "../mounts.ts";
import { LIST_ALL, READ_ALL, timePass } from "../passes.ts";

/** Three passes over one mount, the kernel's caches emptied before each. */
async function readMount(lab: Lab, mounted: Mounted): Promise<Figures> {
  const { mountpoint } = mounted;
  try {
    return {
      "read-cold": await timePass(lab, READ_ALL, mountpoint),
      "read-cached": await timePass(lab, READ_ALL, mountpoint),
      find: await timePass(lab, LIST_ALL, mountpoint),
    };
  } finally {
    await mounted[Symbol.asyncDispose]();
  }
}

/** Whole passes over a mount, blobs on the local disk. */
export const mountRead: Benchmark = {
  name: "mount-read",
  peer: "nydusd",
  rows: [
    {
      name: "read-cold",
      title: "FUSE: read all files, nothing cached",
      unit: "s",
      better: "less",
      target: { ratio: 1 },
    },
    {
      name: "read-cached",
      title: "FUSE: read all files, page cache dropped",
      unit: "s",
      better: "less",
      target: { ratio: 1 },
    },
    { name: "find", title: "FUSE: find -printf over the tree", unit: "s", better: "less", target: { ratio: 1 } },
  ],
  prepare: async (lab) => {
    needMounting();
    const { bootstrap, blobDir } = await lab.rafs();
    const backend = { type: "localfs", config: { dir: blobDir } } as const;
    const ours = ["--bootstrap", bootstrap, "--blob-dir", blobDir] as const;
    return {
      ours: async () => readMount(lab, await mountOurs(lab, "fuse", ours)),
      peer: lab.options.peers && (async () => readMount(lab, await mountNydusd(lab, bootstrap, backend))),
    };
  },
};
