// A program that reads a whole tree once, in an order of its own, and says in JSON how that went.
// bun crash-reader.ts LIST MOUNTPOINT read|mmap SEED
// LIST is a file of lines `sha256 path`.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { mapFile } from "../../src/os/mmap.ts";
import { Random } from "./random.ts";

/** How a reader fared. */
export interface ReaderReport {
  readonly files: number;
  /** Files that were read and were not what they should be. */
  readonly wrong: readonly string[];
  /** Reads that failed, by errno's name, each tried again. */
  readonly errors: Readonly<Record<string, number>>;
  /** Files that failed each time. */
  readonly unread: readonly string[];
  readonly slowestMs: number;
}

const TRIES = 30;
const PAUSE_MS = 100;
/** Where a disk was full, trying goes on until it is not. */
const ERRORS_WORTH_WAITING = new Set(["EIO", "ENOSPC", "ENOTCONN", "ECONNABORTED"]);

function shuffled<T>(items: readonly T[], random: Random): T[] {
  const order = [...items];
  for (let last = order.length - 1; last > 0; last--) {
    const other = random.below(last + 1);
    [order[last], order[other]] = [order[other] as T, order[last] as T];
  }
  return order;
}

function digestOf(path: string, how: string): string {
  if (how === "read") return createHash("sha256").update(readFileSync(path)).digest("hex");
  using file = mapFile(path);
  return createHash("sha256").update(file.bytes).digest("hex");
}

/** A file's digest; the name of the error of a read that failed. @throws whatever is not worth trying again */
function tryDigest(path: string, how: string): { readonly found?: string; readonly error?: string } {
  try {
    return { found: digestOf(path, how) };
  } catch (error) {
    const { code = String(error) } = error as { code?: string };
    if (!ERRORS_WORTH_WAITING.has(code)) throw error;
    return { error: code };
  }
}

class Reader {
  readonly wrong: string[] = [];
  readonly errors: Record<string, number> = {};
  readonly unread: string[] = [];
  slowestMs = 0;

  /** Reads a file, again and again where that fails. */
  read(path: string, how: string): string | undefined {
    for (let tries = 0; tries < TRIES; tries++) {
      const start = performance.now();
      const { found, error } = tryDigest(path, how);
      this.slowestMs = Math.max(this.slowestMs, performance.now() - start);
      if (error === undefined) return found;
      this.errors[error] = (this.errors[error] ?? 0) + 1;
      Bun.sleepSync(PAUSE_MS);
    }
    return undefined;
  }
}

function readTree(list: string, mountpoint: string, how: string, seed: number): ReaderReport {
  const files = readFileSync(list, "utf8").trimEnd().split("\n");
  const reader = new Reader();
  for (const line of shuffled(files, new Random(seed))) {
    const [wanted, path] = [line.slice(0, 64), line.slice(65)];
    const found = reader.read(join(mountpoint, path), how);
    if (found === undefined) reader.unread.push(path);
    else if (found !== wanted) reader.wrong.push(path);
  }
  return { files: files.length, ...reader };
}

if (import.meta.main) {
  const [list = "", mountpoint = "", how = "", seed = ""] = process.argv.slice(2);
  console.log(JSON.stringify(readTree(list, mountpoint, how, Number(seed))));
}
