import type { SessionStats } from "./engine.ts";

const FIELDS = ["requests", "errors", "readyReads", "waitingReads", "readBytes", "readySec", "waitingSec"] as const;

/** What can be counted. */
export type CounterField = (typeof FIELDS)[number];

const COLUMNS = Object.fromEntries(FIELDS.map((field, column) => [field, column])) as Record<CounterField, number>;

/** Counters of a mount in shared memory: each thread has a row of its own, so that no two write the same number. */
export type CounterMemory = Float64Array<SharedArrayBuffer>;

/** Memory for so many threads and the main one, which has the last row. */
export function makeCounters(threads: number): CounterMemory {
  return new Float64Array(new SharedArrayBuffer((threads + 1) * FIELDS.length * Float64Array.BYTES_PER_ELEMENT));
}

/** Adds up one thread's share. */
export class Counters {
  readonly #row: CounterMemory;

  constructor(memory: CounterMemory, thread: number) {
    this.#row = memory.subarray(thread * FIELDS.length, (thread + 1) * FIELDS.length);
  }

  add(field: CounterField, value: number): void {
    const at = COLUMNS[field];
    this.#row[at] = (this.#row[at] as number) + value;
  }
}

/** The sum over all threads. */
export function sumCounters(memory: CounterMemory): SessionStats {
  const sums = FIELDS.map((_, field) => {
    let sum = 0;
    for (let at = field; at < memory.length; at += FIELDS.length) sum += memory[at] as number;
    return sum;
  });
  return Object.fromEntries(FIELDS.map((field, i) => [field, sums[i] ?? 0])) as Record<CounterField, number>;
}

/** The sum of several mounts. */
export function sumStats(all: readonly SessionStats[]): SessionStats {
  return Object.fromEntries(
    FIELDS.map((field) => [field, all.reduce((sum, stats) => sum + stats[field], 0)]),
  ) as Record<CounterField, number>;
}
