import { resolve } from "node:path";
import { selfCommand } from "../os/process.ts";
import { DaemonClient } from "../service/daemon/client.ts";
import type { CliContext } from "./command.ts";
import { parseDuration, parseInteger } from "./values.ts";

/** Environment variable with the time after which a daemon without mounts ends. */
const IDLE_VARIABLE = "NYDUS_DAEMON_IDLE";
/** That time where nothing is said. */
const DEFAULT_IDLE = "10s";
const MAX_THREADS = 64;

/** The daemon of the state directory. */
export function daemonClient({ root }: Pick<CliContext, "root">): DaemonClient {
  return new DaemonClient(root);
}

/** How long a daemon lives without mounts: the flag, else the environment's, else 10 s. @returns ms @throws EINVAL */
export function idleTimeout(flag: string | undefined): number {
  return parseDuration("idle-timeout", flag ?? (process.env[IDLE_VARIABLE] || DEFAULT_IDLE));
}

/** Threads that answer the kernel. @throws EINVAL */
export function threadCount(flag: string): number {
  return parseInteger("threads", flag, { min: 1, max: MAX_THREADS });
}

/** Runs the daemon of the state directory. */
export function daemonCommand(context: Pick<CliContext, "root">, threads: number): readonly string[] {
  return runCommand(context, threads, idleTimeout(undefined));
}

/** The same with a given time. */
export function runCommand({ root }: Pick<CliContext, "root">, threads: number, idleMs: number): readonly string[] {
  const flags = ["--threads", `${threads}`, "--idle-timeout", `${idleMs}ms`];
  return [...selfCommand(), "--root", resolve(root), "daemon", "run", ...flags];
}
