import { afterAll, expect, test } from "bun:test";
import { copyFileSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Benchmark, Missing } from "../../../../scripts/benchmark/benchmark.ts";
import { isKernelSince } from "../../../../scripts/benchmark/erofs.ts";
import type { LabOptions } from "../../../../scripts/benchmark/lab.ts";
import { goModuleVersion } from "../../../../scripts/benchmark/machine.ts";
import { runningFrom } from "../../../../scripts/benchmark/process.ts";
import { runBenchmark } from "../../../../scripts/benchmark/run.ts";

const dir = realpathSync(mkdtempSync(join(tmpdir(), "bench-run-")));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const NO_IMAGE = { dir, ref: "none", name: "none", descriptors: [], layers: [] };
const OPTIONS: LabOptions = {
  dir,
  nydus: "/bin/false",
  peers: undefined,
  image: { ...NO_IMAGE, config: { mediaType: "", digest: "", size: 0 } },
  signal: new AbortController().signal,
};

function benchmarkOf(sides: Benchmark["prepare"]): Benchmark {
  return { name: "b", peer: "p", rows: [{ name: "r", title: "", unit: "s", better: "less" }], prepare: sides };
}

test("both sides run in turn, and who begins changes each time", async () => {
  const order: string[] = [];
  const side = (name: string) => async () => ({ r: order.push(name) });
  const benchmark = benchmarkOf(async () => ({ ours: side("o"), peer: side("p") }));
  const outcome = await runBenchmark(benchmark, OPTIONS, 3);
  expect(order.join("")).toBe("oppoop");
  expect(outcome).toMatchObject({ kind: "measured", results: [{ ours: { median: 4, runs: 3 }, peer: { median: 3 } }] });
});

test("a benchmark without a peer has figures of ours alone", async () => {
  const outcome = await runBenchmark(
    benchmarkOf(async () => ({ ours: async () => ({ r: 1 }) })),
    OPTIONS,
    2,
  );
  expect(outcome).toMatchObject({ kind: "measured", results: [{ ours: { median: 1, runs: 2 } }] });
  expect(outcome).not.toMatchObject({ results: [{ peer: {} }] });
});

test.each([
  [new Missing("there is no fio"), "skipped"],
  [new Error("it broke"), "failed"],
])("%p is told with its reason", async (error, kind) => {
  const outcome = await runBenchmark(
    benchmarkOf(() => Promise.reject(error)),
    OPTIONS,
    1,
  );
  expect(outcome).toEqual({ kind, reason: error.message } as never);
});

test.each([
  ["6.14.0", true],
  ["6.18.44-fc-v669", true],
  ["7.0-rc1", true],
  ["6.13.9-arch1", false],
  ["6.9.0", false],
  ["5.15.0-91-generic", false],
])("isKernelSince() knows that %s is Linux 6.14 or later: %p", (release, isSince) => {
  expect(isKernelSince([6, 14], release)).toBe(isSince);
});

test("goModuleVersion() reads what the linker wrote, of that module alone", () => {
  const program = join(dir, "program");
  const lines = [
    "\0path\tcmd/x",
    "dep\texample.org/ab\tv9.9.9\th1:",
    "dep\texample.org/a\tv0.15.10-rc.1\th1:x",
    "\xff\xfe",
  ];
  writeFileSync(program, lines.join("\n"), "latin1");
  expect(goModuleVersion(program, "example.org/a")).toBe("0.15.10-rc.1");
  expect(goModuleVersion(program, "example.org/b")).toBeUndefined();
  expect(goModuleVersion(join(dir, "absent"), "example.org/a")).toBeUndefined();
});

test("runningFrom() finds processes by their program, not by their name", async () => {
  const program = join(dir, "mine");
  copyFileSync(Bun.which("sleep") ?? "/bin/sleep", program);
  await using child = Bun.spawn([program, "60"], { argv0: "other name" });
  expect(runningFrom(program)).toEqual([child.pid]);
  expect(runningFrom(join(dir, "not-mine"))).toEqual([]);
  child.kill("SIGKILL");
  await child.exited;
  expect(runningFrom(program)).toEqual([]);
});
