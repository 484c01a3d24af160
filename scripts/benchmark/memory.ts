import { readFileSync } from "node:fs";

const KIB_PER_MIB = 1024;

/** A line of /proc/PID/status summed over processes, MiB: what two of them share counts twice in `VmRSS`. */
export function memoryOf(pids: readonly number[], field: "VmRSS" | "RssAnon"): number {
  const kib = pids.map((pid) => {
    const status = readFileSync(`/proc/${pid}/status`, "utf8");
    return Number(new RegExp(`^${field}:\\s+(\\d+) kB$`, "m").exec(status)?.[1] ?? Number.NaN);
  });
  return kib.reduce((sum, one) => sum + one, 0) / KIB_PER_MIB;
}
