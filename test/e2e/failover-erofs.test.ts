import { afterEach, beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, copyFileSync, mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findMount } from "../../src/os/mount.ts";
import { makeCrashImage } from "../kit/crash-image.ts";
import { crashRound } from "../kit/crash-lab.ts";
import { DaemonHome, untilGone } from "../kit/daemon.ts";
import { canMountErofs } from "../kit/erofs-lab.ts";
import {
  fileResult,
  holdersOf,
  isAlive,
  killDaemon,
  listMounts,
  settledStates,
  until,
  untilNothingRuns,
  withEnvironment,
} from "../kit/failover-lab.ts";
import { killProcessesOf, unmountBelow } from "../kit/leftovers.ts";
import { isBuilt, PROGRAM } from "../kit/program.ts";
import { run } from "../kit/shell.ts";
import type { SyntheticImage } from "../kit/synthetic-image.ts";

setDefaultTimeout(60_000);
const canMount = isBuilt && canMountErofs();
const FILES = { files: 60, fileBytes: 40_000 };
const FLAGS = ["--engine", "erofs", "--prefetch", "none", "--read-timeout", "5s"];

let home: DaemonHome;

beforeEach(() => {
  home = new DaemonHome();
});
afterEach(async () => {
  await unmountBelow(home.dir);
  await home[Symbol.asyncDispose]();
  await killProcessesOf(home.dir);
});

interface Mounted {
  readonly image: SyntheticImage;
  readonly at: string;
}

async function mounted(name: string, seed: number): Promise<Mounted> {
  const image = home.image(name, { ...FILES, seed });
  const at = home.mountpoint(name);
  await home.mount(image, at, ...FLAGS);
  return { image, at };
}

async function allResults({ image, at }: Mounted): Promise<string[]> {
  const results = await Promise.all(Array.from({ length: image.files }, (_, file) => fileResult(image, at, file)));
  return [...new Set(results)];
}

async function dropCaches(): Promise<void> {
  await Bun.write("/proc/sys/vm/drop_caches", "3");
}

describe.skipIf(!canMount)("kill -9 of a daemon that mounts by EROFS", () => {
  test("under readers gives right bytes, to those that map files too, with at most an error a kill and reader", async () => {
    const dir = mkdtempSync(join(tmpdir(), "nydus-failover-"));
    const image = await makeCrashImage(dir, { seed: 2, bytes: 16 << 20, probes: 5 });
    try {
      const round = {
        ...({ engine: "erofs", harm: "kill" } as const),
        ...{ readers: 8, mappers: 3, times: 5, readTimeoutMs: 10_000, image, seed: 2 },
      };
      const result = await crashRound(round);
      expect([result.wrong, result.unread, result.broken, result.sigbus]).toEqual([[], [], [], 0]);
      expect(result.errorsOfOne).toBeLessThanOrEqual(round.times);
    } finally {
      await image[Symbol.asyncDispose]();
      rmSync(dir, { recursive: true, force: true });
    }
  });
});
