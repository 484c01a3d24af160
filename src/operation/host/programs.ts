import { spawn } from "node:child_process";
import { accessSync, constants, statSync } from "node:fs";
import { delimiter, join } from "node:path";

/** What a program printed and how it ended. */
export interface ProgramResult {
  readonly stdout: string;
  readonly stderr: string;
  readonly status: number;
}

/** Most bytes of output that are kept, and how long a program may take. */
const OUTPUT_LIMIT_BYTES = 4 << 20;
const TIMEOUT_MS = 20_000;

/** Where a program is on a PATH; undefined when it is not. */
export function findProgram(name: string, path: string | undefined): string | undefined {
  return (path ?? "")
    .split(delimiter)
    .filter((dir) => dir.startsWith("/"))
    .map((dir) => join(dir, name))
    .find(isExecutable);
}

/** Whether this process may write into a directory: also root may not where the file system is read-only. */
export function isWritable(path: string): boolean {
  try {
    accessSync(path, constants.W_OK | constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return statSync(path).isFile();
  } catch {
    return false;
  }
}

/** Runs a program, its input empty. @returns status 127 when it cannot be started, 124 when it takes too long */
export function runProgram(program: string, args: readonly string[]): Promise<ProgramResult> {
  return new Promise((resolve) => {
    const child = spawn(program, args, { stdio: ["ignore", "pipe", "pipe"], env: { ...process.env, LC_ALL: "C" } });
    const pieces: { stdout: Buffer[]; stderr: Buffer[] } = { stdout: [], stderr: [] };
    let kept = 0;
    const keep = (into: Buffer[]) => (piece: Buffer) => {
      kept += piece.length;
      if (kept <= OUTPUT_LIMIT_BYTES) into.push(piece);
    };
    child.stdout.on("data", keep(pieces.stdout));
    child.stderr.on("data", keep(pieces.stderr));
    const timer = setTimeout(() => child.kill("SIGKILL"), TIMEOUT_MS);
    const end = (status: number): void => {
      clearTimeout(timer);
      const [stdout, stderr] = [pieces.stdout, pieces.stderr].map((all) => Buffer.concat(all).toString());
      resolve({ stdout: stdout as string, stderr: stderr as string, status });
    };
    child.on("error", () => end(127));
    child.on("close", (status) => end(status ?? 124));
  });
}
