import { readdirSync, readFileSync } from "node:fs";
import type { MountStats } from "../../operation/image/mount-source.ts";
import type { SessionStats } from "../../operation/mount/engine.ts";

/** What the metrics tell of. */
export interface MetricsInput {
  readonly version: string;
  /** Mounts that are there. */
  readonly mounts: readonly { readonly mountpoint: string; readonly stats: SessionStats }[];
  /** Of all mounts since the start, ended ones too. */
  readonly totals: SessionStats;
  readonly mountsStarted: number;
  readonly mountsFailed: number;
  readonly sources: MountStats;
  readonly process: ProcessUse;
}

/** What this process uses. */
export interface ProcessUse {
  readonly rssBytes: number;
  readonly rssAnonBytes: number;
  readonly openFiles: number;
}

/** What this process uses now; zeros where there is no /proc. */
export function processUse(): ProcessUse {
  try {
    const status = readFileSync("/proc/self/status", "utf8");
    const bytesOf = (name: string): number =>
      Number(new RegExp(`^${name}:\\s*(\\d+) kB$`, "m").exec(status)?.[1] ?? 0) * 1024;
    return {
      rssBytes: bytesOf("VmRSS"),
      rssAnonBytes: bytesOf("RssAnon"),
      openFiles: readdirSync("/proc/self/fd").length - 1, // the listing's own
    };
  } catch {
    return { rssBytes: process.memoryUsage.rss(), rssAnonBytes: 0, openFiles: 0 };
  }
}

type Sample = readonly [labels: Readonly<Record<string, string>>, value: number];
type Family = readonly [name: string, type: "counter" | "gauge" | "summary", help: string, samples: readonly Sample[]];

/** The metrics as Prometheus' text format 0.0.4 has them. */
export function formatMetrics(input: MetricsInput): string {
  return families(input)
    .map(([name, type, help, samples]) => {
      const lines = samples.map(
        ([{ suffix = "", ...labels }, value]) => `${name}${suffix}${formatLabels(labels)} ${value}\n`,
      );
      return `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n${lines.join("")}`;
    })
    .join("");
}

function families({ version, mounts, totals, sources, process, ...counts }: MetricsInput): Family[] {
  const one = (value: number): Sample[] => [[{}, value]];
  return [
    ["nydus_info", "gauge", "Version of the daemon.", [[{ version }, 1]]],
    ["nydus_mounts", "gauge", "Mounts that are served.", one(mounts.length)],
    ["nydus_images", "gauge", "Images that are open.", one(sources.images)],
    ["nydus_mounts_started_total", "counter", "Mounts made.", one(counts.mountsStarted)],
    ["nydus_mounts_failed_total", "counter", "Mounts that could not be made.", one(counts.mountsFailed)],
    ["nydus_requests_total", "counter", "Requests of the kernel.", one(totals.requests)],
    ["nydus_errors_total", "counter", "Requests that failed.", one(totals.errors)],
    [
      "nydus_reads_total",
      "counter",
      "Reads of file data: a hit was in the cache, a miss had to wait.",
      [
        [{ cache: "hit" }, totals.readyReads],
        [{ cache: "miss" }, totals.waitingReads],
      ],
    ],
    [
      "nydus_read_seconds",
      "summary",
      "Time that reads took in the daemon.",
      [
        [{ suffix: "_sum", cache: "hit" }, totals.readySec],
        [{ suffix: "_count", cache: "hit" }, totals.readyReads],
        [{ suffix: "_sum", cache: "miss" }, totals.waitingSec],
        [{ suffix: "_count", cache: "miss" }, totals.waitingReads],
      ],
    ],
    ["nydus_read_bytes_total", "counter", "File data given to readers.", one(totals.readBytes)],
    [
      "nydus_mount_read_bytes_total",
      "counter",
      "File data given to readers, by mount.",
      mounts.map(({ mountpoint, stats }): Sample => [{ mountpoint }, stats.readBytes]),
    ],
    [
      "nydus_fetched_bytes_total",
      "counter",
      "Bytes of blobs that were fetched.",
      [
        [{ why: "demand" }, sources.demandBytes],
        [{ why: "prefetch" }, sources.prefetchBytes],
      ],
    ],
    [
      "nydus_prefetch_bytes_total",
      "counter",
      "Uncompressed bytes that prefetches have asked for, and those that have come.",
      [
        [{ state: "asked" }, sources.prefetchAskedBytes],
        [{ state: "done" }, sources.prefetchDoneBytes],
      ],
    ],
    ["nydus_fetches_total", "counter", "Requests to places of blobs.", one(sources.requests)],
    ["nydus_chunks_filled_total", "counter", "Chunks verified and cached.", one(sources.chunksFilled)],
    ["nydus_chunks_failed_total", "counter", "Chunks that could not be had or verified.", one(sources.chunksFailed)],
    ["process_resident_memory_bytes", "gauge", "Resident memory.", one(process.rssBytes)],
    ["process_open_fds", "gauge", "Open descriptors.", one(process.openFiles)],
  ];
}

function formatLabels(labels: Readonly<Record<string, string>>): string {
  const pairs = Object.entries(labels).map(([name, value]) => {
    const escaped = value.replace(/\\/g, "\\\\").replace(/"/g, '\\"').replace(/\n/g, "\\n");
    return `${name}="${escaped}"`;
  });
  return pairs.length === 0 ? "" : `{${pairs.join(",")}}`;
}
