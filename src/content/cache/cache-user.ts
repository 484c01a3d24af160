import { closeSync, fstatSync, openSync, readdirSync, readSync, rmSync, statSync, writeSync } from "node:fs";
import { join } from "node:path";
import { setImmediate as pause, setTimeout as sleep } from "node:timers/promises";
import { BLOCK_BYTES, equalBytes, viewOf } from "../../base/bytes.ts";
import { asNydusError } from "../../base/errors.ts";
import { bytes, struct, u32, u64 } from "../../base/struct.ts";
import type { ChunkMap } from "../../format/rafs/chunk-map.ts";
import { tryLock } from "../../os/file-lock.ts";
import { collectYoung } from "../../os/memory.ts";
import { type CachePlace, ownPath, parseCacheName } from "./cache-names.ts";
import { identityOf } from "./ready-map.ts";

const MAGIC = new TextEncoder().encode("NYDUSER1");

/** First bytes of a user file; zeros until the rows behind it are complete. */
const UserHeader = struct("cache user header", 16, { magic: [0, bytes(8)], rows: [8, u64] });
const IDENTITY_BYTES = 16;
/** A chunk, and so much of its digest that no other content has the same. */
const UserRow = struct("cache user row", 24, {
  block: [0, u32],
  sizeBytes: [4, u32],
  identity: [8, bytes(IDENTITY_BYTES)],
});

/** Rows written, or compared, without a pause for others. */
const STEP_ROWS = 8192;
/** How long to wait for another user's rows. */
const WAIT_MS = 500;
const WAIT_STEP_MS = 10;

/**
 * This process as a user of a cache that others may use too: a locked file with the chunks that it is going to write.
 * Two images may share a blob's cache while both are open only if neither holds other content for a place that the
 * other one knows: a hostile one would write over what the other one serves.
 */
export class CacheUser {
  readonly #path: string;
  readonly #fd: number;
  readonly #place: CachePlace;
  readonly #chunks: ChunkMap;
  #closed = false;
  #writing: Promise<void> = Promise.resolve();

  private constructor(path: string, fd: number, { place, chunks }: { place: CachePlace; chunks: ChunkMap }) {
    this.#path = path;
    this.#fd = fd;
    this.#place = place;
    this.#chunks = chunks;
  }

  /** @throws ENOSPC, EPERM, EIO */
  static enter(place: CachePlace, chunks: ChunkMap): CacheUser {
    for (;;) {
      const path = ownPath(place, "user");
      const fd = open(path);
      // Who took it for a dead one's before it was locked has removed it.
      if (tryLock(fd, path) && isFile(path, fd)) {
        const user = new CacheUser(path, fd, { place, chunks });
        user.#writing = user.#write().catch(() => undefined); // unwritten, it keeps others from sharing: no harm
        return user;
      }
      closeSync(fd);
    }
  }

  /** Ends with its rows written, or unwritten where there is no space. */
  get written(): Promise<void> {
    return this.#writing;
  }

