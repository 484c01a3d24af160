import { join } from "node:path";
import { Glob } from "bun";

const ROOT = join(import.meta.dir, "..");
const TEST_TIMEOUT_MS = 300_000;

/** Test folders of the full check that need no executable, then those that run it. */
const TEST_FOLDERS = ["architecture", "unit", "suite", "golden", "fuzz", "oracle"] as const;
const EXECUTABLE_FOLDERS = ["e2e"] as const;
/** With `--peers`: tests that need what `scripts/peers` builds. */
const PEER_FOLDERS = ["peers"] as const;

/** One step of the check: a name and a command line whose failure ends the check. */
interface Step {
  readonly name: string;
  readonly command: readonly string[];
  readonly quick: boolean;
}

/** What `bun test` counted. */
export interface TestCounts {
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
}

function step(name: string, ...command: readonly string[]): Step {
  return { name, command, quick: false };
}

function quickStep(name: string, ...command: readonly string[]): Step {
  return { name, command, quick: true };
}

function testStep(folder: string): Step {
  return step(`test ${folder}`, "bun", "test", `--timeout=${TEST_TIMEOUT_MS}`, `./test/${folder}/`);
}

/** Every step in order; a folder without tests has none. */
function allSteps(withPeers: boolean): Step[] {
  const present = (folder: string): boolean => !new Glob(`test/${folder}/**/*.test.ts`).scanSync(ROOT).next().done;
  return [
    step("build wasm", "bun", "scripts/build-wasm.ts"),
    quickStep("lint", "biome", "ci", "--error-on-warnings"),
    quickStep("types", "tsc", "-p", "."),
    quickStep("layers", "bun", "scripts/layers.ts"),
    step("dead code", "knip"),
    ...TEST_FOLDERS.filter(present).map(testStep),
    step("build", "bun", "scripts/build.ts"),
    step("version", "dist/nydus", "--version"),
    ...[...EXECUTABLE_FOLDERS, ...(withPeers ? PEER_FOLDERS : [])].filter(present).map(testStep),
  ];
}

function quickSteps(): Step[] {
  const changed = quickStep("test changed", "bun", "test", `--timeout=${TEST_TIMEOUT_MS}`, "--changed", "./test/unit/");
  return [...allSteps(false).filter((one) => one.quick), changed];
}

/** The counts at the end of `bun test`'s output, or undefined where it ran no test. */
export function parseCounts(output: string): TestCounts | undefined {
  const count = (word: string): number => Number(new RegExp(`^\\s*(\\d+) ${word}$`, "m").exec(output)?.[1] ?? 0);
  if (!/^\s*\d+ pass$/m.test(output)) return undefined;
  const errors = Number(/^\s*(\d+) errors?$/m.exec(output)?.[1] ?? 0);
  return { passed: count("pass"), failed: count("fail") + errors, skipped: count("skip") + count("todo") };
}

function skippedNames(output: string): string[] {
  return [...output.matchAll(/^\(skip\) (.*)$/gm)].map((match) => match[1] as string);
}

/** Runs a command in the project's root. @returns its status, and all that it printed */
async function runCommand(command: readonly string[]): Promise<{ status: number; output: string }> {
  const env = { ...process.env, PATH: `${join(ROOT, "node_modules", ".bin")}:${process.env["PATH"]}`, NO_COLOR: "1" };
  const child = Bun.spawn(["sh", "-c", 'exec "$@" 2>&1', "sh", ...command], { cwd: ROOT, env, stdout: "pipe" });
  const output = await new Response(child.stdout).text();
  return { status: await child.exited, output };
}

/** Runs the steps until one fails, or all of them. @returns what the tests counted; a failed step of another kind counts as one failure */
async function runSteps(
  steps: readonly Step[],
  keepGoing: boolean,
): Promise<TestCounts & { readonly skips: readonly string[] }> {
  const total = { passed: 0, failed: 0, skipped: 0, skips: [] as string[] };
  for (const { name, command } of steps) {
    const start = performance.now();
    const { status, output } = await runCommand(command);
    const seconds = ((performance.now() - start) / 1000).toFixed(1).padStart(7);
    const counts = parseCounts(output);
    const detail = counts === undefined ? "" : `  ${formatCounts(counts)}`;
    console.log(`${status === 0 ? "ok    " : "FAILED"} ${name.padEnd(18)}${seconds} s${detail}`);
    total.passed += counts?.passed ?? 0;
    total.skipped += counts?.skipped ?? 0;
    total.skips.push(...skippedNames(output));
    if (status === 0) continue;
    console.log(output.replace(/^\(pass\).*\n/gm, ""));
    total.failed += Math.max(1, counts?.failed ?? 0);
    if (!keepGoing) break;
  }
  return total;
}

/** The line that CI reads. */
export function formatCounts({ passed, failed, skipped }: TestCounts): string {
  return `${passed} passed, ${failed} failed, ${skipped} skipped`;
}

if (import.meta.main) {
  const has = (flag: string): boolean => process.argv.includes(flag);
  const result = await runSteps(has("--quick") ? quickSteps() : allSteps(has("--peers")), has("--keep-going"));
  for (const name of new Set(result.skips)) console.log(`skipped: ${name}`);
  console.log(formatCounts(result));
  process.exit(result.failed === 0 ? 0 : 1);
}
