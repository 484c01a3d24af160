import { expect, test } from "bun:test";
import { isReached, type RowResult, ratioOf } from "../../../../scripts/benchmark/benchmark.ts";
import { drawChart } from "../../../../scripts/benchmark/chart.ts";
import { formatFigure } from "../../../../scripts/benchmark/format.ts";
import { writePage } from "../../../../scripts/benchmark/page.ts";
import { formatReport } from "../../../../scripts/benchmark/report.ts";
import type { Results } from "../../../../scripts/benchmark/results.ts";
import { summarize } from "../../../../scripts/benchmark/statistics.ts";
import { BENCHMARKS, chooseBenchmarks } from "../../../../scripts/benchmark/table.ts";

const samples = (median: number) => ({ median, min: median / 2, max: median * 2, runs: 3 });

const speed: RowResult = {
  name: "speed",
  title: "Convert <a> layer",
  unit: "MB/s",
  better: "more",
  target: { ratio: 1.8 },
  benchmark: "speed",
  peerName: "nydus-image",
  ours: samples(200),
  peer: samples(100),
};
const time: RowResult = { ...speed, name: "time", unit: "s", better: "less", target: { ratio: 1 } };
const alone: RowResult = { ...speed, name: "alone", target: { figure: 150 }, peer: undefined };

const results: Results = {
  date: "2026-01-02T03:04:05.000Z",
  runs: 3,
  image: { name: "debian-numpy", layers: [{ gzipBytes: 75_000_000, tarBytes: 209_000_000 }] },
  surroundings: {
    cpu: "A CPU",
    cores: 2,
    memoryGib: 23,
    kernel: "6.18.0",
    system: "Debian",
    load: 0.1,
    versions: { nydus: "0.1.0", "nydus-image and nydusd": "2.2.0" },
  },
  rows: [speed, time, alone],
  without: [{ name: "pull", reason: "nydus pull is not there yet" }],
};

test.each([
  [[3, 1, 2], 2, 1, 3],
  [[4, 1, 3, 2], 2.5, 1, 4],
  [[7], 7, 7, 7],
])("summarize(%p) has the median %p from %p to %p", (values, median, min, max) => {
  expect(summarize(values)).toEqual({ median, min, max, runs: values.length });
});

test("a row that is better with more reaches its ratio from below, one with less from above", () => {
  expect(ratioOf(speed)).toBe(2);
  expect(isReached(speed)).toBe(true);
  expect(isReached(time)).toBe(false);
  expect(isReached({ ...time, ours: samples(100) })).toBe(true);
  expect(isReached({ ...speed, ours: samples(179) })).toBe(false);
});

test("a row without a peer is judged by its figure, or not at all", () => {
  expect(isReached(alone)).toBe(true);
  expect(isReached({ ...alone, target: { figure: 201 } })).toBe(false);
  expect(isReached({ ...alone, target: { ratio: 1 } })).toBeUndefined();
});

test.each([
  [0, "0"],
  [0.03456, "0.035"],
  [1.2345, "1.23"],
  [45.67, "45.7"],
  [456.7, "457"],
  [48_640.2, "48,640"],
])("formatFigure(%p) is %s", (value, text) => {
  expect(formatFigure(value)).toBe(text);
});

test("the report has every figure, its ratio and whether it is enough", () => {
  const [, first, second] = formatReport(results.rows).split("\n");
  expect(first).toContain("200 (100 to 400)");
  expect(first).toContain("2.00 x");
  expect(first).toEndWith("reached");
  expect(second).toEndWith("MISSED");
});

test("the chart knows both modes and holds every figure", () => {
  const svg = drawChart(results);
  expect(svg).toContain("prefers-color-scheme: dark");
  for (const figure of ["200 MB/s", "100 MB/s", "200 s", "2.00 x"]) expect(svg).toContain(figure);
});

test.skipIf(Bun.which("python3") === null)("the chart is well-formed to Python, and its titles are whole", () => {
  const script =
    "import sys, xml.dom.minidom as dom\n" +
    "texts = dom.parse(sys.stdin.buffer).getElementsByTagName('text')\n" +
    "print('\\n'.join(text.firstChild.data for text in texts))";
  const { stdout, exitCode } = Bun.spawnSync(["python3", "-c", script], { stdin: Buffer.from(drawChart(results)) });
  expect(exitCode).toBe(0);
  expect(stdout.toString().split("\n")).toContain("Convert <a> layer");
});

test("the page has machine, versions, every row and what is missing", () => {
  const page = writePage(results);
  for (const text of ["A CPU", "nydus-image and nydusd 2.2.0", "pull: nydus pull is not there yet"]) {
    expect(page).toContain(text);
  }
  expect(page.match(/^\| Convert/gm)).toHaveLength(3);
});

test("names of benchmarks and of rows are unique, and both choose", () => {
  const rows = BENCHMARKS.flatMap((benchmark) => benchmark.rows.map((row) => row.name));
  expect(new Set(rows).size).toBe(rows.length);
  expect(chooseBenchmarks(["find"]).map((one) => one.name)).toEqual(["mount-read"]);
  expect(chooseBenchmarks([])).toHaveLength(BENCHMARKS.length);
  expect(() => chooseBenchmarks(["fined"])).toThrow("fined is no benchmark");
});
