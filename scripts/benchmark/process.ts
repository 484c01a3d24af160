import { readdirSync, readlinkSync } from "node:fs";

/** How a command went. */
export interface Finished {
  readonly stdout: string;
  /** Wall time from start to end, seconds. */
  readonly seconds: number;
  /** Processor time of it and of what it waited for, seconds. */
  readonly cpuSeconds: number;
}

/** How a command is run. */
export interface RunOptions {
  readonly signal?: AbortSignal | undefined;
  readonly env?: Readonly<Record<string, string>>;
}

/** Last lines of a failed command's output that its error shows. */
const SHOWN_LINES = 5;
const MICROSECONDS = 1e6;

/**
 * Runs a command to its end.
 * @throws when it fails, with the end of what it said; the signal's reason when that ends it
 */
export async function runCommand(command: readonly string[], options: RunOptions = {}): Promise<Finished> {
  options.signal?.throwIfAborted();
  const start = performance.now();
  const child = Bun.spawn([...command], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
    env: { ...process.env, ...options.env },
    ...(options.signal && { signal: options.signal }),
  });
  const outputs = Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  const status = await child.exited;
  const seconds = (performance.now() - start) / 1000;
  const [stdout, stderr] = await outputs;
  options.signal?.throwIfAborted();
  if (status !== 0) {
    const said = `${stdout}\n${stderr}`.trim().split("\n").slice(-SHOWN_LINES).join("\n");
    throw new Error(`${command.join(" ")}: status ${status}: ${said}`);
  }
  const cpuSeconds = Number(child.resourceUsage()?.cpuTime.total ?? 0) / MICROSECONDS;
  return { stdout, seconds, cpuSeconds };
}

/** The path of a program, or undefined. */
export function findProgram(name: string): string | undefined {
  return Bun.which(name, { PATH: `${process.env["PATH"]}:/usr/sbin:/sbin` }) ?? undefined;
}

/** Processes that run a program, whatever they call themselves. @param program its path, without symlinks */
export function runningFrom(program: string): number[] {
  const isRunning = (pid: number): boolean => {
    try {
      return readlinkSync(`/proc/${pid}/exe`) === program;
    } catch {
      return false; // gone already, or not ours to look at
    }
  };
  return readdirSync("/proc").map(Number).filter(isRunning);
}

/** Waits until something holds. @throws after the deadline, saying `what` did not come */
export async function waitUntil(what: string, holds: () => boolean | Promise<boolean>, seconds = 10): Promise<void> {
  const end = performance.now() + seconds * 1000;
  while (!(await holds())) {
    if (performance.now() > end) throw new Error(`${what} did not come within ${seconds} s`);
    await Bun.sleep(5);
  }
}

/** A process that serves until it is stopped; what it says is kept for the error. */
export class Server implements AsyncDisposable {
  readonly #child: Bun.Subprocess<"ignore", "pipe", "pipe">;
  readonly #output: Promise<string>;

  /** @param env its whole environment; this process's unless given */
  constructor(command: readonly string[], env?: Readonly<Record<string, string>>) {
    this.#child = Bun.spawn([...command], {
      stdin: "ignore",
      stdout: "pipe",
      stderr: "pipe",
      ...(env && { env: { ...env } }),
    });
    const { stdout, stderr } = this.#child;
    this.#output = Promise.all([new Response(stdout).text(), new Response(stderr).text()]).then((all) =>
      all.join("\n"),
    );
  }

  get pid(): number {
    return this.#child.pid;
  }

  /** Waits until it serves. @throws what it said, when it ended instead; after the deadline */
  async untilReady(what: string, isReady: () => boolean | Promise<boolean>): Promise<void> {
    await waitUntil(what, async () => {
      if (this.#child.exitCode !== null) throw new Error(`${what} ended: ${(await this.#output).trim()}`);
      return await isReady();
    });
  }

  /** SIGTERM, and after a while SIGKILL. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill("SIGTERM");
    const late = setTimeout(() => this.#child.kill("SIGKILL"), 5000);
    await this.#child.exited;
    clearTimeout(late);
  }
}
