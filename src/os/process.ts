import { readFileSync } from "node:fs";

/** Where a compiled executable keeps its modules. */
const BUNDLE_ROOT = "/$bunfs/";
/** Position of starttime behind the command name in /proc/pid/stat (proc_pid_stat(5), field 22). */
const START_FIELD = 19;

/**
 * When a process started, in clock ticks since boot: with its pid it names the process for ever.
 * @returns undefined when there is no such process, or only its zombie
 */
export function processStart(pid: number): string | undefined {
  let stat: string;
  try {
    stat = readFileSync(`/proc/${pid}/stat`, "latin1");
  } catch {
    return undefined; // gone
  }
  // The name may hold blanks and parentheses: fields are counted behind the last one.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return fields[0] === "Z" || fields[0] === "X" ? undefined : fields[START_FIELD];
}

/** What is known of a process for ever: its pid, and when it was started ({@link processStart}). */
export interface ProcessIdentity {
  readonly pid: number;
  readonly pidStart: string;
}

/** A process as it is now; one that is gone has no start, and nobody is taken for it. */
export function identityOf(pid: number): ProcessIdentity {
  return { pid, pidStart: processStart(pid) ?? "" };
}

/** Whether it is still this process that has the pid. */
export function isRunning({ pid, pidStart }: ProcessIdentity): boolean {
  return processStart(pid) === pidStart;
}

/** Kills a process, and no other one that has its pid by now. */
export function killProcess(target: ProcessIdentity): void {
  if (!isRunning(target)) return;
  try {
    process.kill(target.pid, "SIGKILL");
  } catch {
    // it was faster
  }
}

/** The command that runs this program again, without arguments. */
export function selfCommand(): readonly string[] {
  const script = process.argv[1];
  return script === undefined || script.startsWith(BUNDLE_ROOT) ? [process.execPath] : [process.execPath, script];
}
