import { NydusError } from "./errors.ts";

/**
 * Maps items with at most `limit` calls at once and yields results in the order of the items.
 * Stops pulling at the first error; calls under way are awaited before the error leaves.
 */
export async function* mapBounded<In, Out>(
  limit: number,
  items: AsyncIterable<In> | Iterable<In>,
  fn: (item: In) => Promise<Out>,
): AsyncGenerator<Out> {
  const running: Promise<Out>[] = [];
  try {
    for await (const item of items) {
      const call = fn(item);
      call.catch(() => undefined); // awaited in order below; until then it must not count as unhandled
      running.push(call);
      if (running.length >= limit) yield await (running.shift() as Promise<Out>);
    }
    while (running.length > 0) yield await (running.shift() as Promise<Out>);
  } finally {
    await Promise.allSettled(running);
  }
}

/** Runs `fn` for each item, at most `limit` at once; the first error wins, after those under way have ended. */
export async function forEachBounded<In>(
  limit: number,
  items: AsyncIterable<In> | Iterable<In>,
  fn: (item: In) => Promise<void>,
): Promise<void> {
  for await (const _ of mapBounded(limit, items, fn)) {
    // results carry nothing
  }
}

/** One call at a time for each key: later callers get the first one's promise, success or failure. */
export class SingleFlight<Key, Value> {
  readonly #flights = new Map<Key, Promise<Value>>();

  /** The flight of `key`, started by `fn` unless one is under way. */
  run(key: Key, fn: () => Promise<Value>): Promise<Value> {
    const flight = this.#flights.get(key);
    if (flight !== undefined) return flight;
    const started = fn().finally(() => this.#flights.delete(key));
    started.catch(() => undefined); // every caller awaits it; none being there is not a crash
    this.#flights.set(key, started);
    return started;
  }
}

/** At most `limit` holders at once, first come first served. */
export class Semaphore {
  #free: number;
  readonly #waiting: (() => void)[] = [];

  constructor(limit: number) {
    this.#free = limit;
  }

  /** Runs `fn` while holding one of the places. */
  async hold<T>(fn: () => Promise<T>): Promise<T> {
    if (this.#free > 0) this.#free--;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
    try {
      return await fn();
    } finally {
      const next = this.#waiting.shift();
      if (next === undefined) this.#free++;
      else next();
    }
  }
}

/**
 * Ends `work` with ETIMEDOUT after `timeoutMs`, aborting the signal it was given.
 * @param what the action, for the message: "Cannot <what>: no answer within …"
 */
export async function withDeadline<T>(
  timeoutMs: number,
  what: string,
  work: (signal: AbortSignal) => Promise<T>,
  outer?: AbortSignal,
): Promise<T> {
  const controller = new AbortController();
  const abort = (): void => controller.abort(outer?.reason);
  outer?.addEventListener("abort", abort, { once: true });
  if (outer?.aborted) abort();
  let timer: ReturnType<typeof setTimeout> | undefined;
  const timeout = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      const error = new NydusError("ETIMEDOUT", `Cannot ${what}: no answer within ${timeoutMs} ms`);
      reject(error);
      controller.abort(error);
    }, timeoutMs);
  });
  try {
    return await Promise.race([work(controller.signal), timeout]);
  } finally {
    clearTimeout(timer);
    outer?.removeEventListener("abort", abort);
  }
}

/** Waits for `work`, but no longer. @returns whether it has ended by then @throws what it throws by then */
export async function endsWithin(timeoutMs: number, work: Promise<unknown>): Promise<boolean> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<boolean>((resolve) => {
    timer = setTimeout(() => resolve(false), timeoutMs);
  });
  try {
    return await Promise.race([work.then(() => true), late]);
  } finally {
    clearTimeout(timer);
  }
}
