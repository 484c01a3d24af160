import { spawn } from "node:child_process";
import { closeSync, mkdirSync, openSync } from "node:fs";
import { dirname } from "node:path";
import type { Readable } from "node:stream";
import { asNydusError, NydusError } from "../../base/errors.ts";
import { resolveMountpoint } from "../../os/mount.ts";
import { selfCommand } from "../../os/process.ts";
import { findRecord, logPath, type MountRecord, mountId } from "./mount-record.ts";
import { parseReadiness, READY_FD_VARIABLE } from "./readiness.ts";

/** What {@link startMount} needs. */
export interface StartOptions {
  /** Directory of all state. */
  readonly root: string;
  readonly mountpoint: string;
  /** Arguments with which this program calls `serveMount` for the same root and mount point: `mount --foreground …`. */
  readonly args: readonly string[];
}

/** The child's descriptor for its answer, behind stdin, stdout and stderr. */
const READY_FD = 3;

/**
 * Serves a mount in a process of its own, with its output in `<root>/logs/<id>.log`.
 * @returns when the mount answers
 * @throws EBUSY it is served already; the error for which the process could not mount, as if it had been thrown here
 */
export async function startMount(options: StartOptions): Promise<MountRecord> {
  const mountpoint = resolveMountpoint(options.mountpoint);
  const serving = findRecord(options.root, mountpoint);
  if (serving !== undefined && serving.state !== "dead") {
    // The process itself would find that out too, but it would begin by emptying the other one's log.
    const message = `Cannot mount: process ${serving.pid} serves ${serving.image} there`;
    throw new NydusError("EBUSY", message, { path: mountpoint });
  }
  const log = logPath(options.root, mountId(mountpoint));
  mkdirSync(dirname(log), { recursive: true, mode: 0o700 });
  const [program, ...before] = selfCommand();
  const logFd = openSync(log, "w", 0o600);
  try {
    const child = spawn(program as string, [...before, ...options.args], {
      detached: true,
      stdio: ["ignore", logFd, logFd, "pipe"],
      env: { ...process.env, [READY_FD_VARIABLE]: String(READY_FD) },
    });
    const failure = new Promise<never>((_, reject) => {
      child.on("error", (error) => reject(asNydusError(error)));
    });
    child.unref();
    const answer = await Promise.race([readAll(child.stdio[READY_FD] as Readable), failure]);
    return parseReadiness<MountRecord>(answer);
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
