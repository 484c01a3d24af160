/** For whom a fetch is: a reader that waits, a reader that may come there next, or nobody yet. */
export type FetchLane = "demand" | "ahead" | "prefetch";

/** Work of a {@link FetchQueue}; its `run` must not throw. */
export interface QueuedFetch {
  lane: FetchLane;
  /** Of what is read ahead: whose way it is on. */
  readonly line?: object | undefined;
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

/** Fetches that wait, in lines of which the one that was added to last goes first. */
class WaitingLines {
  readonly #lines: { readonly line: object | undefined; readonly fetches: QueuedFetch[] }[] = [];

  add(fetch: QueuedFetch, line: object | undefined): void {
    const at = this.#lines.findIndex((known) => known.line === line);
    const [known] = at < 0 ? [] : this.#lines.splice(at, 1);
    const moved = known ?? { line, fetches: [] };
    moved.fetches.push(fetch);
    this.#lines.push(moved);
  }

  remove(fetch: QueuedFetch): boolean {
    for (const { fetches } of this.#lines) {
      const at = fetches.indexOf(fetch);
      if (at >= 0) return fetches.splice(at, 1).length > 0;
    }
    return false;
  }

  next(): QueuedFetch | undefined {
    for (;;) {
      const last = this.#lines.at(-1);
      const fetch = last?.fetches.shift();
      if (last === undefined || fetch !== undefined) return fetch;
      this.#lines.pop();
    }
  }
}

/** Runs fetches, a reader's before what is read ahead, and that before a prefetch; at most so many at once. */
export class FetchQueue {
  readonly #waiting = { demand: new WaitingLines(), ahead: new WaitingLines(), prefetch: new WaitingLines() };
  readonly #running: Record<FetchLane, number> = { demand: 0, ahead: 0, prefetch: 0 };

  add(fetch: QueuedFetch): void {
    this.#waiting[fetch.lane].add(fetch, fetch.lane === "ahead" ? fetch.line : undefined);
    this.#pump();
  }

  /** Makes a fetch a reader's: one waits for it now. */
  promote(fetch: QueuedFetch): void {
    if (fetch.lane === "demand") return;
    const isWaiting = this.#waiting[fetch.lane].remove(fetch);
    fetch.lane = "demand";
    if (isWaiting) this.add(fetch);
  }

  #pump(): void {
    for (let fetch = this.#next(); fetch !== undefined; fetch = this.#next()) void this.#run(fetch);
  }

  #next(): QueuedFetch | undefined {
    const { demand, ahead, prefetch } = this.#running;
    if (demand + ahead + prefetch >= QUEUE_LIMITS.total) return undefined;
    const first = this.#waiting.demand.next();
    if (first !== undefined || ahead + prefetch >= QUEUE_LIMITS.background) return first;
    const second = this.#waiting.ahead.next();
    const isBusy = demand + ahead > 0;
    if (second !== undefined || (isBusy && prefetch >= QUEUE_LIMITS.prefetchBesideReaders)) return second;
    return this.#waiting.prefetch.next();
  }

  async #run(fetch: QueuedFetch): Promise<void> {
    const { lane } = fetch; // it may be promoted while it runs
    this.#running[lane]++;
    await fetch.run();
    this.#running[lane]--;
    this.#pump();
  }
}
