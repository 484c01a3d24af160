import type { Benchmark, Figures } from "../benchmark.ts";
import { type Lab, needMounting } from "../lab.ts";
import { type Mounted, mountNydusd, mountOurs } from "../mounts.ts";

/** Reads every file. */
const READ_ALL = 'find "$0" -type f -exec cat {} + >/dev/null';
/** Looks at every inode. */
const LIST_ALL = String.raw`find "$0" -printf '%p %y %m %s %T@ %l\n' >/dev/null`;

/** Three passes over one mount, the kernel's caches emptied before each. */
async function readMount(lab: Lab, mounted: Mounted): Promise<Figures> {
  const timed = async (script: string): Promise<number> => {
    await lab.dropCaches();
    return (await lab.run(["sh", "-c", script, mounted.mountpoint])).seconds;
  };
  try {
    return {
      "read-cold": await timed(READ_ALL),
      "read-cached": await timed(READ_ALL),
      find: await timed(LIST_ALL),
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
      title: "Read all files, nothing cached",
      unit: "s",
      better: "less",
      target: { ratio: 1 },
    },
    {
      name: "read-cached",
      title: "Read all files, page cache dropped",
      unit: "s",
      better: "less",
      target: { ratio: 1 },
    },
    { name: "find", title: "find -printf over the tree", unit: "s", better: "less", target: { ratio: 1 } },
  ],
  prepare: async (lab) => {
    needMounting();
    const { bootstrap, blobDir } = await lab.rafs();
    const backend = { type: "localfs", config: { dir: blobDir } } as const;
    return {
      ours: async () => readMount(lab, await mountOurs(lab, ["--bootstrap", bootstrap, "--blob-dir", blobDir])),
      peer: lab.options.peers && (async () => readMount(lab, await mountNydusd(lab, bootstrap, backend))),
    };
  },
};
