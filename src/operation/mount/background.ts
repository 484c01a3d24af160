import { spawn } from "node:child_process";
import { closeSync, mkdirSync, openSync } from "node:fs";
import { dirname } from "node:path";
import type { Readable } from "node:stream";
import { asNydusError } from "../../base/errors.ts";
import { parseReadiness, READY_FD_VARIABLE } from "./readiness.ts";

/** The child's descriptor for its answer, behind stdin, stdout and stderr. */
const READY_FD = 3;

/**
 * How the engine of a server is set up, unless the environment says otherwise. Its best compiler takes a third of the
 * processor time that listing a tree needs, and what it makes is hardly faster for code that mostly waits for the kernel.
 */
const ENGINE_OPTIONS = { BUN_JSC_useFTLJIT: "0" } as const;

/**
 * Starts a process that outlives this one and reports how its start went (`readinessReporter`).
 * @param command the program and its arguments
 * @param logPath file that its output is added to
 * @returns what it gave to `ready`
 * @throws the error that it gave to `failed`; EFAULT it ended without a word
 */
export async function startInBackground<T>(command: readonly string[], logPath: string): Promise<T> {
  mkdirSync(dirname(logPath), { recursive: true, mode: 0o700 });
  const [program, ...args] = command;
  const logFd = openSync(logPath, "a", 0o600);
  try {
    const child = spawn(program as string, args, {
      detached: true,
      cwd: "/",
      stdio: ["ignore", logFd, logFd, "pipe"],
      env: { ...ENGINE_OPTIONS, ...process.env, [READY_FD_VARIABLE]: String(READY_FD) },
    });
    const failure = new Promise<never>((_, reject) => {
      child.on("error", (error) => reject(asNydusError(error)));
    });
    child.unref();
    const answer = await Promise.race([readAll(child.stdio[READY_FD] as Readable), failure]);
    return parseReadiness<T>(answer);
  } finally {
    closeSync(logFd);
  }
}

/** All text up to the end: the child closes its side when it has answered, and the system when it has died. */
async function readAll(stream: Readable): Promise<string> {
  const pieces: Buffer[] = [];
  for await (const piece of stream) pieces.push(piece as Buffer);
  return Buffer.concat(pieces).toString("utf8");
}
