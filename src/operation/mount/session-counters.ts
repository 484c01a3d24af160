import { asNydusError } from "../../base/errors.ts";
import { LATENCY_BUCKETS, latencyBucket } from "../../base/histogram.ts";
import { type ErrorKind, errorKindOf } from "../../content/cache/fetch-meter.ts";
import type { SessionStats } from "./engine.ts";

const FIELDS = [
  "requests",
  "errors",
  "readyReads",
  "waitingReads",
  "readBytes",
  "readySec",
  "waitingSec",
  "waitingNow",
  "fetchErrors",
  "digestErrors",
  "decodeErrors",
  "deadlineErrors",
  "noSpaceErrors",
] as const satisfies readonly (keyof SessionStats)[];

/** What can be counted. */
export type CounterField = (typeof FIELDS)[number];

const COLUMNS = Object.fromEntries(FIELDS.map((field, column) => [field, column])) as Record<CounterField, number>;
/** Behind the fields a row has the buckets of the time that reads waited. */
const ROW = FIELDS.length + LATENCY_BUCKETS;

/** Where errors of a kind are counted; those of other kinds only as errors. */
export const ERROR_FIELDS = {
  fetch: "fetchErrors",
  digest: "digestErrors",
  decode: "decodeErrors",
  deadline: "deadlineErrors",
  no_space: "noSpaceErrors",
  other: undefined,
} as const satisfies Record<ErrorKind, CounterField | undefined>;

/** Counters of a mount in shared memory: each thread has a row of its own, so that no two write the same number. */
export type CounterMemory = Float64Array<SharedArrayBuffer>;

/** Memory for so many threads and the main one, which has the last row. */
export function makeCounters(threads: number): CounterMemory {
  return new Float64Array(new SharedArrayBuffer((threads + 1) * ROW * Float64Array.BYTES_PER_ELEMENT));
}

/** Adds up one thread's share. */
export class Counters {
  readonly #row: CounterMemory;

  constructor(memory: CounterMemory, thread: number) {
    this.#row = memory.subarray(thread * ROW, (thread + 1) * ROW);
  }

  add(field: CounterField, value: number): void {
    this.#add(COLUMNS[field], value);
  }

  /** A read begins to wait for data. @returns to be called with how it ended: the bytes read, or why none */
  startWaiting(): (result: number | Error) => void {
    const start = performance.now();
    this.add("waitingNow", 1);
    return (result) => {
      const seconds = (performance.now() - start) / 1000;
      this.add("waitingNow", -1);
      this.add("waitingReads", 1);
      this.add("waitingSec", seconds);
      this.#add(FIELDS.length + latencyBucket(seconds), 1);
      if (typeof result === "number") this.add("readBytes", result);
      else this.addError(result);
    };
  }

  addError(error: unknown): void {
    this.add("errors", 1);
    const field = ERROR_FIELDS[errorKindOf(asNydusError(error).code)];
    if (field !== undefined) this.add(field, 1);
  }

  #add(column: number, value: number): void {
    this.#row[column] = (this.#row[column] as number) + value;
  }
}

/** The sum over all threads. */
export function sumCounters(memory: CounterMemory): SessionStats {
  const sums = Array.from({ length: ROW }, (_, column) => {
    let sum = 0;
    for (let at = column; at < memory.length; at += ROW) sum += memory[at] as number;
    return sum;
  });
  return statsOf(sums);
}

/** The sum of several mounts. */
export function sumStats(all: readonly SessionStats[]): SessionStats {
  const rows = all.map(rowOf);
  return statsOf(Array.from({ length: ROW }, (_, column) => rows.reduce((sum, row) => sum + (row[column] ?? 0), 0)));
}

/** What has been counted since: reads that wait now are those of now. */
export function statsSince(now: SessionStats, before: SessionStats): SessionStats {
  const [row, start] = [rowOf(now), rowOf({ ...before, waitingNow: 0 })];
  return statsOf(row.map((value, column) => value - (start[column] ?? 0)));
}

/** What an ended mount has counted: nobody waits for it any more. */
export function endedStats(stats: SessionStats): SessionStats {
  return { ...stats, waitingNow: 0 };
}

function rowOf(stats: SessionStats): number[] {
  return [...FIELDS.map((field) => stats[field]), ...stats.waitBuckets];
}

function statsOf(row: readonly number[]): SessionStats {
  const fields = Object.fromEntries(FIELDS.map((field, i) => [field, row[i] ?? 0])) as Record<CounterField, number>;
  return { ...fields, waitBuckets: row.slice(FIELDS.length) };
}
