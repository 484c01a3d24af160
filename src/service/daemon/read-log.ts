import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { asNydusError } from "../../base/errors.ts";
import { OLD_LOG_SUFFIX } from "./daemon-log.ts";
import { daemonPaths } from "./paths.ts";

const PIECE_BYTES = 64 << 10;
const POLL_MS = 200;

/** What the daemon has logged, the part that was set aside first. @throws EPERM, EIO */
export async function* readLog(root: string): AsyncGenerator<Uint8Array> {
  const { log } = daemonPaths(root);
  for (const path of [`${log}${OLD_LOG_SUFFIX}`, log]) {
    const fd = openIfThere(path);
    if (fd === undefined) continue;
    try {
      yield* readFrom(fd, 0);
    } finally {
      closeSync(fd);
    }
  }
}

/** The same, then what is added until the abort; a log that is emptied goes on from its start. */
export async function* followLog(root: string, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  yield* readLog(root);
  const { log } = daemonPaths(root);
  let fd = openIfThere(log);
  let at = fd === undefined ? 0 : fstatSync(fd).size;
  try {
    while (!signal.aborted) {
      fd ??= openIfThere(log);
      if (fd !== undefined) {
        if (fstatSync(fd).size < at) at = 0;
        for (const piece of readFrom(fd, at)) {
          at += piece.length;
          yield piece;
        }
      }
      await sleep(POLL_MS, undefined, { signal }).catch(() => undefined);
    }
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}

function openIfThere(path: string): number | undefined {
  try {
    return openSync(path, "r");
  } catch (error) {
    if ((error as { code?: unknown }).code === "ENOENT") return undefined;
    throw asNydusError(error, { path });
  }
}

function* readFrom(fd: number, start: number): Generator<Uint8Array> {
  let at = start;
  for (;;) {
    const piece = new Uint8Array(PIECE_BYTES);
    const count = readSync(fd, piece, 0, piece.length, at);
    if (count === 0) return;
    at += count;
    yield piece.subarray(0, count);
  }
}
