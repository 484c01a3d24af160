import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { CrashImage } from "./crash-image.ts";
import type { ReaderReport } from "./crash-reader.ts";
import { DaemonHome } from "./daemon.ts";
import { killProcessesOf, processesOf, unmountBelow } from "./leftovers.ts";
import { Random } from "./random.ts";
import { makeSmallDisk, type SmallDisk } from "./small-disk.ts";

/** What is done to the daemon. */
export type Harm = "kill" | "stop" | "reset" | "full";

/** How a round goes. */
export interface CrashOptions {
  readonly image: CrashImage;
  readonly engine: "fuse" | "erofs";
  readonly harm: Harm;
  readonly seed: number;
  readonly readers: number;
  /** How many of the readers map files instead of reading them. */
  readonly mappers: number;
  /** How often the daemon is harmed. */
  readonly times: number;
  readonly readTimeoutMs: number;
}

/** What a round has shown. */
export interface CrashResult {
  readonly harms: number;
  /** Readers' files with a wrong byte. */
  readonly wrong: readonly string[];
  /** Readers that a failed read of mapped memory has ended. */
  readonly sigbus: number;
  /** The most reads that failed for one reader. */
  readonly errorsOfOne: number;
  readonly errors: Readonly<Record<string, number>>;
  readonly unread: readonly string[];
  readonly slowestMs: number;
  /** From each harm until a file that nobody had read was read right. */
  readonly recoveriesMs: readonly number[];
  /** Readers that ended otherwise, and what they said. */
  readonly broken: readonly string[];
}

const SIGBUS = 7;
/** Deaths in a row for which a daemon is replaced: more than there are, since they come faster than by default. */
const FAILOVER_CRASHES = "1000";
const STOP_MS = 5_000;
const FIRST_HARM_MS = 400;
const RECOVERY_LIMIT_MS = 60_000;
const POLL_MS = 5;
const FULL_MS = 1_500;
/** How many of a hundred answers with data are cut when connections are reset. */
const RESETS_OF_100 = 30;
const READER = join(import.meta.dir, "crash-reader.ts");

/**
 * What is wrong with a round; nothing when all promises hold. Where a disk is full reads fail while it is; else one
 * reader sees no more failed reads than there were harms.
 */
export function complaintsOf(options: CrashOptions, result: CrashResult): string[] {
  const most = options.harm === "full" ? Number.POSITIVE_INFINITY : result.harms;
  const complaints = [
    ...result.wrong.map((path) => `wrong bytes in ${path}`),
    ...result.unread.map((path) => `${path} could not be read at all`),
    ...result.broken,
  ];
  if (result.sigbus > 0) complaints.push(`${result.sigbus} readers ended by SIGBUS`);
  if (result.errorsOfOne > most) complaints.push(`${result.errorsOfOne} failed reads of one reader`);
  if (result.slowestMs > options.readTimeoutMs) complaints.push(`a file took ${Math.round(result.slowestMs)} ms`);
  return complaints;
}

/** Mounts an image with an empty cache, has it read by many, and does harm to the daemon meanwhile. */
export async function crashRound(options: CrashOptions): Promise<CrashResult> {
  await using disk = options.harm === "full" ? makeSmallDisk() : undefined;
  const home = new DaemonHome("60s", disk?.mountpoint, { NYDUS_FAILOVER_CRASHES: FAILOVER_CRASHES });
  const { image, engine, readTimeoutMs } = options;
  const random = new Random(options.seed);
  const mountpoint = home.mountpoint("m");
  try {
    const flags = ["--engine", engine, "--read-timeout", `${readTimeoutMs}ms`, "--prefetch", "none"];
    await home.ok("mount", ...flags, image.reference, mountpoint);
    if (options.harm === "reset") resetSome(image, random);
    disk?.fill();
    const readers = Array.from({ length: options.readers }, (_, i) => {
      const how = i < options.mappers ? "mmap" : "read";
      return startReader(image, mountpoint, { how, seed: options.seed + i });
    });
    const recoveriesMs: number[] = [];
    for (let done = 0; done < options.times; done++) {
      await Bun.sleep(random.below(FIRST_HARM_MS));
      const probe = image.probes[done];
      if (probe === undefined) throw new Error("there are fewer probes than harms");
      const from = performance.now();
      await doHarm(home, options.harm, disk);
      await untilReadable(join(mountpoint, probe.path), probe.sha256);
      recoveriesMs.push(performance.now() - from);
    }
    const ends = await Promise.all(readers);
    await home.ok("umount", mountpoint);
    return { ...summary(ends), harms: options.times, recoveriesMs };
  } finally {
    image.registry.rules.length = 0;
    await unmountBelow(home.dir);
    await home[Symbol.asyncDispose]();
    await killProcessesOf(home.dir);
  }
}

