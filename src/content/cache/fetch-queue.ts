import type { ReadPurpose } from "../store/source.ts";

/** Work of a {@link FetchQueue}; its `run` must not throw. */
export interface QueuedFetch {
  why: ReadPurpose;
  run(): Promise<void>;
}

/** Fetches under way at once, and how many of them may be prefetches: room is left for a reader that comes. */
export const QUEUE_LIMITS = { total: 8, prefetch: 4 } as const;

/** Runs fetches, a reader's before a prefetch, at most so many at once. */
export class FetchQueue {
  readonly #waiting: Record<ReadPurpose, QueuedFetch[]> = { demand: [], prefetch: [] };
  #running = 0;
  #prefetching = 0;

  add(fetch: QueuedFetch): void {
    this.#waiting[fetch.why].push(fetch);
    this.#pump();
  }

  /** Makes a waiting prefetch a reader's: one waits for it now. */
  promote(fetch: QueuedFetch): void {
    const at = this.#waiting.prefetch.indexOf(fetch);
    if (at < 0) return;
    this.#waiting.prefetch.splice(at, 1);
    fetch.why = "demand";
    this.add(fetch);
  }

  #pump(): void {
    while (this.#running < QUEUE_LIMITS.total) {
      const fetch =
        this.#waiting.demand.shift() ??
        (this.#prefetching < QUEUE_LIMITS.prefetch ? this.#waiting.prefetch.shift() : undefined);
      if (fetch === undefined) return;
      void this.#run(fetch);
    }
  }

  async #run(fetch: QueuedFetch): Promise<void> {
    const isPrefetch = fetch.why === "prefetch";
    this.#running++;
    if (isPrefetch) this.#prefetching++;
    await fetch.run();
    this.#running--;
    if (isPrefetch) this.#prefetching--;
    this.#pump();
  }
}
