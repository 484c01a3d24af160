/** One at a time for each key, first come first served; different keys do not wait for each other. */
export class KeyLock<Key> {
  readonly #last = new Map<Key, Promise<unknown>>();

  /** Runs `fn` once all earlier ones of `key` have ended. */
  async run<T>(key: Key, fn: () => Promise<T>): Promise<T> {
    const before = this.#last.get(key);
    const mine = before === undefined ? fn() : before.then(fn);
    const settled = mine.then(
      () => undefined,
      () => undefined,
    );
    this.#last.set(key, settled);
    try {
      return await mine;
    } finally {
      if (this.#last.get(key) === settled) this.#last.delete(key);
    }
  }

  /** Waits until nothing runs. */
  async idle(): Promise<void> {
    while (this.#last.size > 0) await Promise.all(this.#last.values());
  }
}