  /** The first rows at once, so that small tables are complete when `enter` returns. */
  async #write(): Promise<void> {
    const { count } = this.#chunks;
    for (let first = 0; first < count; first += STEP_ROWS) {
      if (first > 0) await pause();
      if (this.#closed) return;
      if (first > 0) collectYoung();
      const rows = encodeRows(this.#chunks, first, Math.min(count, first + STEP_ROWS));
      writeAt(this.#fd, rows, UserHeader.sizeBytes + first * UserRow.sizeBytes);
    }
    const header = new Uint8Array(UserHeader.sizeBytes);
    UserHeader.write(header, 0, { magic: MAGIC, rows: count });
    writeAt(this.#fd, header, 0);
  }

  /** Whether some other user of the cache holds other content for a place of ours, or does not say in time. */
  async meetsConflict(): Promise<boolean> {
    for (const path of this.#others()) {
      const fd = openIfThere(path);
      if (fd === undefined) continue;
      try {
        if (tryLock(fd, path)) rmSync(path, { force: true });
        else if (await this.#conflictsWith(fd)) return true;
      } finally {
        closeSync(fd);
      }
    }
    return false;
  }

  #others(): string[] {
    return readdirSync(this.#place.dir).flatMap((name) => {
      const path = join(this.#place.dir, name);
      const { id, kind } = parseCacheName(name) ?? {};
      return id === this.#place.id && kind === "user" && path !== this.#path ? [path] : [];
    });
  }

  async #conflictsWith(fd: number): Promise<boolean> {
    const rows = await waitForRows(fd);
    if (rows === undefined) return true;
    const check = new OverlapCheck(this.#chunks);
    for (let first = 0; first < rows; first += STEP_ROWS) {
      if (first > 0) await pause();
      const piece = readAt(fd, UserHeader.sizeBytes + first * UserRow.sizeBytes, {
        length: Math.min(STEP_ROWS, rows - first) * UserRow.sizeBytes,
      });
      if (!check.fits(piece)) return true;
    }
    return false;
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    rmSync(this.#path, { force: true });
    closeSync(this.#fd);
  }
}

/** Compares another user's rows, which come in order, with our chunks. */
class OverlapCheck {
  readonly #chunks: ChunkMap;
  #next = 0;

  constructor(chunks: ChunkMap) {
    this.#chunks = chunks;
  }

  /** @returns false when a row overlaps a chunk of ours and is not that chunk */
  fits(rows: Uint8Array): boolean {
    for (let at = 0; at < rows.length; at += UserRow.sizeBytes) {
      const { block, sizeBytes } = UserRow.read(rows, at);
      const start = block * BLOCK_BYTES;
      while (this.#next < this.#chunks.count && this.#endOf(this.#next) <= start) this.#next++;
      if (this.#next >= this.#chunks.count) return true;
      if (this.#chunks.deviceOffset(this.#next) >= start + sizeBytes) continue;
      const ours = encodeRows(this.#chunks, this.#next, this.#next + 1);
      if (!equalBytes(ours, rows.subarray(at, at + UserRow.sizeBytes))) return false;
    }
    return true;
  }

  #endOf(i: number): number {
    return this.#chunks.deviceOffset(i) + this.#chunks.sizeBytes(i);
  }
}

/** By hand: objects for each row of a million would be more memory than the image may take. */
function encodeRows(chunks: ChunkMap, first: number, end: number): Uint8Array {
  const rows = new Uint8Array((end - first) * UserRow.sizeBytes);
  const view = viewOf(rows);
  for (let i = first; i < end; i++) {
    const at = (i - first) * UserRow.sizeBytes;
    view.setUint32(at + UserRow.at.block, chunks.deviceOffset(i) / BLOCK_BYTES, true);
    view.setUint32(at + UserRow.at.sizeBytes, chunks.sizeBytes(i), true);
    const identity = chunks.digest(i) ?? identityOf(chunks, i).identity;
    for (let k = 0; k < IDENTITY_BYTES; k++) rows[at + UserRow.at.identity + k] = identity[k] as number;
  }
  return rows;
}

/** How many rows a user has, once it says so; undefined when it does not. */
async function waitForRows(fd: number): Promise<number | undefined> {
  for (let waited = 0; waited < WAIT_MS; waited += WAIT_STEP_MS) {
    const header = readAt(fd, 0, { length: UserHeader.sizeBytes });
    if (header.length === UserHeader.sizeBytes) {
      const { magic, rows } = UserHeader.read(header, 0);
      if (equalBytes(magic, MAGIC)) return rows;
    }
    await sleep(WAIT_STEP_MS);
  }
  return undefined;
}

function open(path: string): number {
  try {
    return openSync(path, "wx+", 0o600);
  } catch (error) {
    throw asNydusError(error, { path });
  }
}

function openIfThere(path: string): number | undefined {
  try {
    return openSync(path, "r+");
  } catch {
    return undefined; // it has just left
  }
}

function isFile(path: string, fd: number): boolean {
  try {
    return statSync(path).ino === fstatSync(fd).ino;
  } catch {
    return false;
  }
}

function writeAt(fd: number, data: Uint8Array, position: number): void {
  for (let at = 0; at < data.length; ) at += writeSync(fd, data, at, data.length - at, position + at);
}

function readAt(fd: number, position: number, { length }: { length: number }): Uint8Array {
  const target = new Uint8Array(length);
  return target.subarray(0, readSync(fd, target, 0, length, position));
}
