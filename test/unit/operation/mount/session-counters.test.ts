import { expect, test } from "bun:test";
import { NydusError } from "../../../../src/base/errors.ts";
import {
  Counters,
  endedStats,
  makeCounters,
  statsSince,
  sumCounters,
  sumStats,
} from "../../../../src/operation/mount/session-counters.ts";

test("threads count in rows of their own, and the sum is of all", () => {
  const memory = makeCounters(2);
  for (const thread of [0, 1, 2]) new Counters(memory, thread).add("readBytes", 10 ** thread);
  expect(sumCounters(memory).readBytes).toBe(111);
  expect(sumCounters(memory).requests).toBe(0);
});

test("a read that waits is seen while it waits, and then in one bucket", () => {
  const memory = makeCounters(0);
  const counted = new Counters(memory, 0).startWaiting();
  expect(sumCounters(memory)).toMatchObject({ waitingNow: 1, waitingReads: 0 });
  counted(4096);
  const stats = sumCounters(memory);
  expect(stats).toMatchObject({ waitingNow: 0, waitingReads: 1, readBytes: 4096, errors: 0 });
  expect(stats.waitBuckets.reduce((sum, count) => sum + count, 0)).toBe(1);
});

test.each([
  ["EBADMSG", "digestErrors"],
  ["EUCLEAN", "decodeErrors"],
  ["ETIMEDOUT", "deadlineErrors"],
  ["ENOSPC", "noSpaceErrors"],
  ["EIO", "fetchErrors"],
] as const)("a read that fails with %s counts among %s, and gives no bytes", (code, field) => {
  const memory = makeCounters(0);
  new Counters(memory, 0).startWaiting()(new NydusError(code, "Cannot read: test"));
  expect(sumCounters(memory)).toMatchObject({ [field]: 1, errors: 1, readBytes: 0, waitingReads: 1 });
});

test("an error of this program is an error, of none of the kinds", () => {
  const memory = makeCounters(0);
  new Counters(memory, 0).addError(new TypeError("oops"));
  const { errors, fetchErrors, digestErrors, decodeErrors, deadlineErrors, noSpaceErrors } = sumCounters(memory);
  expect({ errors, kinds: fetchErrors + digestErrors + decodeErrors + deadlineErrors + noSpaceErrors }).toEqual({
    errors: 1,
    kinds: 0,
  });
});

test("what a mount has counted since its start does not count those that waited before as gone", () => {
  const memory = makeCounters(0);
  const counters = new Counters(memory, 0);
  const first = counters.startWaiting();
  const before = sumCounters(memory);
  counters.add("readyReads", 3);
  const second = counters.startWaiting();
  expect(statsSince(sumCounters(memory), before)).toMatchObject({ readyReads: 3, waitingNow: 2 });
  first(1);
  second(1);
  const since = statsSince(sumCounters(memory), before);
  expect(since).toMatchObject({ waitingNow: 0, waitingReads: 2 });
  expect(since.waitBuckets.reduce((sum, count) => sum + count, 0)).toBe(2);
});

test("nobody waits for a mount that has ended, and sums keep the buckets", () => {
  const memory = makeCounters(0);
  const counters = new Counters(memory, 0);
  counters.startWaiting();
  counters.startWaiting()(5);
  const ended = endedStats(sumCounters(memory));
  expect(ended.waitingNow).toBe(0);
  const sum = sumStats([ended, ended]);
  expect(sum.readBytes).toBe(10);
  expect(sum.waitBuckets.reduce((total, count) => total + count, 0)).toBe(2);
  expect(sumStats([]).waitBuckets.every((count) => count === 0)).toBe(true);
});
