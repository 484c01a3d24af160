import { expect, test } from "bun:test";
import {
  type FetchLane,
  FetchQueue,
  QUEUE_LIMITS,
  type QueuedFetch,
} from "../../../../src/content/cache/fetch-queue.ts";

/** A queue in which nothing gets its turn before `open()`, and the order in which its fetches then do. */
function blockedQueue() {
  const queue = new FetchQueue();
  const order: string[] = [];
  const { promise, resolve } = Promise.withResolvers<void>();
  for (let i = 0; i < QUEUE_LIMITS.total; i++) queue.add({ lane: "demand", run: () => promise });
  const add = (name: string, lane: FetchLane, line?: object): QueuedFetch => {
    const run = async (): Promise<void> => {
      order.push(name);
      await Promise.resolve();
    };
    const fetch = { lane, line, run };
    queue.add(fetch);
    return fetch;
  };
  const open = async (): Promise<string[]> => {
    resolve();
    await Bun.sleep(5);
    return order;
  };
  return { queue, add, open };
}

test("what is read ahead for the reader that missed last goes first, each reader's in its order", async () => {
  const { add, open } = blockedQueue();
  const [one, two] = [{}, {}];
  for (const name of ["a1", "a2"]) add(name, "ahead", one);
  for (const name of ["b1", "b2"]) add(name, "ahead", two);
  add("a3", "ahead", one);
  expect(await open()).toEqual(["a1", "a2", "a3", "b1", "b2"]);
});

test("readers go before what is read ahead, that before prefetches; who is promoted goes with the readers", async () => {
  const { queue, add, open } = blockedQueue();
  add("prefetch", "prefetch");
  add("ahead", "ahead", {});
  const late = add("late", "ahead", {});
  add("demand", "demand");
  queue.promote(late);
  add("later", "demand");
  expect(await open()).toEqual(["demand", "late", "later", "ahead", "prefetch"]);
});
