import { spawnSync } from "node:child_process";
import { closeSync } from "node:fs";
import { asNydusError, NydusError } from "../base/errors.ts";
import { libc, systemFailure } from "./syscall.ts";

/** The set-user-id program by which those who are not root mount FUSE file systems. */
const PROGRAM = "fusermount3";
/** Names the socket through which it hands the descriptor of /dev/fuse back. */
const SOCKET_VARIABLE = "_FUSE_COMMFD";
/** The socket's number in the child, behind stdin, stdout and stderr. */
const CHILD_SOCKET = 3;

/**
 * Mounts through fusermount3.
 * @param options as it takes them after `-o`
 * @returns the descriptor of /dev/fuse; reading from it does not wait
 * @throws ENOTSUP fusermount3 is not installed; EPERM it refuses, with its own words
 */
export function mountByFusermount(mountpoint: string, options: string): number {
  const { errno, fds } = libc().socketPair();
  if (fds === undefined) throw systemFailure(errno, "make a socket");
  const [ours, theirs] = fds;
  try {
    runFusermount(["-o", options, "--", mountpoint], theirs, mountpoint);
    const received = libc().receive(ours, new Uint8Array(1));
    if (received.fd === undefined) {
      throw new NydusError("EIO", `Cannot mount: ${PROGRAM} gave no descriptor`, { path: mountpoint });
    }
    libc().setNonBlocking(received.fd);
    return received.fd;
  } finally {
    closeSync(ours);
    closeSync(theirs);
  }
}

function runFusermount(args: readonly string[], socket: number, path: string): void {
  const { status, error, stderr } = spawnSync(PROGRAM, args, {
    stdio: ["ignore", "ignore", "pipe", socket],
    env: { ...process.env, LC_ALL: "C", [SOCKET_VARIABLE]: String(CHILD_SOCKET) },
    encoding: "utf8",
  });
  if (error !== undefined) throw missingProgram(error, path);
  if (status !== 0) throw new NydusError("EPERM", `Cannot mount: ${messageOf(stderr)}`, { path });
}

/** Unmounts through fusermount3. @returns its exit status and words @throws ENOTSUP it is not installed */
export function unmountByFusermount(
  mountpoint: string,
  lazy: boolean,
): { readonly status: number; readonly message: string } {
  const args = ["-u", ...(lazy ? ["-z"] : []), "--", mountpoint];
  const env = { ...process.env, LC_ALL: "C" };
  const { status, error, stderr } = spawnSync(PROGRAM, args, { encoding: "utf8", env });
  if (error !== undefined) throw missingProgram(error, mountpoint);
  return { status: status ?? 1, message: messageOf(stderr) };
}

function messageOf(stderr: string): string {
  const [line = ""] = stderr.trim().split("\n");
  return line === "" ? `${PROGRAM} failed` : line;
}

function missingProgram(error: Error, path: string): NydusError {
  if ((error as { code?: unknown }).code !== "ENOENT") return asNydusError(error, { path });
  const message = `Cannot mount without root: ${PROGRAM} is not installed (package fuse3)`;
  return new NydusError("ENOTSUP", message, { path }, { cause: error });
}
