import { describe, expect, test } from "bun:test";
import { NydusError } from "../../../../src/base/errors.ts";
import { FetchMeter, type FetchStats } from "../../../../src/content/cache/fetch-meter.ts";
import { openFileSource } from "../../../../src/content/store/file-source.ts";
import { allOf, openFakeCache as open, rangeOf, scratch } from "../../../kit/cache-lab.ts";
import { type FakeBlob, inlinePool, makeFakeBlob, memorySource } from "../../../kit/fake-blob.ts";
import { failureOf } from "../../../suite/byte-source.ts";

/** Chunks of 20,000 bytes that do not compress, one behind the other. */
function smallUnits(units: number): FakeBlob {
  return makeFakeBlob({ seed: 5, units, chunkBytes: 20_000, full: true });
}

function causes({ demandBytes, aheadBytes, prefetchBytes }: FetchStats): number[] {
  return [demandBytes, aheadBytes, prefetchBytes];
}

describe("what a fetch costs", () => {
  test("is a reader's, what its miss brings along is not, and both count for who asked and for the blob", async () => {
    using temp = scratch();
    const fake = smallUnits(10);
    await using cache = await open(temp.dir, fake);
    const meter = new FetchMeter();
    await cache.ensure(rangeOf(fake, 4), { meter });
    await cache.ensure(allOf(fake), { why: "prefetch" }); // waits for what came along
    expect(causes(meter.stats)).toEqual([20_000, 180_000, 0]);
    expect(causes(cache.fetched)).toEqual([20_000, 180_000, 0]);
    expect(meter.stats).toMatchObject({ requests: 1, decodedBytes: 200_000 });
    expect(meter.stats.fetches.count).toBe(1);
    expect(meter.stats.decodes.count).toBeGreaterThan(0);
    expect(cache.stats).toMatchObject({ demandBytes: 200_000, aheadBytes: 180_000, prefetchBytes: 0 });
  });

  test("is a prefetch's, as long as no reader has come for it", async () => {
    using temp = scratch();
    const fake = smallUnits(10);
    const source = memorySource(fake.blob);
    await using cache = await open(temp.dir, fake, { source });
    const meter = new FetchMeter();
    await cache.ensure(allOf(fake), { why: "prefetch", meter });
    expect(causes(meter.stats)).toEqual([0, 0, 200_000]);
    await cache.ensure(rangeOf(fake, 4), { meter });
    expect(meter.stats.requests).toBe(source.reads.length);
    expect(causes(meter.stats)).toEqual([0, 0, 200_000]);
  });

  test("counts once, for the first of two who wait for it", async () => {
    using temp = scratch();
    const fake = smallUnits(1);
    await using cache = await open(temp.dir, fake);
    const [first, second] = [new FetchMeter(), new FetchMeter()];
    await Promise.all([first, second].map((meter) => cache.ensure(rangeOf(fake, 0), { meter })));
    expect(causes(first.stats)).toEqual([20_000, 0, 0]);
    expect(second.stats).toEqual(new FetchMeter().stats);
    expect(causes(cache.fetched)).toEqual([20_000, 0, 0]);
  });

  test("has a latency of decoding only where the codec threads read a local file", async () => {
    using temp = scratch();
    const fake = smallUnits(3);
    const path = `${temp.dir}/blob`;
    await Bun.write(path, fake.blob);
    const source = await openFileSource(path);
    await using cache = await open(temp.dir, fake, { source });
    await cache.ensure(allOf(fake));
    expect(cache.fetched.fetches.count).toBe(0);
    expect(cache.fetched.decodes.count).toBeGreaterThan(0);
    expect(causes(cache.fetched)).toEqual([60_000, 0, 0]);
  });

  test("counts for those above, too", () => {
    const parent = new FetchMeter();
    const meters = [new FetchMeter(parent), new FetchMeter(parent)];
    for (const meter of meters) {
      meter.onFetched({ demand: 1, ahead: 2, prefetch: 3 }, 0.2);
      meter.onDecoded(10, 0.1);
      meter.onChunkErrors("digest", 4);
    }
    expect(causes(parent.stats)).toEqual([2, 4, 6]);
    expect(parent.stats).toMatchObject({ requests: 2, decodedBytes: 20, chunkErrors: { digest: 8, fetch: 0 } });
    expect(parent.stats.fetches).toMatchObject({ count: 2, sumSec: 0.4 });
  });
});

describe("a chunk that cannot be had", () => {
  test("counts as a false digest when the blob's bytes are others", async () => {
    using temp = scratch();
    const fake = smallUnits(1);
    fake.blob[7] = (fake.blob[7] as number) ^ 1;
    await using cache = await open(temp.dir, fake);
    const meter = new FetchMeter();
    expect((await failureOf(cache.ensure(rangeOf(fake, 0), { meter }))).code).toBe("EBADMSG");
    expect(meter.stats.chunkErrors).toMatchObject({ digest: 1, fetch: 0 });
    expect(meter.stats.decodedBytes).toBe(0);
  });

  test("counts as a failed fetch when its place fails", async () => {
    using temp = scratch();
    const fake = smallUnits(1);
    const source = memorySource(fake.blob);
    source.before = () => {
      throw new NydusError("EIO", "Cannot read: the test says so");
    };
    await using cache = await open(temp.dir, fake, { source });
    await failureOf(cache.ensure(rangeOf(fake, 0)));
    expect(cache.fetched.chunkErrors).toMatchObject({ fetch: 1, digest: 0, deadline: 0 });
    expect(cache.fetched.requests).toBe(0);
  });

  test("counts as late for each reader that gave up, and not as failed when the fetch is given up with it", async () => {
    using temp = scratch();
    const fake = smallUnits(1);
    const source = memorySource(fake.blob);
    source.before = (_, { signal }) => new Promise((_resolve, reject) => signal?.addEventListener("abort", reject));
    await using cache = await open(temp.dir, fake, { source, readTimeoutMs: 50 });
    const reads = [0, 0].map(() => failureOf(cache.ensure(rangeOf(fake, 0))));
    for (const { code } of await Promise.all(reads)) expect(code).toBe("ETIMEDOUT");
    await cache.close();
    expect(cache.fetched.chunkErrors).toMatchObject({ deadline: 2, fetch: 0, other: 0 });
  });

  test("does not count when nobody wants it any more", async () => {
    using temp = scratch();
    const fake = smallUnits(1);
    const source = memorySource(fake.blob);
    source.before = () => new Promise(() => undefined);
    await using cache = await open(temp.dir, fake, { source });
    const leaving = new AbortController();
    const read = failureOf(cache.ensure(rangeOf(fake, 0), { signal: leaving.signal }));
    leaving.abort(new NydusError("ECANCELED", "Cannot read: the test goes away"));
    expect((await read).code).toBe("ECANCELED");
    await cache.close();
    expect(cache.stats.chunksFailed).toBe(1);
    expect(cache.fetched.chunkErrors).toEqual(new FetchMeter().stats.chunkErrors);
  });

  test("counts as no space when the cache's disk is full", async () => {
    using temp = scratch();
    const fake = smallUnits(1);
    const pool = { ...inlinePool(), fill: async () => [{ code: "ENOSPC", message: "full" } as const] };
    await using cache = await open(temp.dir, fake, { pool });
    await failureOf(cache.ensure(rangeOf(fake, 0)));
    expect(cache.fetched.chunkErrors).toMatchObject({ no_space: 1 });
  });
});
