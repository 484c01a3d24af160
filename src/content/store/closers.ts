/** What is to be closed, the last opened first: an AsyncDisposableStack for runtimes that have none (Node 20). */
export class Closers implements AsyncDisposable {
  #closers: (() => PromiseLike<void> | void)[] = [];

  /** Has something closed with the rest. @returns it */
  use<T extends AsyncDisposable | Disposable>(resource: T): T {
    this.defer(() =>
      Symbol.asyncDispose in resource ? resource[Symbol.asyncDispose]() : (resource as Disposable)[Symbol.dispose](),
    );
    return resource;
  }

  /** Has `close` called with the rest. */
  defer(close: () => PromiseLike<void> | void): void {
    this.#closers.push(close);
  }

  /** All of it in a stack of its own: disposing this one closes nothing any more. */
  move(): Closers {
    const moved = new Closers();
    moved.#closers = this.#closers;
    this.#closers = [];
    return moved;
  }

  /** Closes everything, whatever fails. @throws the first failure */
  async [Symbol.asyncDispose](): Promise<void> {
    const failures: unknown[] = [];
    for (const close of this.#closers.splice(0).reverse()) {
      try {
        await close();
      } catch (error) {
        failures.push(error);
      }
    }
    if (failures.length > 0) throw failures[0];
  }
}
