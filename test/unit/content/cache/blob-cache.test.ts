import { describe, expect, test } from "bun:test";
import { spawnSync } from "node:child_process";
import {
  closeSync,
  copyFileSync,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { NydusError } from "../../../../src/base/errors.ts";
import type { BlobCacheOptions } from "../../../../src/content/cache/blob-cache.ts";
import { openFileSource } from "../../../../src/content/store/file-source.ts";
import type { FillJob } from "../../../../src/os/codec-pool.ts";
import { openCodecPool } from "../../../../src/os/codec-threads.ts";
import {
  allOf,
  falseChunks,
  openFakeCache as open,
  rangeOf,
  readDevice,
  readyChunks,
  scratch,
} from "../../../kit/cache-lab.ts";
import {
  chunkMapOver,
  type FakeBlob,
  inlinePool,
  makeFakeBlob,
  memorySource,
  randomOf,
} from "../../../kit/fake-blob.ts";
import { failureOf } from "../../../suite/byte-source.ts";

const isRoot = process.getuid?.() === 0;

function sharesUnit({ chunks }: FakeBlob, a: number, b: number): boolean {
  return chunks.blobOffset(a) === chunks.blobOffset(b);
}

describe("ensure()", () => {
  test.each([
    { seed: 1, units: 60, chunkBytes: 20_000 },
    { seed: 2, units: 30, chunkBytes: 9_000, batch: 6 },
    { seed: 3, units: 12, chunkBytes: 600_000 },
  ])("gives the device's bytes for random ranges, many at once (seed $seed)", async (shape) => {
    using temp = scratch();
    const fake = makeFakeBlob(shape);
    await using cache = await open(temp.dir, fake);
    const random = randomOf(shape.seed + 100);
    await Promise.all(
      Array.from({ length: 60 }, async () => {
        const first = random(fake.chunks.count);
        const { start, end } = rangeOf(fake, first);
        const [from, to] = [start + random(end - start), end];
        await cache.ensure({ start: from, end: to }, { why: random(2) === 0 ? "demand" : "prefetch" });
        expect(cache.isReady({ start: from, end: to })).toBe(true);
        expect(readDevice(cache, from, to).equals(fake.device.subarray(from, to))).toBe(true);
      }),
    );
    await cache.ensure(allOf(fake), { why: "prefetch" });
    expect(readyChunks(cache).length).toBe(fake.chunks.count);
    expect(cache.stats.chunksFilled).toBe(fake.chunks.count); // each once
    expect(readDevice(cache, 0, fake.device.length).equals(fake.device)).toBe(true);
  });

  test.each([
    { seed: 31, units: 60, chunkBytes: 20_000, from: "memory" },
    { seed: 32, units: 40, chunkBytes: 9_000, batch: 6, from: "a file" },
    { seed: 33, units: 6, chunkBytes: 900_000, from: "a file" },
  ])("codec threads read, verify and write by themselves, from $from (seed $seed)", async (shape) => {
    using temp = scratch();
    const fake = makeFakeBlob(shape);
    const bad = fake.chunks.count - 1;
    fake.rows[bad] = { ...(fake.rows[bad] as FakeBlob["rows"][0]), digest: new Uint8Array(32) };
    writeFileSync(join(temp.dir, "blob"), fake.blob);
    const source = shape.from === "memory" ? memorySource(fake.blob) : await openFileSource(join(temp.dir, "blob"));
    await using pool = openCodecPool({ threads: 2 });
    await using cache = await open(temp.dir, fake, { source, pool });
    expect((await failureOf(cache.ensure(allOf(fake), { why: "prefetch" }))).code).toBe("EBADMSG");
    expect(readyChunks(cache)).toEqual(
      Array.from({ length: fake.chunks.count }, (_, i) => i).filter((i) => i !== bad && !sharesUnit(fake, i, bad)),
    );
    expect(falseChunks(cache, fake)).toEqual([]);
    const written = readDevice(cache, 0, fake.device.length);
    const { start, end } = rangeOf(fake, bad);
    expect(written.subarray(start, end).equals(Buffer.alloc(end - start))).toBe(true); // nothing of it
    await source.close();
  });

  test("fetches the same miss once, however many wait for it", async () => {
    using temp = scratch();
    const fake = makeFakeBlob({ seed: 4, units: 5, chunkBytes: 5_000 });
    const source = memorySource(fake.blob);
    await using cache = await open(temp.dir, fake, { source });
    await Promise.all(Array.from({ length: 50 }, () => cache.ensure(rangeOf(fake, 2))));
    const demanded = (): number => source.reads.filter(({ why }) => why === "demand").length;
    expect(demanded()).toBe(1);
    await cache.ensure(rangeOf(fake, 2));
    expect(demanded()).toBe(1);
  });

  test("brings what lies around a reader's miss along; a prefetch brings what it says", async () => {
    using temp = scratch();
    const fake = makeFakeBlob({ seed: 5, units: 30, chunkBytes: 150_000, full: true });
    const source = memorySource(fake.blob);
    await using cache = await open(temp.dir, fake, { source });
    await cache.ensure(rangeOf(fake, 0), { why: "prefetch" });
    await Bun.sleep(20);
    expect(readyChunks(cache)).toEqual([0]);
    await cache.ensure(rangeOf(fake, 2));
    await cache.ensure({ start: 0, end: 512 << 10 }, { why: "prefetch" });
    expect(source.reads.map(({ why }) => why)).toEqual(["prefetch", "demand", "prefetch", "prefetch"]);
    expect(readyChunks(cache)).toEqual([0, 1, 2, 3]);
  });

  test("brings the small chunks around a small one by the same request, up to a large one", async () => {
    using temp = scratch();
    const fake = makeFakeBlob({ seed: 5, units: 12, chunkBytes: 20_000, full: true });
    fake.rows[9] = { ...(fake.rows[9] as FakeBlob["rows"][0]), blobSizeBytes: 70_000, digest: undefined };
    const source = memorySource(fake.blob);
    await using cache = await open(temp.dir, fake, { source });
    await cache.ensure(rangeOf(fake, 4));
    expect(source.reads[0]?.why).toBe("demand");
    const first = fake.rows.slice(0, 9).map(({ blobOffset, blobSizeBytes }) => ({ blobOffset, blobSizeBytes }));
    expect(source.reads[0]?.range).toEqual({
      start: first[0]?.blobOffset ?? -1,
      end: (first[8]?.blobOffset ?? 0) + (first[8]?.blobSizeBytes ?? 0),
    });
  });

  test("brings other small chunks that are near behind that request, the nearest first, up to a limit", async () => {
    using temp = scratch();
    const fake = makeFakeBlob({ seed: 5, units: 24, chunkBytes: 20_000, full: true });
    fake.rows[9] = { ...(fake.rows[9] as FakeBlob["rows"][0]), blobSizeBytes: 70_000, digest: undefined };
    const source = memorySource(fake.blob);
    await using cache = await open(temp.dir, fake, { source });
    await cache.ensure(rangeOf(fake, 4));
    await Bun.sleep(50);
    const ready = readyChunks(cache).filter((chunk) => chunk > 9);
    const most = Math.floor((128 << 10) / (fake.rows[10]?.blobSizeBytes ?? 1));
    expect(ready).toEqual(Array.from({ length: most }, (_, i) => 10 + i));
    expect(source.reads.map(({ why }) => why)).toEqual(["demand", "prefetch"]);
  });

  test("a reader does not wait for what comes along with its chunks", async () => {
    using temp = scratch();
    const fake = makeFakeBlob({ seed: 5, units: 17, chunkBytes: 60_000, full: true });
    const pool = inlinePool(2);
    let jobs = 0;
    const never = {
      ...pool,
      fill: async (job: FillJob) => (++jobs > 1 ? new Promise<never>(() => undefined) : pool.fill(job, { rank: 0 })),
    };
    const cache = await open(temp.dir, fake, { pool: never });
    await cache.ensure(rangeOf(fake, 1));
    expect([jobs, readyChunks(cache).includes(1), readyChunks(cache).length < 17]).toEqual([3, true, true]);
    void cache.close();
  });

  test.each([
    ["demand", 4 << 20],
    ["prefetch", 2 << 20],
  ] as const)("for %s merges neighbours into requests of at most %p bytes", async (why, most) => {
    using temp = scratch();
    const fake = makeFakeBlob({ seed: 6, units: 8, chunkBytes: 1 << 20, full: true });
    const source = memorySource(fake.blob);
    await using cache = await open(temp.dir, fake, { source });
    await cache.ensure(allOf(fake), { why });
    const lengths = source.reads.map(({ range }) => range.end - range.start);
    expect(Math.max(...lengths)).toBe(most);
    expect(lengths.length).toBe((8 << 20) / most);
  });

  test.each([
    [60_000, 1],
    [70_000, 2],
  ])("of chunks %p bytes apart in the blob asks in %p requests", async (apart, requests) => {
    using temp = scratch();
    const fake = makeFakeBlob({ seed: 6, units: 3, chunkBytes: apart, full: true });
    const source = memorySource(fake.blob);
    await using cache = await open(temp.dir, fake, { source });
    await cache.ensure(rangeOf(fake, 1), { why: "prefetch" });
    await cache.ensure(allOf(fake), { why: "prefetch" });
    expect(source.reads.length).toBe(1 + requests);
  });

  test("fetches a batch once for all of its chunks", async () => {
    using temp = scratch();
    const fake = makeFakeBlob({ seed: 7, units: 1, chunkBytes: 3_000, batch: 40 });
    expect(fake.chunks.count).toBeGreaterThan(5);
    const source = memorySource(fake.blob);
    await using cache = await open(temp.dir, fake, { source });
    await cache.ensure(rangeOf(fake, 3), { why: "prefetch" });
    expect(readyChunks(cache).length).toBe(fake.chunks.count);
    expect(source.reads.length).toBe(1);
  });

  test("gives every waiter the leader's failure, and the next caller tries again", async () => {
    using temp = scratch();
    const fake = makeFakeBlob({ seed: 8, units: 3, chunkBytes: 5_000 });
    const source = memorySource(fake.blob);
    source.before = () => {
      throw new NydusError("EIO", "Cannot read: the line is cut");
    };
    await using cache = await open(temp.dir, fake, { source });
    const failures = await Promise.all(Array.from({ length: 9 }, () => failureOf(cache.ensure(rangeOf(fake, 0)))));
    for (const failure of failures) {
      expect(failure.code).toBe("EIO");
      expect(failure.at.digest).toBe(`sha256:${fake.id}`);
      expect(failure.at.offset).toBe(fake.chunks.blobOffset(0));
    }
    source.before = () => undefined;
    await cache.ensure(rangeOf(fake, 0));
    expect(cache.isReady(rangeOf(fake, 0))).toBe(true);
  });

  test("an error that is no NydusError, and a source that throws at once, end in an error too", async () => {
    using temp = scratch();
    const fake = makeFakeBlob({ seed: 9, units: 3, chunkBytes: 5_000 });
    const source = {
      ...memorySource(fake.blob),
      readAt: () => {
        throw new TypeError("oops");
      },
    };
    await using cache = await open(temp.dir, fake, { source });
    expect((await failureOf(cache.ensure(rangeOf(fake, 0)))).code).toBe("EFAULT");
  });

  test("a chunk that fails its digest is refused with its place; the others of the request land", async () => {
    using temp = scratch();
    const fake = makeFakeBlob({ seed: 10, units: 8, chunkBytes: 5_000 });
    const bad = 3;
    fake.rows[bad] = { ...(fake.rows[bad] as FakeBlob["rows"][0]), digest: new Uint8Array(32) };
    await using cache = await open(temp.dir, fake);
    const error = await failureOf(cache.ensure(allOf(fake), { why: "prefetch" }));
    expect(error.code).toBe("EBADMSG");
    expect(error.at).toEqual({
      digest: `sha256:${fake.id}`,
      offset: fake.chunks.blobOffset(bad),
      length: fake.chunks.blobSizeBytes(bad),
    });
    expect(error.message).toContain(`chunk ${bad}`);
    expect(readyChunks(cache).length).toBe(fake.chunks.count - 1);
    expect(cache.isReady(rangeOf(fake, bad))).toBe(false);
    expect(readDevice(cache, fake.rows[bad]?.deviceOffset ?? 0, (fake.rows[bad]?.deviceOffset ?? 0) + 1)[0]).toBe(0);
    await cache.ensure(rangeOf(fake, 5));
  });

  test("a damaged blob is EUCLEAN or EBADMSG, never served", async () => {
    using temp = scratch();
    const fake = makeFakeBlob({ seed: 11, units: 20, chunkBytes: 5_000 });
    const damaged = fake.blob.map((byte, i) => (i % 97 === 0 ? byte ^ 0x40 : byte));
    await using cache = await open(temp.dir, fake, { source: memorySource(damaged) });
    for (let i = 0; i < fake.chunks.count; i++) {
      const error = await cache.ensure(rangeOf(fake, i)).then(
        () => undefined,
        (thrown: unknown) => thrown,
      );
      if (error === undefined) {
        const { start, end } = rangeOf(fake, i);
        expect(readDevice(cache, start, end).equals(fake.device.subarray(start, end))).toBe(true);
      } else expect(["EUCLEAN", "EBADMSG"]).toContain((error as NydusError).code);
    }
    expect(cache.stats.chunksFailed).toBeGreaterThan(5);
  });

  test("a chunk with neither digest nor checksum is EIO, and nothing is fetched for it", async () => {
    using temp = scratch();
    const fake = makeFakeBlob({ seed: 12, units: 4, chunkBytes: 5_000 });
    fake.rows[1] = { ...(fake.rows[1] as FakeBlob["rows"][0]), digest: undefined };
    const source = memorySource(fake.blob);
    await using cache = await open(temp.dir, fake, { source });
    expect((await failureOf(cache.ensure(rangeOf(fake, 1)))).code).toBe("EIO");
    expect(source.reads.length).toBe(0);
    await cache.ensure(rangeOf(fake, 0)); // amplified, but not over the bad one
    expect(cache.isReady(rangeOf(fake, 1))).toBe(false);
  });

  test("blocks that no chunk holds are refused to a reader and passed over by a prefetch; a last block's rest is not", async () => {
    using temp = scratch();
    const fake = makeFakeBlob({ seed: 13, units: 30, chunkBytes: 5_000 });
    const i = fake.rows.findIndex((row, at) => {
      const before = fake.rows[at - 1];
      return before !== undefined && row.deviceOffset - (before.deviceOffset + before.sizeBytes) > 4096;
    });
    expect(i).toBeGreaterThan(0);
    const gap = { start: (fake.rows[i]?.deviceOffset ?? 0) - 4096, end: fake.rows[i]?.deviceOffset ?? 0 };
    await using cache = await open(temp.dir, fake);
    expect((await failureOf(cache.ensure(gap))).code).toBe("EUCLEAN");
    const around = { start: rangeOf(fake, i - 1).start, end: rangeOf(fake, i).end };
    expect((await failureOf(cache.ensure(around))).code).toBe("EUCLEAN");
    await cache.ensure(gap, { why: "prefetch" });
    const { start } = rangeOf(fake, 0);
    await cache.ensure({ start, end: start + 4096 * Math.ceil(fake.chunks.sizeBytes(0) / 4096) });
    expect((await failureOf(cache.ensure({ start: 0, end: fake.device.length + 1 }))).code).toBe("EINVAL");
  });

  test("a reader that gets no answer has ETIMEDOUT, and the chunk can be had later", async () => {
    using temp = scratch();
    const fake = makeFakeBlob({ seed: 14, units: 3, chunkBytes: 5_000 });
    const source = memorySource(fake.blob);
    source.before = () => new Promise(() => undefined);
    await using cache = await open(temp.dir, fake, { source, readTimeoutMs: 30 });
    expect((await failureOf(cache.ensure(rangeOf(fake, 0)))).code).toBe("ETIMEDOUT");
    expect((await failureOf(cache.ensure(rangeOf(fake, 1), { why: "prefetch" }))).code).toBe("ETIMEDOUT");
    source.before = () => undefined;
    await cache.ensure(rangeOf(fake, 0));
  });

  test("a waiter that gives up leaves the others waiting; when the last one does, the source is told", async () => {
    using temp = scratch();
    const fake = makeFakeBlob({ seed: 15, units: 3, chunkBytes: 5_000 });
    const source = memorySource(fake.blob);
    let release = (): void => undefined;
    let told: AbortSignal | undefined;
    source.before = (_range, options) => {
      if (options.why !== "demand") return;
      told = options.signal;
      return new Promise((resolve) => {
        release = resolve;
      });
    };
    await using cache = await open(temp.dir, fake, { source });
    const [first, second] = [new AbortController(), new AbortController()];
    const one = failureOf(cache.ensure(rangeOf(fake, 0), { signal: first.signal }));
    const two = cache.ensure(rangeOf(fake, 0), { signal: second.signal });
    await Bun.sleep(1);
    first.abort();
    expect((await one).code).toBe("ECANCELED");
    expect(told?.aborted).toBe(false);
    release();
    await two;
    expect(told?.aborted).toBe(false);
  });

  test("when the last waiter has given up the source is told, and the next one asks anew", async () => {
    using temp = scratch();
    const fake = makeFakeBlob({ seed: 15, units: 3, chunkBytes: 5_000 });
    const source = memorySource(fake.blob);
    let told: AbortSignal | undefined;
    source.before = (_range, options) => {
      if (options.why === "demand") told = options.signal;
      return new Promise(() => undefined);
    };
    await using cache = await open(temp.dir, fake, { source });
    const controllers = [new AbortController(), new AbortController()];
    const waits = controllers.map(({ signal }) => failureOf(cache.ensure(rangeOf(fake, 0), { signal })));
    await Bun.sleep(1);
    for (const controller of controllers) controller.abort();
    expect((await Promise.all(waits)).map(({ code }) => code)).toEqual(["ECANCELED", "ECANCELED"]);
    expect(told?.aborted).toBe(true);
    source.before = () => undefined;
    await cache.ensure(rangeOf(fake, 0));
  });

  test("a reader overtakes prefetches that wait", async () => {
    using temp = scratch();
    const fake = makeFakeBlob({ seed: 16, units: 200, chunkBytes: 100_000, full: true });
    const source = memorySource(fake.blob);
    const gates: (() => void)[] = [];
    source.before = () => new Promise((resolve) => gates.push(resolve));
    await using cache = await open(temp.dir, fake, { source });
    const starts = Array.from({ length: 12 }, (_, i) => i * 15);
    const prefetches = starts.map((i) => cache.ensure(rangeOf(fake, i), { why: "prefetch" }));
    await Bun.sleep(1);
    expect(source.reads.length).toBe(4); // room is left
    const joined = cache.ensure(rangeOf(fake, 11 * 15)); // the last prefetch in the line
    const fresh = cache.ensure(rangeOf(fake, 199));
    await Bun.sleep(1);
    expect(source.reads.slice(4).map(({ why }) => why)).toEqual(["demand", "demand"]);
    const pump = setInterval(() => {
      for (const open of gates.splice(0)) open();
    }, 1);
    await Promise.all([joined, fresh, ...prefetches]);
    clearInterval(pump);
  });

  test("close() ends what is under way with ECANCELED, and nothing is taken after it", async () => {
    using temp = scratch();
    const fake = makeFakeBlob({ seed: 17, units: 3, chunkBytes: 5_000 });
    const source = memorySource(fake.blob);
    source.before = () => new Promise(() => undefined);
    const cache = await open(temp.dir, fake, { source });
    const waiting = failureOf(cache.ensure(rangeOf(fake, 0)));
    await Bun.sleep(1);
    await cache.close();
    await cache.close();
    expect((await waiting).code).toBe("ECANCELED");
    expect((await failureOf(cache.ensure(rangeOf(fake, 0)))).code).toBe("ECANCELED");
  });

  test.skipIf(!isRoot)("a full disk is ENOSPC to the reader, and the cache works on when there is space", async () => {
    using temp = scratch();
    expect(spawnSync("mount", ["-t", "tmpfs", "-o", "size=256k", "none", temp.dir]).status).toBe(0);
    try {
      const fake = makeFakeBlob({ seed: 18, units: 12, chunkBytes: 60_000 });
      writeFileSync(join(temp.dir, "hog"), Buffer.alloc(180_000, 1));
      const cache = await open(temp.dir, fake);
      const error = await failureOf(cache.ensure(allOf(fake), { why: "prefetch" }));
      expect(error.code).toBe("ENOSPC");
      rmSync(join(temp.dir, "hog"));
      for (let i = 0; i < 3; i++) {
        await cache.ensure(rangeOf(fake, i), { why: "prefetch" });
        const { start, end } = rangeOf(fake, i);
        expect(readDevice(cache, start, end).equals(fake.device.subarray(start, end))).toBe(true);
      }
      await cache.close().catch(() => undefined); // the map may find no room
    } finally {
      spawnSync("umount", ["-l", temp.dir]);
    }
  });
});

describe("the map on disk", () => {
  const fake = makeFakeBlob({ seed: 20, units: 40, chunkBytes: 9_000 });

  /** Makes ten chunks ready, in batches of six and four. */
  async function fill(dir: string): Promise<void> {
    await using cache = await open(dir, fake);
    for (let i = 0; i < 10; i++) {
      if (i === 6) await cache.flush();
      await cache.ensure(rangeOf(fake, i), { why: "prefetch" });
    }
  }

  async function reopened(dir: string, more: Partial<BlobCacheOptions> = {}): Promise<number> {
    await using cache = await open(dir, fake, more);
    for (let i = 0; i < cache.chunks.count; i++) {
      const start = cache.chunks.deviceOffset(i);
      const end = start + cache.chunks.sizeBytes(i);
      if (cache.isReady({ start, end })) {
        expect(readDevice(cache, start, end).equals(fake.device.subarray(start, end))).toBe(true);
      }
    }
    const found = readyChunks(cache).length;
    // Whatever it began with, it ends with the right bytes.
    await cache.ensure(allOf(fake), { why: "prefetch" });
    for (const { deviceOffset, sizeBytes } of fake.rows.slice(0, cache.chunks.count)) {
      const [start, end] = [deviceOffset, deviceOffset + sizeBytes];
      if (cache.isReady({ start, end }))
        expect(readDevice(cache, start, end).equals(fake.device.subarray(start, end))).toBe(true);
    }
    return found;
  }
  const path = (dir: string, kind: string): string => join(dir, `${fake.id}.${kind}`);

  test("what was ready is ready again after a restart, and is not fetched", async () => {
    using temp = scratch();
    await fill(temp.dir);
    const source = memorySource(fake.blob);
    await using cache = await open(temp.dir, fake, { source });
    expect(readyChunks(cache).length).toBe(10);
    for (let i = 0; i < 10; i++) {
      const { start, end } = rangeOf(fake, i);
      await cache.ensure({ start, end });
      expect(readDevice(cache, start, end).equals(fake.device.subarray(start, end))).toBe(true);
    }
    expect(source.reads.length).toBe(0);
  });

  test("runs add to one another, also a flush at a time", async () => {
    using temp = scratch();
    for (let i = 0; i < 12; i += 3) {
      await using cache = await open(temp.dir, fake);
      expect(readyChunks(cache).length).toBe(i);
      for (let k = i; k < i + 3; k++) {
        await cache.ensure(rangeOf(fake, k), { why: "prefetch" });
        await cache.flush();
      }
    }
    expect(await reopened(temp.dir)).toBe(12);
  });

  test.each<[string, (dir: string) => void, number]>([
    ["no map", (dir) => rmSync(path(dir, "map")), 0],
    ["no data file", (dir) => rmSync(path(dir, "data")), 0],
    ["an empty map", (dir) => writeFileSync(path(dir, "map"), ""), 0],
    [
      "a data file emptied and grown again",
      (dir) => {
        const { size } = statSync(path(dir, "data"));
        truncateSync(path(dir, "data"), 0);
        truncateSync(path(dir, "data"), size);
      },
      0,
    ],
    ["a longer data file", (dir) => writeFileSync(path(dir, "data"), "x", { flag: "a" }), 0],
    ["a shorter data file", (dir) => truncateSync(path(dir, "data"), 4096), 0],
    [
      "a copy in place of the data file",
      (dir) => {
        copyFileSync(path(dir, "data"), path(dir, "copy"));
        renameSync(path(dir, "copy"), path(dir, "data"));
      },
      0,
    ],
    [
      "the data file of another run",
      (dir) => {
        const data = readFileSync(path(dir, "data"));
        data[data.length - 4096 + 9] = (data[data.length - 4096 + 9] ?? 0) ^ 1;
        writeFileSync(path(dir, "data"), data);
      },
      0,
    ],
    [
      "a map of another version",
      (dir) => {
        const map = readFileSync(path(dir, "map"));
        map[8] = 9;
        writeFileSync(path(dir, "map"), map);
      },
      0,
    ],
    [
      "a map cut within its last batch",
      (dir) => truncateSync(path(dir, "map"), statSync(path(dir, "map")).size - 5),
      6,
    ],
    ["a map with garbage behind", (dir) => writeFileSync(path(dir, "map"), "garbage".repeat(99), { flag: "a" }), 10],
    [
      "a flipped bit in the records",
      (dir) => {
        const map = readFileSync(path(dir, "map"));
        map[map.length - 3] = (map[map.length - 3] ?? 0) ^ 1;
        writeFileSync(path(dir, "map"), map);
      },
      6,
    ],
  ])("with %s nothing false is ready", async (_what, damage, expected) => {
    using temp = scratch();
    await fill(temp.dir);
    damage(temp.dir);
    expect(await reopened(temp.dir)).toBe(expected);
    expect(readFileSync(path(temp.dir, "map")).includes("garbage")).toBe(false);
    expect(await reopened(temp.dir)).toBe(fake.chunks.count); // and it is whole again
  });

  test("every cut of the map, as a crash may leave it, gives a prefix of what was ready", async () => {
    using temp = scratch();
    for (let k = 0; k < 6; k++) {
      await using cache = await open(temp.dir, fake);
      await cache.ensure(rangeOf(fake, k), { why: "prefetch" });
    }
    const map = readFileSync(path(temp.dir, "map"));
    let before = 0;
    for (let length = 128; length <= map.length; length += 16) {
      writeFileSync(path(temp.dir, "map"), map.subarray(0, length));
      await using cache = await open(temp.dir, fake);
      const found = readyChunks(cache).length;
      expect(found === before || found === before + 1).toBe(true);
      before = found;
    }
    expect(before).toBe(6);
  });

  test("an image that numbers the blob's chunks otherwise finds its own among those that are ready", async () => {
    using temp = scratch();
    await fill(temp.dir);
    const rows = fake.rows.filter((_, i) => i % 2 === 1);
    await using cache = await open(temp.dir, fake, { chunks: chunkMapOver(rows) });
    expect(readyChunks(cache).length).toBe(5);
    await cache.ensure(
      { start: rows[9]?.deviceOffset ?? 0, end: (rows[9]?.deviceOffset ?? 0) + 1 },
      { why: "prefetch" },
    );
    await cache.close();
    expect(await reopened(temp.dir)).toBe(11); // and leaves the others to the first
  });

  test("an image that claims other content for the same place gets none of it, and leaves none behind", async () => {
    using temp = scratch();
    await fill(temp.dir);
    const evil = makeFakeBlob({ seed: 21, units: 40, chunkBytes: 9_000 });
    const options = {
      id: fake.id,
      chunks: evil.chunks,
      source: memorySource(evil.blob),
      sizeBytes: fake.device.length,
    };
    {
      await using cache = await open(temp.dir, fake, options);
      expect(readyChunks(cache).length).toBe(0);
      await cache
        .ensure({ start: 0, end: Math.min(evil.device.length, fake.device.length) }, { why: "prefetch" })
        .catch(() => undefined);
    }
    expect(await reopened(temp.dir)).toBe(0);
  });

  test("what a killed process left as its own is removed", async () => {
    using temp = scratch();
    const gone = spawnSync("true").pid;
    writeFileSync(join(temp.dir, `${fake.id}.${gone}.00ff.data`), "x");
    await using _cache = await open(temp.dir, fake);
    expect(existsSync(join(temp.dir, `${fake.id}.${gone}.00ff.data`))).toBe(false);
  });

  test("an id that is none is refused before it becomes a path", async () => {
    using temp = scratch();
    const error = await failureOf(open(temp.dir, { ...fake, id: "../x" }));
    expect(error.code).toBe("EINVAL");
    const fds = readdirSync("/proc/self/fd").length;
    for (let i = 0; i < 5; i++) await (await open(temp.dir, fake)).close();
    expect(readdirSync("/proc/self/fd").length).toBe(fds);
    closeSync(openSync(path(temp.dir, "lock"), "r"));
  });
});
