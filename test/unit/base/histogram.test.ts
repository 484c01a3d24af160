import { expect, test } from "bun:test";
import {
  addLatencies,
  LATENCY_BOUNDS_SEC,
  LATENCY_BUCKETS,
  LatencyHistogram,
  latencyBucket,
} from "../../../src/base/histogram.ts";

test("a latency at a bound belongs to the bound, one above it to the next, one above all to the last bucket", () => {
  for (const [i, bound] of LATENCY_BOUNDS_SEC.entries()) {
    expect(latencyBucket(bound)).toBe(i);
    expect(latencyBucket(bound * 1.0001)).toBe(i + 1);
  }
  expect(latencyBucket(0)).toBe(0);
  expect(latencyBucket(-1)).toBe(0);
  expect(latencyBucket(1e9)).toBe(LATENCY_BUCKETS - 1);
});

test("a histogram counts each latency once, and sums them up", () => {
  const histogram = new LatencyHistogram();
  for (const seconds of [0.0001, 0.0005, 0.003, 31]) histogram.observe(seconds);
  const { count, sumSec, buckets } = histogram.stats;
  expect(count).toBe(4);
  expect(sumSec).toBeCloseTo(31.0036, 9);
  expect(buckets.map((value, i) => [i, value]).filter(([, value]) => value !== 0)).toEqual([
    [0, 2],
    [3, 1],
    [LATENCY_BUCKETS - 1, 1],
  ]);
  const twice = addLatencies(histogram.stats, histogram.stats);
  expect(twice.count).toBe(8);
  expect(twice.sumSec).toBeCloseTo(62.0072, 9);
  expect(twice.buckets[0]).toBe(4);
});
