import { expect, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { NydusError } from "../../../../src/base/errors.ts";
import { LATENCY_BOUNDS_SEC } from "../../../../src/base/histogram.ts";
import { FetchMeter } from "../../../../src/content/cache/fetch-meter.ts";
import { Counters, makeCounters, sumCounters } from "../../../../src/operation/mount/session-counters.ts";
import { formatMetrics, type MetricsInput } from "../../../../src/service/daemon/metrics.ts";

/** Any Python that has prometheus_client. */
const PYTHON = process.env["NYDUS_TEST_PROMETHEUS_PYTHON"] ?? "python3";
const hasParser = spawnSync(PYTHON, ["-c", "import prometheus_client"]).status === 0;
const MOUNTPOINT = '/mnt/a "quoted"\\path\nwith a line';
const BLOB = "ab".repeat(32);

function sample(mounts = 1): MetricsInput {
  const memory = makeCounters(1);
  const counters = new Counters(memory, 0);
  counters.add("requests", 9);
  counters.add("readyReads", 5);
  counters.startWaiting()(700);
  counters.startWaiting()(new NydusError("EBADMSG", "Cannot verify chunk: test"));
  counters.addError(new TypeError("oops"));
  counters.startWaiting();
  const stats = sumCounters(memory);
  const meter = new FetchMeter();
  meter.onFetched({ demand: 100, ahead: 20, prefetch: 3 }, 0.003);
  meter.onFetched({ demand: 1, ahead: 0, prefetch: 0 }, 99);
  meter.onDecoded(4096, 0.0001);
  meter.onChunkErrors("digest", 2);
  const fetched = meter.stats;
  return {
    version: "1.2.3",
    mounts: Array.from({ length: mounts }, (_, i) => ({
      ...{ mountpoint: `${MOUNTPOINT}${i || ""}`, image: "oci:./a:b", stats, fetched },
    })),
    blobs: mounts === 0 ? [] : [{ blob: BLOB, fetched }],
    totals: stats,
    mountsStarted: 1,
    mountsFailed: 0,
    sources: {
      ...{ requests: 2, demandBytes: 121, aheadBytes: 20, prefetchBytes: 3, chunksFilled: 1, filledBytes: 4096 },
      ...{ chunksFailed: 2, blobBytes: 1, images: 1, prefetchAskedBytes: 3, prefetchDoneBytes: 3 },
    },
    fetched,
    process: { rssBytes: 1, rssAnonBytes: 1, openFiles: 1 },
  };
}

interface Line {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

/** Samples, by the grammar of the text format. */
function linesOf(text: string): Line[] {
  return text
    .split("\n")
    .filter((line) => line !== "" && !line.startsWith("#"))
    .map((line) => {
      const found = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/.exec(line);
      if (found === null) throw new Error(`no sample: ${line}`);
      const pairs = [...(found[2] ?? "").matchAll(/([a-z]\w*)="((?:[^"\\]|\\.)*)"/g)];
      const labels = Object.fromEntries(pairs.map(([, name, value]) => [name, value as string]));
      return { name: found[1] as string, labels, value: Number(found[3]) };
    });
}

function sampleOf(text: string, name: string, labels: Readonly<Record<string, string>> = {}): number | undefined {
  return linesOf(text).find(
    (line) => line.name === name && Object.entries(labels).every(([key, value]) => line.labels[key] === value),
  )?.value;
}

test("counts of a mount carry its mount point and image, those of a blob its digest", () => {
  const text = formatMetrics(sample());
  const mount = { mountpoint: '/mnt/a \\"quoted\\"\\\\path\\nwith a line', image: "oci:./a:b" };
  expect(sampleOf(text, "nydus_mount_reads_total", { ...mount, cache: "hit" })).toBe(5);
  expect(sampleOf(text, "nydus_mount_reads_total", { ...mount, cache: "miss" })).toBe(2);
  expect(sampleOf(text, "nydus_mount_read_bytes_total", mount)).toBe(700);
  expect(sampleOf(text, "nydus_mount_waiting_reads", mount)).toBe(1);
  expect(sampleOf(text, "nydus_mount_errors_total", { ...mount, kind: "digest" })).toBe(1);
  expect(sampleOf(text, "nydus_mount_errors_total", { ...mount, kind: "other" })).toBe(1);
  expect(sampleOf(text, "nydus_mount_fetched_bytes_total", { ...mount, cause: "demand" })).toBe(101);
  expect(sampleOf(text, "nydus_mount_fetched_bytes_total", { ...mount, cause: "ahead" })).toBe(20);
  expect(sampleOf(text, "nydus_blob_fetched_bytes_total", { blob: BLOB, cause: "prefetch" })).toBe(3);
  expect(sampleOf(text, "nydus_blob_decoded_bytes_total", { blob: BLOB })).toBe(4096);
  expect(sampleOf(text, "nydus_blob_chunk_errors_total", { blob: BLOB, kind: "digest" })).toBe(2);
  expect(sampleOf(text, "nydus_requests_total")).toBe(9);
});

test("buckets of a histogram are cumulative, and the last one is the count", () => {
  const lines = linesOf(formatMetrics(sample())).filter(({ name }) => name.startsWith("nydus_blob_fetch_seconds"));
  const buckets = lines.filter(({ name }) => name.endsWith("_bucket"));
  expect(buckets.map(({ labels: { le } }) => le)).toEqual([...LATENCY_BOUNDS_SEC.map(String), "+Inf"]);
  expect(buckets.map(({ value }) => value)).toEqual([...LATENCY_BOUNDS_SEC.map((le) => (le < 0.003 ? 0 : 1)), 2]);
  expect(lines.find(({ name }) => name.endsWith("_count"))?.value).toBe(2);
  expect(lines.find(({ name }) => name.endsWith("_sum"))?.value).toBeCloseTo(99.003, 6);
});

test.each([0, 1, 3])("the text keeps the rules of promtool check metrics (%d mounts)", (mounts) => {
  const text = formatMetrics(sample(mounts));
  expect(text.endsWith("\n")).toBe(true);
  const types = new Map<string, string>();
  for (const [, name, type] of text.matchAll(/^# TYPE (\S+) (\S+)$/gm)) {
    expect(types.has(name as string)).toBe(false); // a family is told once, in one piece
    types.set(name as string, type as string);
    expect(text).toContain(`# HELP ${name} `);
    expect(name).toMatch(/^(nydus|process)_[a-z_]+$/);
    expect((name as string).endsWith("_total")).toBe(type === "counter");
    if (type === "histogram" || type === "summary") expect(name).toMatch(/_seconds$/);
  }
  const seen = new Set<string>();
  for (const { name, labels, value } of linesOf(text)) {
    const family = types.has(name) ? name : name.replace(/_(bucket|sum|count)$/, "");
    expect(types.has(family)).toBe(true);
    expect(value).toBeGreaterThanOrEqual(0);
    const key = JSON.stringify([name, labels]);
    expect(seen.has(key)).toBe(false);
    seen.add(key);
  }
});

const PARSE = `
import json, sys
from prometheus_client.parser import text_string_to_metric_families
families = list(text_string_to_metric_families(sys.stdin.read()))
print(json.dumps([[f.name, f.type, [[s.name, s.labels, s.value] for s in f.samples]] for f in families]))
`;

test.skipIf(!hasParser)("prometheus_client parses it, and finds the same labels and values", () => {
  const { stdout, stderr } = spawnSync(PYTHON, ["-c", PARSE], { input: formatMetrics(sample(2)), encoding: "utf8" });
  expect(stderr).toBe("");
  const families = JSON.parse(stdout) as [string, string, [string, Record<string, string>, number][]][];
  expect(families.filter(([, type]) => type === "unknown")).toEqual([]);
  const samples = families.flatMap(([, , list]) => list);
  expect(samples.length).toBe(linesOf(formatMetrics(sample(2))).length);
  const find = (name: string, labels: Record<string, string>): unknown =>
    samples.find(
      ([found, has]) => found === name && Object.entries(labels).every(([key, value]) => has[key] === value),
    );
  expect(find("nydus_mount_read_bytes_total", { mountpoint: MOUNTPOINT })).toEqual([
    "nydus_mount_read_bytes_total",
    { mountpoint: MOUNTPOINT, image: "oci:./a:b" },
    700,
  ]);
  expect(families.find(([name]) => name === "nydus_mount_fetch_seconds")?.[1]).toBe("histogram");
});
