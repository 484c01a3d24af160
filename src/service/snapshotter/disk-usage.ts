import type { Stats } from "node:fs";
import { lstat, readdir } from "node:fs/promises";
import { forEachBounded } from "../../base/async.ts";
import type { Usage } from "./snapshot.ts";

/** A block of `st_blocks`, whatever the file system's own are. */
const BLOCK_BYTES = 512;
/** Files of a directory that are asked for at once. */
const PARALLEL = 16;
const SLASH = Buffer.from("/");

/**
 * What a directory and all below it take: blocks, and inodes, those with several names counted once. Files that vanish
 * meanwhile do not count. Symlinks are not followed.
 * @throws ENOENT the directory itself; EIO
 */
export async function diskUsage(dir: string): Promise<Usage> {
  const linked = new Set<string>();
  let sizeBytes = 0;
  let inodes = 0;
  const count = (stats: Stats): void => {
    if (stats.nlink > 1 && !stats.isDirectory()) {
      const inode = `${stats.dev}:${stats.ino}`;
      if (linked.has(inode)) return;
      linked.add(inode);
    }
    sizeBytes += stats.blocks * BLOCK_BYTES;
    inodes++;
  };
  count(await lstat(dir));
  const pending = [Buffer.from(dir)]; // names in images need not be UTF-8
  for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
    const parent = next;
    await forEachBounded(PARALLEL, await unlessGone(readdir(parent, { encoding: "buffer" }), []), async (name) => {
      const path = Buffer.concat([parent, SLASH, name]);
      const stats = await unlessGone(lstat(path), undefined);
      if (stats === undefined) return;
      count(stats);
      if (stats.isDirectory()) pending.push(path);
    });
  }
  return { sizeBytes, inodes };
}

async function unlessGone<T, U>(found: Promise<T>, otherwise: U): Promise<T | U> {
  try {
    return await found;
  } catch (error) {
    if ((error as { code?: unknown }).code === "ENOENT") return otherwise;
    throw error;
  }
}
