/** Upper bounds of the buckets of latencies, seconds; what is longer than the last falls in one more. */
export const LATENCY_BOUNDS_SEC = [
  0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30,
] as const;

/** Buckets of a latency: one a bound, and one for what is longer than all. */
export const LATENCY_BUCKETS = LATENCY_BOUNDS_SEC.length + 1;

/** The bucket of a latency: the first whose bound is not below it. @param seconds below 0 counts as 0 */
export function latencyBucket(seconds: number): number {
  let i = 0;
  while (i < LATENCY_BOUNDS_SEC.length && seconds > (LATENCY_BOUNDS_SEC[i] as number)) i++;
  return i;
}

/** Latencies that were counted. */
export interface LatencyStats {
  readonly count: number;
  /** Of all of them, seconds. */
  readonly sumSec: number;
  /** How many fell in each bucket of {@link LATENCY_BOUNDS_SEC}, and behind the last; not cumulative. */
  readonly buckets: readonly number[];
}

/** Counts latencies by how long they are. */
export class LatencyHistogram {
  readonly #buckets = new Float64Array(LATENCY_BUCKETS);
  #sumSec = 0;

  observe(seconds: number): void {
    const i = latencyBucket(seconds);
    this.#buckets[i] = (this.#buckets[i] as number) + 1;
    this.#sumSec += seconds;
  }

  get stats(): LatencyStats {
    return latencyStats(this.#buckets, this.#sumSec);
  }
}

/** The latencies of two counts. */
export function addLatencies(a: LatencyStats, b: LatencyStats): LatencyStats {
  return latencyStats(
    a.buckets.map((count, i) => count + (b.buckets[i] ?? 0)),
    a.sumSec + b.sumSec,
  );
}

/** What some buckets say. */
export function latencyStats(buckets: ArrayLike<number>, sumSec: number): LatencyStats {
  const counts = Array.from(buckets);
  return { count: counts.reduce((sum, count) => sum + count, 0), sumSec, buckets: counts };
}
