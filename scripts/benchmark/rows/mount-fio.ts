import { join } from "node:path";
import type { Benchmark, Figures } from "../benchmark.ts";
import { type Lab, needMounting, needProgram } from "../lab.ts";
import { type Mounted, mountNydusd, mountOurs } from "../mounts.ts";

/** Files of the sequential pass: the largest ones. */
const FILES = 8;
/** A directory's worth of the image is cached; other caches are emptied in between. */
const RUN_SECONDS = 2;
const JOBS = 2;
const MIB = 1 << 20;

interface FioReport {
  readonly jobs: readonly { readonly read: { readonly iops: number; readonly bw_bytes: number } }[];
}

/** The largest files of a tree, the largest first. */
async function largestFiles(lab: Lab, root: string): Promise<string[]> {
  const script = String.raw`find "$0" -type f -printf '%s\t%P\n' | sort -rn | head -n "$1" | cut -f2`;
  const { stdout } = await lab.run(["sh", "-c", script, root, `${FILES}`]);
  return stdout
    .trim()
    .split("\n")
    .map((path) => join(root, path));
}

async function fio(lab: Lab, files: readonly string[], options: readonly string[]): Promise<FioReport["jobs"][0]> {
  const filename = files.map((path) => path.replaceAll(":", "\\:")).join(":");
  const command = ["fio", "--name=bench", `--filename=${filename}`, "--readonly", "--ioengine=psync"];
  const timing = ["--time_based", `--runtime=${RUN_SECONDS}`, "--group_reporting", "--output-format=json"];
  const { stdout } = await lab.run([...command, ...timing, ...options]);
  const report = JSON.parse(stdout.slice(stdout.indexOf("{"))) as FioReport;
  const [job] = report.jobs;
  if (job === undefined) throw new Error("fio reports no job");
  return job;
}

/** Both patterns over the cached files of a mount. */
async function measureMount(lab: Lab, mounted: Mounted): Promise<Figures> {
  try {
    const files = await largestFiles(lab, mounted.mountpoint);
    await lab.run(["sh", "-c", 'cat "$@" >/dev/null', "sh", ...files]); // nothing is fetched below
    await lab.dropCaches();
    const random = ["--rw=randread", "--bs=4k", "--direct=1", `--numjobs=${JOBS}`];
    const { read: randomRead } = await fio(lab, files.slice(0, 1), random);
    await lab.dropCaches();
    const { read } = await fio(lab, files, ["--rw=read", "--bs=128k", "--invalidate=1"]);
    return { "read-random": randomRead.iops, "read-sequential": read.bw_bytes / MIB };
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
      title: "4 KiB direct random reads",
      unit: "reads/s",
      better: "more",
      target: { ratio: 1 },
    },
    {
      name: "read-sequential",
      title: "128 KiB sequential reads",
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
    return {
      ours: async () => measureMount(lab, await mountOurs(lab, ["--bootstrap", bootstrap, "--blob-dir", blobDir])),
      peer: lab.options.peers && (async () => measureMount(lab, await mountNydusd(lab, bootstrap, backend))),
    };
  },
};