/** The process that answers for the mounts of a state directory: not the one that watches it. */
function daemonOf(home: DaemonHome): number {
  const found = processesOf(home.dir).filter((pid) => {
    try {
      const environment = readFileSync(`/proc/${pid}/environ`, "latin1");
      return !environment.includes("NYDUS_PROCESS_ROLE=") && commandLine(pid).includes(" daemon run ");
    } catch {
      return false;
    }
  });
  return found[0] ?? 0;
}

function commandLine(pid: number): string {
  return readFileSync(`/proc/${pid}/cmdline`, "latin1").replaceAll("\0", " ");
}

async function doHarm(home: DaemonHome, harm: Harm, disk: SmallDisk | undefined): Promise<void> {
  if (harm === "reset") return;
  if (harm === "full") {
    await Bun.sleep(FULL_MS);
    disk?.empty();
    return;
  }
  let pid = daemonOf(home);
  for (let waited = 0; pid === 0 && waited < RECOVERY_LIMIT_MS; waited += POLL_MS) {
    await Bun.sleep(POLL_MS);
    pid = daemonOf(home);
  }
  if (harm === "kill") process.kill(pid, "SIGKILL");
  else {
    process.kill(pid, "SIGSTOP");
    await Bun.sleep(STOP_MS);
    if (existsSync(`/proc/${pid}`)) process.kill(pid, "SIGCONT");
  }
}

/** Some answers with data end in the middle, by a reset. */
function resetSome(image: CrashImage, random: Random): void {
  image.registry.rules.push(({ path, headers }) => {
    const match = /\/blobs\/(sha256:[0-9a-f]+)/.exec(path);
    const range = /^bytes=(\d+)-(\d+)$/.exec(headers["range"] ?? "");
    const blob = image.registry.blobs.get(match?.[1] ?? "");
    if (blob === undefined || range === null || !random.chance(RESETS_OF_100 / 100)) return undefined;
    const [start, end] = [Number(range[1]), Math.min(blob.length, Number(range[2]) + 1)];
    return {
      status: 206,
      headers: { "content-range": `bytes ${start}-${end - 1}/${blob.length}` },
      body: blob.subarray(start, end),
      cutAt: random.below(end - start),
      end: "reset",
    };
  });
}

async function untilReadable(path: string, sha256: string): Promise<void> {
  const from = performance.now();
  for (let last = ""; performance.now() - from < RECOVERY_LIMIT_MS; await Bun.sleep(POLL_MS)) {
    try {
      const bytes = await Promise.race([readFile(path), Bun.sleep(RECOVERY_LIMIT_MS).then(() => undefined)]);
      if (bytes === undefined) throw new Error("a read hangs");
      const found = createHash("sha256").update(bytes).digest("hex");
      if (found !== sha256) throw new Error(`${path} is ${found}, not ${sha256}`);
      return;
    } catch (error) {
      last = String(error);
      if (!/EIO|ENOTCONN|ECONNABORTED|ENOSPC/.test(last)) throw error;
    }
  }
  throw new Error(`${path} cannot be read any more`);
}

interface ReaderEnd {
  readonly signal: string | number | null;
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

async function startReader(
  image: CrashImage,
  mountpoint: string,
  { how, seed }: { readonly how: string; readonly seed: number },
): Promise<ReaderEnd> {
  const command = [process.execPath, READER, image.list, mountpoint, how, String(seed)];
  const child = Bun.spawn(command, { stdin: "ignore", stdout: "pipe", stderr: "pipe" });
  const [stdout, stderr] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  await child.exited;
  return { signal: child.signalCode, status: child.exitCode, stdout, stderr };
}

function summary(ends: readonly ReaderEnd[]): Omit<CrashResult, "harms" | "recoveriesMs"> {
  const reports: ReaderReport[] = [];
  const broken: string[] = [];
  let sigbus = 0;
  for (const { signal, status, stdout, stderr } of ends) {
    if (signal === "SIGBUS" || status === 128 + SIGBUS) sigbus++;
    else if (status !== 0) broken.push(`status ${status}, signal ${signal}: ${stderr}`);
    else reports.push(JSON.parse(stdout) as ReaderReport);
  }
  const errors: Record<string, number> = {};
  for (const report of reports) {
    for (const [code, count] of Object.entries(report.errors)) errors[code] = (errors[code] ?? 0) + count;
  }
  const countOf = (report: ReaderReport): number => Object.values(report.errors).reduce((a, b) => a + b, 0);
  return {
    wrong: reports.flatMap(({ wrong }) => wrong),
    sigbus,
    errorsOfOne: Math.max(0, ...reports.map(countOf)),
    errors,
    unread: reports.flatMap(({ unread }) => unread),
    slowestMs: Math.max(0, ...reports.map(({ slowestMs }) => slowestMs)),
    broken,
  };
}
