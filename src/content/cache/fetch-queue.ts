/** For whom a fetch is: a reader that waits, a reader that may come there next, or nobody yet. */
export type FetchLane = "demand" | "ahead" | "prefetch";

/** Work of a {@link FetchQueue}; its `run` must not throw. */
export interface QueuedFetch {
  lane: FetchLane;
  run(): Promise<void>;
}

/** Fetches under way at once. */
export const QUEUE_LIMITS = {
  total: 8,
  /** That no reader waits for: room is left for one that comes. */
  background: 4,
  /** Prefetches while something is fetched for readers. */
  prefetchBesideReaders: 1,
} as const;

/** Runs fetches, a reader's before what is read ahead, and that before a prefetch; at most so many at once. */
export class FetchQueue {
  readonly #waiting: Record<FetchLane, QueuedFetch[]> = { demand: [], ahead: [], prefetch: [] };
  readonly #running: Record<FetchLane, number> = { demand: 0, ahead: 0, prefetch: 0 };

  add(fetch: QueuedFetch): void {
    this.#waiting[fetch.lane].push(fetch);
    this.#pump();
  }

  /** Makes a fetch a reader's: one waits for it now. */
  promote(fetch: QueuedFetch): void {
    if (fetch.lane === "demand") return;
    const waiting = this.#waiting[fetch.lane];
    const at = waiting.indexOf(fetch);
    fetch.lane = "demand";
    if (at < 0) return;
    waiting.splice(at, 1);
    this.add(fetch);
  }

  #pump(): void {
    for (let fetch = this.#next(); fetch !== undefined; fetch = this.#next()) void this.#run(fetch);
  }

  #next(): QueuedFetch | undefined {
    const { demand, ahead, prefetch } = this.#running;
    if (demand + ahead + prefetch >= QUEUE_LIMITS.total) return undefined;
    const first = this.#waiting.demand.shift();
    if (first !== undefined || ahead + prefetch >= QUEUE_LIMITS.background) return first;
    const second = this.#waiting.ahead.shift();
    const isBusy = demand + ahead > 0;
    if (second !== undefined || (isBusy && prefetch >= QUEUE_LIMITS.prefetchBesideReaders)) return second;
    return this.#waiting.prefetch.shift();
  }

  async #run(fetch: QueuedFetch): Promise<void> {
    const { lane } = fetch; // it may be promoted while it runs
    this.#running[lane]++;
    await fetch.run();
    this.#running[lane]--;
    this.#pump();
  }
}
