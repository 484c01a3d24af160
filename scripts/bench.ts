import { spawn } from "node:child_process";
import { once } from "node:events";
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism, constants, loadavg } from "node:os";
import { join, resolve } from "node:path";
import type { RowResult } from "./benchmark/benchmark.ts";
import { drawChart } from "./benchmark/chart.ts";
import type { LabOptions, Peers } from "./benchmark/lab.ts";
import { type LayoutImage, parseImageName, readLayout, tarBytesOf } from "./benchmark/layout.ts";
import { describeSurroundings } from "./benchmark/machine.ts";
import { type BenchOptions, parseBenchOptions, parseProxyOptions, USAGE } from "./benchmark/options.ts";
import { writePage } from "./benchmark/page.ts";
import { waitUntil } from "./benchmark/process.ts";
import { formatReport } from "./benchmark/report.ts";
import { type Results, readResults } from "./benchmark/results.ts";
import { runBenchmark } from "./benchmark/run.ts";
import { startShapingProxy } from "./benchmark/shaping-proxy.ts";
import { BENCHMARKS, chooseBenchmarks } from "./benchmark/table.ts";

const ROOT = join(import.meta.dir, "..");
const IMAGE_REF = "debian-numpy";
/** Above so many runnable threads a core, the figures are the neighbours'. */
const LOAD_LIMIT = 0.5;
const QUIET_WAIT_SECONDS = 300;

function say(line: string): void {
  process.stderr.write(`${line}\n`);
}

/** Aborts at the first signal; what is under way then ends, and gives back what it holds. */
function watchSignals(): AbortSignal {
  const controller = new AbortController();
  for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(name, () => {
      process.exitCode = 128 + constants.signals[name];
      controller.abort(new Error(`ended by ${name}`));
    });
  }
  return controller.signal;
}

function findPeers(): Peers | undefined {
  const bin = resolve(ROOT, process.env["PEERS"] ?? "dist/peers", "bin");
  const peers = { nydusImage: join(bin, "nydus-image"), nydusd: join(bin, "nydusd") };
  return existsSync(peers.nydusImage) && existsSync(peers.nydusd) ? peers : undefined;
}

/** Makes the image; it ends, with all that it has started, at the signal. */
async function makeImage(dir: string, signal: AbortSignal): Promise<void> {
  const program = join(ROOT, "scripts", "benchmark", "make-image");
  const child = spawn(program, [dir, IMAGE_REF], { detached: true, stdio: ["ignore", "inherit", "inherit"] });
  const end = (): void => {
    if (child.pid !== undefined) process.kill(-child.pid, "SIGTERM");
  };
  signal.addEventListener("abort", end, { once: true });
  const [status] = await once(child, "exit");
  signal.removeEventListener("abort", end);
  signal.throwIfAborted();
  if (status !== 0) throw new Error("the image could not be made");
}

/** The image that is measured with, made if need be. */
async function openImage(options: BenchOptions, cacheDir: string, signal: AbortSignal): Promise<LayoutImage> {
  if (options.image !== undefined) {
    const { dir, ref } = parseImageName(options.image);
    return readLayout(realpathSync(dir), ref);
  }
  const dir = join(cacheDir, "image");
  if (!existsSync(dir)) {
    say(`making the image in ${dir} (some minutes, once)`);
    await makeImage(dir, signal);
  }
  return readLayout(dir, IMAGE_REF);
}

/** Runs benchmarks, each result told as it comes. */
async function measure(options: BenchOptions, lab: LabOptions): Promise<Pick<Results, "rows" | "without">> {
  const rows: RowResult[] = [];
  const without: { name: string; reason: string; failed: boolean }[] = [];
  for (const benchmark of chooseBenchmarks(options.only)) {
    const start = performance.now();
    const outcome = await runBenchmark(benchmark, lab, options.runs);
    const seconds = ((performance.now() - start) / 1000).toFixed(1);
    if (outcome.kind === "measured") {
      say(`${benchmark.name}: measured in ${seconds} s`);
      rows.push(...outcome.results);
    } else {
      say(`${benchmark.name}: ${outcome.kind}: ${outcome.reason}`);
      without.push({ name: benchmark.name, reason: outcome.reason, failed: outcome.kind === "failed" });
    }
  }
  if (without.some(({ failed }) => failed)) process.exitCode = 1;
  return { rows, without };
}

