/** A process that fills a cache with random reads and compares what it reads: `bun cache-child.ts ORDERS`. */
import { setTimeout as sleep } from "node:timers/promises";
import { syncData } from "../../src/content/store/file-io.ts";
import { openFakeCache, rangeOf, readDevice } from "./cache-lab.ts";
import { chunkMapOver, type FakeShape, makeFakeBlob, memorySource, randomOf } from "./fake-blob.ts";

/** What a child is to do. */
export interface CacheChildOrders {
  readonly dir: string;
  readonly shape: FakeShape;
  readonly seed: number;
  /** Its image knows one chunk in so many more than all: those whose number is not a multiple of it. */
  readonly without?: number;
  /** Reads, then it closes the cache; without end unless given. */
  readonly reads?: number;
  /** Makes the map durable about once in so many reads. */
  readonly flushEvery?: number;
  /** Says that data is on the disk without having brought it there. */
  readonly liesAboutSync?: boolean;
  /** After the first refused write: for a file system that was shut down. */
  readonly endsQuietly?: boolean;
}

async function run(orders: CacheChildOrders): Promise<void> {
  const fake = makeFakeBlob(orders.shape);
  const random = randomOf(orders.seed);
  const { without } = orders;
  const rows = without === undefined ? fake.rows : fake.rows.filter((_, i) => i % without !== 0);
  const source = memorySource(fake.blob);
  source.before = () => sleep(random(3));
  const cache = await openFakeCache(orders.dir, fake, {
    ...{ chunks: chunkMapOver(rows), source },
    syncDataFile: orders.liesAboutSync ? async () => undefined : syncData,
  });
  process.stdout.write(`${cache.dataPath}\n`);
  for (let i = 0; i !== orders.reads; i++) {
    const { start, end } = rangeOf(cache, random(rows.length));
    await cache.ensure({ start, end }, { why: random(2) === 0 ? "demand" : "prefetch" });
    if (!readDevice(cache, start, end).equals(fake.device.subarray(start, end))) {
      process.stdout.write(`false bytes at ${start}\n`);
      process.exit(9);
    }
    if (orders.flushEvery !== undefined && random(orders.flushEvery) === 0) await cache.flush();
  }
  await cache.close();
}

if (import.meta.main) {
  const orders = JSON.parse(process.argv[2] ?? "") as CacheChildOrders;
  try {
    await run(orders);
  } catch (error) {
    if (!orders.endsQuietly) throw error;
  }
}
