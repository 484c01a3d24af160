import { closeSync, openSync, readSync, statSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { asNydusError } from "../../base/errors.ts";
import { OLD_LOG_SUFFIX } from "./daemon-log.ts";
import { daemonPaths } from "./paths.ts";

const PIECE_BYTES = 64 << 10;
const POLL_MS = 200;

/** What the daemon has logged, the part that was set aside first. @throws EPERM, EIO */
export async function* readLog(root: string): AsyncGenerator<Uint8Array> {
  const { log } = daemonPaths(root);
  for (const path of [`${log}${OLD_LOG_SUFFIX}`, log]) yield* pieces(path, 0);
}

/** The same, then what is added until the abort, also when the log is set aside meanwhile. */
export async function* followLog(root: string, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  const { log } = daemonPaths(root);
  const old = `${log}${OLD_LOG_SUFFIX}`;
  let asideBefore = stampOf(old);
  let at = 0;
  yield* pieces(old, 0);
  while (!signal.aborted) {
    const aside = stampOf(old);
    // First it is copied, then emptied: until then it is not shorter than the copy.
    if (aside.stamp !== asideBefore.stamp && stampOf(log).sizeBytes < aside.sizeBytes) {
      yield* pieces(old, at);
      at = 0;
      asideBefore = aside;
    }
    for (const piece of pieces(log, at)) {
      at += piece.length;
      yield piece;
    }
    await sleep(POLL_MS, undefined, { signal }).catch(() => undefined);
  }
}

/** What a file's changes are told by. */
function stampOf(path: string): { readonly stamp: string; readonly sizeBytes: number } {
  const found = statSync(path, { throwIfNoEntry: false });
  return {
    stamp: found === undefined ? "" : `${found.ino}:${found.mtimeMs}:${found.size}`,
    sizeBytes: found?.size ?? 0,
  };
}

/** A file from a position on; nothing where there is none. */
function* pieces(path: string, start: number): Generator<Uint8Array> {
  const fd = openIfThere(path);
  if (fd === undefined) return;
  try {
    yield* readFrom(fd, start);
  } finally {
    closeSync(fd);
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
