import { join } from "node:path";
import type { Lab } from "./lab.ts";

/** How long each pattern runs. */
const RUN_SECONDS = 2;

interface FioRead {
  readonly iops: number;
  readonly bw_bytes: number;
}

interface FioReport {
  readonly jobs: readonly { readonly read: FioRead }[];
}

/** The largest files of a tree, the largest first. */
export async function largestFiles(lab: Lab, root: string, count: number): Promise<string[]> {
  const script = String.raw`find "$0" -type f -printf '%s\t%P\n' | sort -rn | head -n "$1" | cut -f2`;
  const { stdout } = await lab.run(["sh", "-c", script, root, `${count}`]);
  return stdout
    .trim()
    .split("\n")
    .map((path) => join(root, path));
}

/** Reads files once, so that nothing of them is fetched afterwards. */
export async function readOnce(lab: Lab, files: readonly string[]): Promise<void> {
  await lab.run(["sh", "-c", 'cat "$@" >/dev/null', "sh", ...files]);
}

/** Reads files by fio for a while. @returns reads and bytes a second, of all jobs together */
export async function fio(lab: Lab, files: readonly string[], options: readonly string[]): Promise<FioRead> {
  const filename = files.map((path) => path.replaceAll(":", "\\:")).join(":");
  const command = ["fio", "--name=bench", `--filename=${filename}`, "--readonly", "--ioengine=psync"];
  const timing = ["--time_based", `--runtime=${RUN_SECONDS}`, "--group_reporting", "--output-format=json"];
  const { stdout } = await lab.run([...command, ...timing, ...options]);
  const report = JSON.parse(stdout.slice(stdout.indexOf("{"))) as FioReport;
  const [job] = report.jobs;
  if (job === undefined) throw new Error("fio reports no job");
  return job.read;
}
