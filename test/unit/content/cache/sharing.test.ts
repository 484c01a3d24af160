import { describe, expect, test } from "bun:test";
import { existsSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { BlobCache } from "../../../../src/content/cache/blob-cache.ts";
import {
  allOf,
  type CacheChild,
  falseChunks,
  openFakeCache,
  rangeOf,
  readDevice,
  readyChunks,
  scratch,
  startCacheChild,
} from "../../../kit/cache-lab.ts";
import {
  chunkMapOver,
  type FakeBlob,
  inlinePool,
  makeFakeBlob,
  memorySource,
  randomOf,
} from "../../../kit/fake-blob.ts";

const SHAPE = { seed: 40, units: 60, chunkBytes: 20_000, batch: 3 };

describe("two caches of one blob in a directory", () => {
  const fake = makeFakeBlob(SHAPE);

  test("are one data file: what one has made durable the other one finds", async () => {
    using temp = scratch();
    const source = memorySource(fake.blob);
    await using first = await openFakeCache(temp.dir, fake);
    await using second = await openFakeCache(temp.dir, fake, { source });
    expect(second.dataPath).toBe(first.dataPath);
    await first.ensure(rangeOf(fake, 0), { why: "prefetch" });
    await first.flush();
    await second.ensure(rangeOf(fake, 0));
    expect(source.reads.length).toBe(0);
    await second.ensure(rangeOf(fake, 9), { why: "prefetch" });
    expect(source.reads.length).toBe(1);
    await second.flush();
    await first.ensure(rangeOf(fake, 3), { why: "prefetch" });
    await first.flush();
    await using third = await openFakeCache(temp.dir, fake);
    expect(readyChunks(third).length).toBeGreaterThanOrEqual(3);
    expect(falseChunks(third, fake)).toEqual([]);
  });

  test("leave the data file and what is known of it when either ends first", async () => {
    using temp = scratch();
    for (const order of [0, 1]) {
      const both = [await openFakeCache(temp.dir, fake), await openFakeCache(temp.dir, fake)];
      await both[order]?.ensure(rangeOf(fake, order), { why: "prefetch" });
      await both[1 - order]?.ensure(rangeOf(fake, order + 2), { why: "prefetch" });
      for (const i of [order, 1 - order]) await both[i]?.close();
    }
    expect(readdirSync(temp.dir).sort()).toEqual([`${fake.id}.data`, `${fake.id}.lock`, `${fake.id}.map`]);
    await using cache = await openFakeCache(temp.dir, fake);
    expect(readyChunks(cache)).toEqual(expect.arrayContaining([0, 1, 2, 3]));
    expect(falseChunks(cache, fake)).toEqual([]);
  });

  test("of images that know different chunks share what both know", async () => {
    using temp = scratch();
    const rows = fake.rows.filter((_, i) => i % 3 !== 0);
    const source = memorySource(fake.blob);
    await using first = await openFakeCache(temp.dir, fake);
    await using second = await openFakeCache(temp.dir, fake, { chunks: chunkMapOver(rows), source });
    expect(second.dataPath).toBe(first.dataPath);
    await first.ensure(allOf(fake), { why: "prefetch" });
    await first.flush();
    await second.ensure(allOf(fake), { why: "prefetch" });
    expect(readyChunks(second).length).toBe(rows.length);
    expect(source.reads.length).toBe(0);
  });

  test.each([
    [
      "another digest",
      (rows: FakeBlob["rows"]) => rows.map((row, i) => (i === 50 ? { ...row, digest: new Uint8Array(32) } : row)),
    ],
    [
      "another size",
      (rows: FakeBlob["rows"]) => rows.map((row, i) => (i === 50 ? { ...row, sizeBytes: row.sizeBytes - 1 } : row)),
    ],
    [
      "another place",
      (rows: FakeBlob["rows"]) =>
        rows.filter((_, i) => i !== 51).map((row, i) => (i === 50 ? { ...row, sizeBytes: 40_000 } : row)),
    ],
  ])(
    "of which one claims %s for a place do not share: neither writes where the other one reads",
    async (_what, change) => {
      using temp = scratch();
      const evil = { ...fake, chunks: chunkMapOver(change(fake.rows)) };
      await using first = await openFakeCache(temp.dir, fake);
      {
        await using second = await openFakeCache(temp.dir, evil);
        expect(second.dataPath).not.toBe(first.dataPath);
        await second.ensure(rangeOf(fake, 3), { why: "prefetch" });
        expect(existsSync(second.dataPath)).toBe(true);
        await using third = await openFakeCache(temp.dir, fake);
        expect(third.dataPath).toBe(first.dataPath);
      }
      await first.ensure(allOf(fake), { why: "prefetch" });
      expect(readDevice(first, 0, fake.device.length).equals(fake.device)).toBe(true);
      await first.close();
      await using later = await openFakeCache(temp.dir, evil);
      expect(later.dataPath).toBe(first.dataPath); // alone it has its way, and begins anew
      expect(readyChunks(later)).toEqual([]);
    },
  );

  test("do not share while one has not said what it knows", async () => {
    using temp = scratch();
    const count = 9000; // more than are written at once
    const rows = Array.from({ length: count }, (_, i) => ({
      ...(fake.rows[0] as FakeBlob["rows"][0]),
      deviceOffset: i * 4096,
      sizeBytes: 9,
    }));
    const many = { ...fake, chunks: chunkMapOver(rows), device: new Uint8Array(count * 4096) };
    await using first = await openFakeCache(temp.dir, many);
    const second = await openFakeCache(temp.dir, many); // waits for it
    expect(second.dataPath).toBe(first.dataPath);
    await second.close();
    const user = readdirSync(temp.dir).find((name) => name.endsWith(".user")) ?? "";
    expect(statSync(join(temp.dir, user)).size).toBe(16 + count * 24);
    await Bun.write(join(temp.dir, user), "");
    await using third = await openFakeCache(temp.dir, many);
    expect(third.dataPath).not.toBe(first.dataPath);
  });

  test("opened and closed all the time, by many at once, never lose or mix anything", async () => {
    using temp = scratch();
    const random = randomOf(41);
    const one = async (): Promise<void> => {
      for (let i = 0; i < 6; i++) {
        await using cache = await openFakeCache(temp.dir, fake);
        for (let k = 0; k < 4; k++) {
          const { start, end } = rangeOf(fake, random(fake.chunks.count));
          await cache.ensure({ start, end }, { why: "prefetch" });
          expect(readDevice(cache, start, end).equals(fake.device.subarray(start, end))).toBe(true);
        }
        expect(falseChunks(cache, fake)).toEqual([]);
      }
    };
    await Promise.all(Array.from({ length: 6 }, one));
    expect(readdirSync(temp.dir).sort()).toEqual([`${fake.id}.data`, `${fake.id}.lock`, `${fake.id}.map`]);
    await using cache = await openFakeCache(temp.dir, fake);
    expect(readyChunks(cache).length).toBeGreaterThan(30);
    expect(falseChunks(cache, fake)).toEqual([]);
  });

  test("when the data cannot be brought to the disk, nothing of it is ready any more", async () => {
    using temp = scratch();
    let isBroken = true;
    const syncDataFile = async (): Promise<void> => {
      if (isBroken) throw new Error("no disk");
    };
    await using cache = await openFakeCache(temp.dir, fake, { syncDataFile });
    await cache.ensure(rangeOf(fake, 0), { why: "prefetch" });
    expect(await cache.flush().catch(() => "failed")).toBe("failed");
    expect(readyChunks(cache)).toEqual([]);
    isBroken = false;
    await cache.ensure(rangeOf(fake, 0), { why: "prefetch" });
    await cache.flush();
    await using other = await openFakeCache(temp.dir, fake);
    expect(readyChunks(other)).toEqual(readyChunks(cache));
  });

  test("files of processes that were killed are removed", async () => {
    using temp = scratch();
    await (await openFakeCache(temp.dir, fake)).close();
    await Bun.write(join(temp.dir, `${fake.id}.1.00ff.user`), "left");
    await using _cache = await openFakeCache(temp.dir, fake);
    expect(existsSync(join(temp.dir, `${fake.id}.1.00ff.user`))).toBe(false);
  });
});

test("processes that share a cache and are killed at any time leave right bytes (seed 42)", async () => {
  using temp = scratch();
  const shape = { seed: 42, units: 400, chunkBytes: 30_000, batch: 2 };
  const fake = makeFakeBlob(shape);
  const random = randomOf(42);
  const paths = new Set<string>();
  let [killed, completed] = [0, 0];
  const worker = async (index: number): Promise<void> => {
    for (let round = 0; round < 5; round++) {
      const knows = index === 0 ? {} : { without: 3 + index };
      const orders = { dir: temp.dir, shape, seed: index * 100 + round, flushEvery: 4, ...knows };
      const isLast = round === 4;
      const child: CacheChild = startCacheChild(isLast ? { ...orders, reads: 150 } : orders);
      paths.add(await child.opened);
      if (isLast) {
        expect(await child.ended).toEqual({ status: 0, output: "" });
        completed++;
      } else {
        await sleep(random(200));
        child.process.kill("SIGKILL");
        expect((await child.ended).output).toBe("");
        killed++;
      }
    }
  };
  await Promise.all([0, 1, 2].map(worker));
  expect([killed, completed]).toEqual([12, 3]);
  expect([...paths]).toEqual([join(temp.dir, `${fake.id}.data`)]); // they did share
  const source = memorySource(fake.blob);
  await using cache = await BlobCache.open({
    ...{ dir: temp.dir, id: fake.id, chunks: fake.chunks, source, pool: inlinePool(), sizeBytes: fake.device.length },
  });
  expect(readyChunks(cache).length).toBeGreaterThan(fake.chunks.count / 4);
  expect(falseChunks(cache, fake)).toEqual([]);
  await cache.ensure(allOf(fake), { why: "prefetch" });
  expect(falseChunks(cache, fake)).toEqual([]);
  expect(readyChunks(cache).length).toBe(fake.chunks.count);
}, 60_000);