function isBusy(): boolean {
  return (loadavg()[0] ?? 0) > LOAD_LIMIT * availableParallelism();
}

function currentLoad(): string {
  return (loadavg()[0] ?? 0).toFixed(2);
}

/** What is published was measured on a quiet machine. @throws when it does not become quiet */
async function untilQuiet(signal: AbortSignal): Promise<void> {
  if (isBusy()) say(`the machine is busy (load ${currentLoad()}): waiting for it, ${QUIET_WAIT_SECONDS} s at most`);
  await waitUntil("a quiet machine, which --docs asks for,", () => signal.aborted || !isBusy(), QUIET_WAIT_SECONDS);
  signal.throwIfAborted();
}

async function runAll(options: BenchOptions): Promise<Results> {
  const signal = watchSignals();
  const cacheDir = resolve(ROOT, process.env["NYDUS_BENCH_DIR"] ?? "dist/bench");
  mkdirSync(cacheDir, { recursive: true });
  const image = await openImage(options, cacheDir, signal);
  const dir = mkdtempSync(join(realpathSync(cacheDir), "work-"));
  try {
    const nydus = join(dir, "nydus"); // the original may be built anew meanwhile
    copyFileSync(options.nydus, nydus);
    const peers = findPeers();
    if (options.docs) await untilQuiet(signal);
    const surroundings = await describeSurroundings(nydus, peers);
    if (isBusy()) say(`the machine is busy (load ${currentLoad()}): these figures are not to be relied upon`);
    const measured = await measure(options, { dir, nydus, peers, image, signal });
    const layers = image.layers.map((layer) => ({ gzipBytes: layer.sizeBytes, tarBytes: tarBytesOf(layer) }));
    const facts = { name: image.ref, layers };
    return { date: new Date().toISOString(), runs: options.runs, image: facts, surroundings, ...measured };
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

function writeDocs(results: Results): void {
  writeFileSync(join(ROOT, "docs", "benchmark.svg"), drawChart(results));
  writeFileSync(join(ROOT, "docs", "benchmark.md"), writePage(results));
  say("docs/benchmark.md and docs/benchmark.svg are written");
}

function listBenchmarks(): string {
  const lines = BENCHMARKS.flatMap(({ name, peer, rows }) => [
    `${name}  (beside ${peer})`,
    ...rows.map((row) => `  ${row.name.padEnd(18)} ${row.title}, ${row.unit}`),
  ]);
  return lines.join("\n");
}

async function bench(args: readonly string[]): Promise<void> {
  const options = parseBenchOptions(args, ROOT);
  if (options.help) return void process.stdout.write(USAGE);
  chooseBenchmarks(options.only); // before anything is made
  if (options.docs && options.only.length > 0) throw new Error("--docs is for a whole run, not for --only");
  if (options.list) return console.log(listBenchmarks());
  const results = options.from === undefined ? await runAll(options) : readResults(options.from);
  const versions = Object.entries(results.surroundings.versions).map(([name, version]) => `${name} ${version}`);
  if (results.rows.length > 0) console.log(`${formatReport(results.rows)}\n`);
  console.log(versions.join(", "));
  for (const { name, reason } of results.without) console.log(`without figures: ${name}: ${reason}`);
  if (options.json !== undefined) writeFileSync(options.json, `${JSON.stringify(results, null, 2)}\n`);
  if (options.docs) writeDocs(results);
}

/** Serves until a signal. */
async function proxy(args: readonly string[]): Promise<void> {
  const { upstream, port, ...link } = parseProxyOptions(args);
  const signal = watchSignals();
  await using server = await startShapingProxy(upstream, link, port);
  console.log(`127.0.0.1:${server.port}`);
  await new Promise((stopped) => signal.addEventListener("abort", stopped, { once: true }));
  const { downBytes, upBytes, connections } = server.traffic;
  console.log(`${downBytes} bytes down, ${upBytes} bytes up, ${connections} connections`);
}

try {
  const [first, ...rest] = process.argv.slice(2);
  await (first === "proxy" ? proxy(rest) : bench(process.argv.slice(2)));
} catch (error) {
  say(`error: ${error instanceof Error ? error.message : error}`);
  process.exitCode ??= 1;
}
