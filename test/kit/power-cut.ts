import { spawnSync } from "node:child_process";
import { closeSync, mkdirSync, openSync, truncateSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { libc } from "../../src/os/syscall.ts";
import { falseChunks, openFakeCache, readyChunks, startCacheChild } from "./cache-lab.ts";
import { type FakeBlob, makeFakeBlob, randomOf } from "./fake-blob.ts";

/** What is cut in a round. */
export interface PowerCutOptions {
  /** An empty directory. */
  readonly dir: string;
  readonly seed: number;
  /** The cache says that data is on the disk without having brought it there: to see that the harness notices. */
  readonly liesAboutSync?: boolean;
}

/** What a round found. */
export interface PowerCutResult {
  /** Chunks that the cache said were ready after the cut. */
  readonly claimed: number;
  /** Those of them whose bytes were not the blob's. */
  readonly untrue: readonly number[];
}

const DISK_BYTES = 48 << 20;
/** FS_IOC_SHUTDOWN, and its modes: with and without the log's last entries (fs/ext4/ext4.h). */
const SHUTDOWN = 0x8004587d;
const MODES = [1, 2] as const;

const SHAPE = { seed: 60, units: 250, chunkBytes: 60_000, batch: 2 };
let blob: FakeBlob | undefined;

/** Why there can be no power cuts here, or undefined. */
export function powerCutMissing(): string | undefined {
  if (process.getuid?.() !== 0) return "root is needed";
  if (spawnSync("losetup", ["-f"]).status !== 0) return "losetup finds no loop device";
  return spawnSync("mkfs.ext4", ["-V"]).error === undefined ? undefined : "mkfs.ext4 is missing";
}

/**
 * Fills a cache on a file system of its own, which stops taking writes at some moment, as at a power cut: what the
 * disk has not got by then is lost. Mounts it anew and compares all that the cache claims.
 */
export async function cutPower({ dir, seed, liesAboutSync = false }: PowerCutOptions): Promise<PowerCutResult> {
  blob ??= makeFakeBlob(SHAPE);
  const random = randomOf(seed);
  const [disk, mountpoint] = [join(dir, "disk"), join(dir, "mnt")];
  mkdirSync(mountpoint);
  closeSync(openSync(disk, "w"));
  truncateSync(disk, DISK_BYTES);
  run("mkfs.ext4", "-q", "-F", disk);
  run("mount", "-o", "loop", disk, mountpoint);
  try {
    const cache = join(mountpoint, "cache");
    const orders = { dir: cache, shape: SHAPE, seed, flushEvery: 2 + random(10), liesAboutSync, endsQuietly: true };
    const children = Array.from({ length: 1 + random(2) }, (_, i) => startCacheChild({ ...orders, seed: seed + i }));
    await Promise.all(children.map(({ opened }) => opened));
    await sleep(20 + random(400));
    const killsFirst = random(4) === 0;
    for (const { process } of children) if (killsFirst) process.kill("SIGKILL");
    shutDown(mountpoint, MODES[random(MODES.length)] as number);
    for (const { process } of children) process.kill("SIGKILL");
    for (const output of await Promise.all(children.map(({ ended }) => ended))) {
      if (output.output.includes("false bytes")) throw new Error(output.output);
    }
    run("umount", mountpoint);
    // A copy: should another mount namespace still hold the old mount, the disk itself would stay shut down.
    run("cp", "--sparse=always", disk, `${disk}.copy`);
    run("mount", "-o", "loop", `${disk}.copy`, mountpoint);
    await using found = await openFakeCache(cache, blob);
    return { claimed: readyChunks(found).length, untrue: falseChunks(found, blob) };
  } finally {
    spawnSync("umount", ["-l", mountpoint]);
  }
}

function shutDown(mountpoint: string, mode: number): void {
  const fd = openSync(mountpoint, "r");
  try {
    const errno = libc().ioctlU32(fd, SHUTDOWN, mode);
    if (errno !== 0) throw new Error(`FS_IOC_SHUTDOWN: errno ${errno}`);
  } finally {
    closeSync(fd);
  }
}

function run(program: string, ...args: readonly string[]): void {
  const { status, stderr } = spawnSync(program, args, { encoding: "utf8" });
  if (status !== 0) throw new Error(`${program}: ${stderr}`);
}
