import { readdirSync, readFileSync } from "node:fs";
import { LATENCY_BOUNDS_SEC, type LatencyStats, latencyStats } from "../../base/histogram.ts";
import { ERROR_KINDS, type FetchStats } from "../../content/cache/fetch-meter.ts";
import type { BlobFetches, MountStats } from "../../operation/image/mount-source.ts";
import type { SessionStats } from "../../operation/mount/engine.ts";
import { ERROR_FIELDS } from "../../operation/mount/session-counters.ts";

/** A mount that is there. */
export interface MountMetrics {
  readonly mountpoint: string;
  /** As the user named it. */
  readonly image: string;
  readonly stats: SessionStats;
  readonly fetched: FetchStats;
}

/** What the metrics tell of. */
export interface MetricsInput {
  readonly version: string;
  readonly mounts: readonly MountMetrics[];
  /** Of blobs that are open. */
  readonly blobs: readonly BlobFetches[];
  /** Of all mounts since the start, ended ones too. */
  readonly totals: SessionStats;
  readonly mountsStarted: number;
  readonly mountsFailed: number;
  readonly sources: MountStats;
  /** Because of all mounts since the start. */
  readonly fetched: FetchStats;
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

type Labels = Readonly<Record<string, string>>;
type Sample = readonly [labels: Labels, value: number];
interface Family {
  readonly name: string;
  readonly type: "counter" | "gauge" | "summary" | "histogram";
  readonly help: string;
  /** A label `suffix` goes behind the name. */
  readonly samples: readonly Sample[];
}

/**
 * The metrics as Prometheus' text format 0.0.4 has them: `nydus_*` of the daemon since its start, `nydus_mount_*` of
 * each mount and `nydus_blob_*` of each open blob. Fetches are counted once, for the mount that caused them: as
 * `FetchMeter` says.
 */
export function formatMetrics(input: MetricsInput): string {
  return [...daemonFamilies(input), ...mountFamilies(input), ...blobFamilies(input)]
    .filter(({ samples }) => samples.length > 0)
    .map(({ name, type, help, samples }) => {
      const lines = samples.map(
        ([{ suffix = "", ...labels }, value]) => `${name}${suffix}${formatLabels(labels)} ${value}\n`,
      );
      return `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n${lines.join("")}`;
    })
    .join("");
}

function daemonFamilies(input: MetricsInput): Family[] {
  const { version, mounts, totals, sources, process, mountsStarted, mountsFailed, fetched } = input;
  const prefetched: Sample[] = [
    [{ state: "asked" }, sources.prefetchAskedBytes],
    [{ state: "done" }, sources.prefetchDoneBytes],
  ];
  return [
    gauge("nydus_info", "Version of the daemon.", [[{ version }, 1]]),
    gauge("nydus_mounts", "Mounts that are served.", one(mounts.length)),
    gauge("nydus_images", "Images that are open.", one(sources.images)),
    counter("nydus_mounts_started_total", "Mounts made.", one(mountsStarted)),
    counter("nydus_mounts_failed_total", "Mounts that could not be made.", one(mountsFailed)),
    ...sessionFamilies("nydus", [{ labels: {}, stats: totals }]),
    ...fetchFamilies("nydus", [{ labels: {}, fetched }]),
    counter(
      "nydus_prefetch_bytes_total",
      "Uncompressed bytes that prefetches have asked for, and those that have come.",
      prefetched,
    ),
    counter("nydus_chunks_filled_total", "Chunks verified and cached.", one(sources.chunksFilled)),
    counter(
      "nydus_chunks_failed_total",
      "Chunks that could not be had, or not any more wanted.",
      one(sources.chunksFailed),
    ),
    gauge("process_resident_memory_bytes", "Resident memory.", one(process.rssBytes)),
    gauge("process_open_fds", "Open descriptors.", one(process.openFiles)),
  ];
}

function mountFamilies({ mounts }: MetricsInput): Family[] {
  const labelled = mounts.map(({ mountpoint, image, ...rest }) => ({ labels: { mountpoint, image }, ...rest }));
  return [...sessionFamilies("nydus_mount", labelled), ...fetchFamilies("nydus_mount", labelled)];
}

function blobFamilies({ blobs }: MetricsInput): Family[] {
  return fetchFamilies(
    "nydus_blob",
    blobs.map(({ blob, fetched }) => ({ labels: { blob }, fetched })),
  );
}

/** What readers saw. */
function sessionFamilies(
  prefix: string,
  all: readonly { readonly labels: Labels; readonly stats: SessionStats }[],
): Family[] {
  const samples = (list: (stats: SessionStats) => readonly Sample[]): Sample[] =>
    samplesOf(all, (one) => list(one.stats));
  const reads = ({ readyReads, waitingReads }: SessionStats): Sample[] => [
    [{ cache: "hit" }, readyReads],
    [{ cache: "miss" }, waitingReads],
  ];
  const times = ({ readyReads, readySec, waitingReads, waitingSec }: SessionStats): Sample[] => [
    [{ suffix: "_sum", cache: "hit" }, readySec],
    [{ suffix: "_count", cache: "hit" }, readyReads],
    [{ suffix: "_sum", cache: "miss" }, waitingSec],
    [{ suffix: "_count", cache: "miss" }, waitingReads],
  ];
  const waits = ({ waitBuckets, waitingSec }: SessionStats): Sample[] =>
    histogramSamples(latencyStats(waitBuckets, waitingSec));
  return [
    counter(
      `${prefix}_requests_total`,
      "Requests of the kernel.",
      samples((stats) => one(stats.requests)),
    ),
    counter(`${prefix}_errors_total`, "Requests that failed, by why.", samples(errorSamples)),
    counter(`${prefix}_reads_total`, "Reads of file data: a hit was in the cache, a miss had to wait.", samples(reads)),
    counter(
      `${prefix}_read_bytes_total`,
      "File data given to readers.",
      samples((stats) => one(stats.readBytes)),
    ),
    gauge(
      `${prefix}_waiting_reads`,
      "Reads that wait for data now.",
      samples((stats) => one(stats.waitingNow)),
    ),
    {
      name: `${prefix}_read_seconds`,
      type: "summary",
      help: "Time that reads took in the daemon.",
      samples: samples(times),
    },
    histogram(`${prefix}_read_wait_seconds`, "Time that misses waited.", samples(waits)),
  ];
}

function errorSamples(stats: SessionStats): Sample[] {
  let other = stats.errors;
  const samples = ERROR_KINDS.map((kind): Sample => {
    const field = ERROR_FIELDS[kind];
    if (field === undefined) return [{ kind }, other];
    other -= stats[field];
    return [{ kind }, stats[field]];
  });
  return samples;
}

/** What that took. */
function fetchFamilies(
  prefix: string,
  all: readonly { readonly labels: Labels; readonly fetched: FetchStats }[],
): Family[] {
  const samples = (list: (fetched: FetchStats) => readonly Sample[]): Sample[] =>
    samplesOf(all, (one) => list(one.fetched));
  const bytes = ({ demandBytes, aheadBytes, prefetchBytes }: FetchStats): Sample[] => [
    [{ cause: "demand" }, demandBytes],
    [{ cause: "ahead" }, aheadBytes],
    [{ cause: "prefetch" }, prefetchBytes],
  ];
  const errors = ({ chunkErrors }: FetchStats): Sample[] => ERROR_KINDS.map((kind) => [{ kind }, chunkErrors[kind]]);
  return [
    counter(
      `${prefix}_fetches_total`,
      "Requests to places of blobs.",
      samples(({ requests }) => one(requests)),
    ),
    counter(
      `${prefix}_fetched_bytes_total`,
      "Bytes of blobs that were fetched: that a reader waited for, that came along, that were prefetched.",
      samples(bytes),
    ),
    counter(
      `${prefix}_decoded_bytes_total`,
      "Uncompressed bytes of chunks that were verified and cached.",
      samples(({ decodedBytes }) => one(decodedBytes)),
    ),
    counter(`${prefix}_chunk_errors_total`, "Chunks that could not be had, by why.", samples(errors)),
    histogram(
      `${prefix}_fetch_seconds`,
      "Time of requests to places of blobs that are no local files.",
      samples(({ fetches }) => histogramSamples(fetches)),
    ),
    histogram(
      `${prefix}_decode_seconds`,
      "Time to decompress, verify and cache some chunks, and to read them from a local file.",
      samples(({ decodes }) => histogramSamples(decodes)),
    ),
  ];
}

function counter(name: string, help: string, samples: readonly Sample[]): Family {
  return { name, type: "counter", help, samples };
}

function gauge(name: string, help: string, samples: readonly Sample[]): Family {
  return { name, type: "gauge", help, samples };
}

function histogram(name: string, help: string, samples: readonly Sample[]): Family {
  return { name, type: "histogram", help, samples };
}

function one(value: number): Sample[] {
  return [[{}, value]];
}

/** The samples of each, with its labels before their own. */
function samplesOf<T extends { readonly labels: Labels }>(
  all: readonly T[],
  list: (one: T) => readonly Sample[],
): Sample[] {
  return all.flatMap((each) => list(each).map(([labels, value]): Sample => [{ ...each.labels, ...labels }, value]));
}

/** Buckets are cumulative: each counts what is not above its bound. */
function histogramSamples({ count, sumSec, buckets }: LatencyStats): Sample[] {
  let sum = 0;
  const below = LATENCY_BOUNDS_SEC.map((bound, i): Sample => {
    sum += buckets[i] ?? 0;
    return [{ suffix: "_bucket", le: `${bound}` }, sum];
  });
  return [
    ...below,
    [{ suffix: "_bucket", le: "+Inf" }, count],
    [{ suffix: "_sum" }, sumSec],
    [{ suffix: "_count" }, count],
  ];
}

function formatLabels(labels: Labels): string {
  const pairs = Object.entries(labels).map(([name, value]) => {
    const escaped = value.replace(/\\/g, "\\\\").replace(/"/g, '\\"').replace(/\n/g, "\\n");
    return `${name}="${escaped}"`;
  });
  return pairs.length === 0 ? "" : `{${pairs.join(",")}}`;
}
