import { describe, expect, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { closeSync, existsSync, openSync, readdirSync, utimesSync, writeSync } from "node:fs";
import { join } from "node:path";
import { collectCaches, listCaches, removeCache } from "../../../../src/content/cache/admin.ts";
import { type VerifiedCache, verifyCache } from "../../../../src/content/cache/verify-cache.ts";
import { openCodecPool } from "../../../../src/os/codec-threads.ts";
import { loadCodecs } from "../../../../src/os/codecs.ts";
import {
  allOf,
  falseChunks,
  openFakeCache,
  rangeOf,
  readyChunks,
  scratch,
  startCacheChild,
} from "../../../kit/cache-lab.ts";
import { chunkMapOver, type FakeBlob, makeFakeBlob } from "../../../kit/fake-blob.ts";

const SHAPE = { seed: 70, units: 40, chunkBytes: 9_000 };
const fakes = [70, 71, 72].map((seed) => makeFakeBlob({ ...SHAPE, seed }));
const [fake] = fakes as [FakeBlob, ...FakeBlob[]];
const signal = new AbortController().signal;

async function fill(dir: string, blob: FakeBlob, chunks: readonly number[]): Promise<void> {
  await using cache = await openFakeCache(dir, blob);
  for (const i of chunks) await cache.ensure(rangeOf(blob, i), { why: "prefetch" });
}

/** Sets when a cache was last used. */
function setUsed(dir: string, { id }: FakeBlob, ms: number): void {
  utimesSync(join(dir, `${id}.map`), ms / 1000, ms / 1000);
}

async function verify(dir: string): Promise<VerifiedCache> {
  await using pool = openCodecPool({ threads: 1 });
  return await verifyCache({ dir, id: fake.id }, { pool, signal });
}

/** Damages the data of a chunk, as a failing disk would. */
function damage(dir: string, i: number): void {
  const fd = openSync(join(dir, `${fake.id}.data`), "r+");
  writeSync(fd, Buffer.from([0xab, 0xcd, 0xef]), 0, 3, fake.chunks.deviceOffset(i));
  closeSync(fd);
}

describe("listCaches()", () => {
  test("tells of each cache what is filled, what it takes, when it was used, and whether it is", async () => {
    using temp = scratch();
    await fill(temp.dir, fake, [1, 2, 3]);
    setUsed(temp.dir, fake, 1_000_000);
    await using open = await openFakeCache(temp.dir, fakes[1] as FakeBlob);
    const before = Date.now();
    const reports = await listCaches(temp.dir);
    expect(reports.map(({ digest }) => String(digest))).toEqual(
      [fake, fakes[1] as FakeBlob].map(({ id }) => `sha256:${id}`).sort(),
    );
    const filled = reports.find(({ digest }) => digest.endsWith(fake.id));
    expect(filled).toMatchObject({
      deviceBytes: fake.device.length,
      filledChunks: 3,
      filledBytes: [1, 2, 3].reduce((sum, i) => sum + fake.chunks.sizeBytes(i), 0),
      lastUsedMs: 1_000_000,
      isInUse: false,
    });
    const { stdout } = spawnSync("du", ["-B1", "-c", `${fake.id}.data`, `${fake.id}.map`], {
      cwd: temp.dir,
      encoding: "utf8",
    });
    expect(filled?.diskBytes).toBe(Number(/^(\d+)\ttotal$/m.exec(stdout)?.[1]));
    const used = reports.find(({ isInUse }) => isInUse);
    expect(String(used?.digest)).toBe(`sha256:${open.dataPath.slice(-69, -5)}`);
    expect(Math.abs((used?.lastUsedMs ?? 0) - before)).toBeLessThan(60_000);
  });

  test("knows no caches where there is no directory", async () => {
    expect(await listCaches("/nowhere/at/all")).toEqual([]);
  });

  test("of a cache whose files do not belong together it tells what it takes", async () => {
    using temp = scratch();
    await fill(temp.dir, fake, [1]);
    await Bun.write(join(temp.dir, `${fake.id}.map`), "garbage".repeat(100));
    expect(await listCaches(temp.dir)).toMatchObject([{ filledChunks: 0, deviceBytes: 0, isInUse: false }]);
  });
});

describe("verifyCache()", () => {
  test("finds nothing wrong with what is right", async () => {
    using temp = scratch();
    await fill(temp.dir, fake, [0, 5, 6, 30]);
    const found = await verify(temp.dir);
    expect(found).toMatchObject({ chunks: 4, bad: [], isDropped: true });
  });

  test("drops chunks that are damaged; they are fetched again", async () => {
    using temp = scratch();
    await fill(temp.dir, fake, [0, 5, 6, 30]);
    damage(temp.dir, 5);
    damage(temp.dir, 30);
    const bad = [5, 30].map((i) => ({
      deviceOffset: fake.chunks.deviceOffset(i),
      sizeBytes: fake.chunks.sizeBytes(i),
    }));
    expect(await verify(temp.dir)).toMatchObject({ chunks: 4, bad, isDropped: true });
    await using cache = await openFakeCache(temp.dir, fake);
    expect(readyChunks(cache)).toEqual([0, 6]);
    await cache.ensure(allOf(fake), { why: "prefetch" });
    expect(falseChunks(cache, fake)).toEqual([]);
    await cache.close();
    expect(await verify(temp.dir)).toMatchObject({ chunks: fake.chunks.count, bad: [] });
  });

  test("of a cache in use says what is damaged, and leaves it", async () => {
    using temp = scratch();
    await fill(temp.dir, fake, [0, 5]);
    damage(temp.dir, 5);
    await using cache = await openFakeCache(temp.dir, fake);
    const found = await verify(temp.dir);
    expect([found.bad.length, found.isDropped]).toEqual([1, false]);
    await cache.close();
    expect((await verify(temp.dir)).isDropped).toBe(true);
  });

  test("checks chunks that have a CRC-32C only", async () => {
    using temp = scratch();
    const codecs = await loadCodecs();
    const crc32c = (i: number): number => {
      const { start, end } = rangeOf(fake, i);
      return codecs.crc32c(fake.device.subarray(start, end));
    };
    const plain = chunkMapOver(fake.rows.map((row) => ({ ...row, digest: undefined })));
    {
      await using pool = openCodecPool({ threads: 1 });
      await using cache = await openFakeCache(temp.dir, fake, { chunks: { ...plain, crc32c }, pool });
      for (const i of [1, 2]) await cache.ensure(rangeOf(fake, i), { why: "prefetch" });
      expect(falseChunks(cache, fake)).toEqual([]);
    }
    expect(await verify(temp.dir)).toMatchObject({ chunks: 2, bad: [] });
    damage(temp.dir, 2);
    expect((await verify(temp.dir)).bad.map(({ deviceOffset }) => deviceOffset)).toEqual([fake.chunks.deviceOffset(2)]);
  });
});

describe("collectCaches()", () => {
  test("removes the least recently used first, until the rest fits", async () => {
    using temp = scratch();
    for (const [i, one] of fakes.entries()) {
      await fill(temp.dir, one, [0, 1, 2, 3]);
      setUsed(temp.dir, one, [2_000_000, 1_000_000, 3_000_000][i] ?? 0);
    }
    const all = await listCaches(temp.dir);
    const total = all.reduce((sum, { diskBytes }) => sum + diskBytes, 0);
    expect((await collectCaches(temp.dir, total)).removed).toEqual([]);
    const { removed, keptBytes } = await collectCaches(temp.dir, total - 1);
    expect(removed.map(({ digest }) => String(digest))).toEqual([`sha256:${fakes[1]?.id}`]);
    expect(keptBytes).toBe(total - (removed[0]?.diskBytes ?? 0));
    expect((await collectCaches(temp.dir, 1)).removed.map(({ digest }) => String(digest))).toEqual([
      `sha256:${fakes[0]?.id}`,
      `sha256:${fakes[2]?.id}`,
    ]);
    expect(readdirSync(temp.dir).filter((name) => !name.endsWith(".lock"))).toEqual([]);
  });

  test("never removes what a process uses, and removes it when that is killed", async () => {
    using temp = scratch();
    const child = startCacheChild({ dir: temp.dir, shape: { ...SHAPE, seed: 70 }, seed: 1 });
    await child.opened;
    const found = await collectCaches(temp.dir, 0);
    expect(found.removed).toEqual([]);
    expect(found.inUseBytes).toBe(found.keptBytes);
    expect(await removeCache({ dir: temp.dir, id: fake.id })).toBe(false);
    child.process.kill("SIGKILL");
    await child.ended;
    expect(readdirSync(temp.dir).some((name) => name.endsWith(".user"))).toBe(true);
    expect((await collectCaches(temp.dir, 0)).removed.length).toBe(1);
    expect(readdirSync(temp.dir)).toEqual([`${fake.id}.lock`]);
  });

  test("removes what dead processes left, and nothing of living ones", async () => {
    using temp = scratch();
    const gone = spawnSync("true").pid;
    const mine = join(temp.dir, `${fake.id}.${process.pid}.00ff.data`);
    const theirs = join(temp.dir, `${fake.id}.${gone}.00ff.data`);
    await Bun.write(mine, "x".repeat(5000));
    await Bun.write(theirs, "x");
    expect(await collectCaches(temp.dir, 0)).toMatchObject({ removed: [] });
    expect([existsSync(mine), existsSync(theirs)]).toEqual([true, false]);
  });

  test("while caches are opened and closed all the time every read is right", async () => {
    using temp = scratch();
    let done = false;
    const collect = async (): Promise<number> => {
      let removed = 0;
      while (!done) {
        removed += (await collectCaches(temp.dir, 0)).removed.length;
        await Bun.sleep(1);
      }
      return removed;
    };
    const use = async (): Promise<void> => {
      for (let i = 0; i < 25; i++) {
        await using cache = await openFakeCache(temp.dir, fake);
        await cache.ensure(rangeOf(fake, i), { why: "prefetch" });
        expect(cache.isReady(rangeOf(fake, i))).toBe(true);
        expect(falseChunks(cache, fake)).toEqual([]);
        expect(existsSync(cache.dataPath)).toBe(true);
        await cache.close();
        await Bun.sleep(3);
      }
    };
    const collecting = collect();
    await Promise.all([use(), use()]);
    done = true;
    expect(await collecting).toBeGreaterThan(0);
  });
});
