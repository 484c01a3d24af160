/** What stops, goes on with and ends the sender of a body. */
export interface BodyControl {
  pause(): void;
  resume(): void;
  abort(reason: Error): void;
}

/** Bytes that may wait for their reader before the sender is stopped, and with how many it goes on. */
const HIGH_WATER_BYTES = 1 << 20;
const LOW_WATER_BYTES = 256 << 10;

/** Its error means that whoever reads has had enough. */
class BodyDropped extends Error {
  override readonly name = "BodyDropped";
}

/** The body of one answer on its way from the connection to one reader: piece by piece, or straight into a buffer. */
export class BodyPipe {
  readonly #control: BodyControl;
  readonly #queue: Uint8Array[] = [];
  #queuedBytes = 0;
  #paused = false;
  #ended = false;
  #error: unknown;
  #wake: (() => void) | undefined;
  #target: Uint8Array | undefined;
  #targetAt = 0;

  constructor(control: BodyControl) {
    this.#control = control;
  }

  /** From the connection: the pipe keeps `piece`. */
  push(piece: Uint8Array): void {
    if (this.#ended) return;
    if (this.#target !== undefined) {
      this.#fill(this.#target, piece);
      return;
    }
    this.#queue.push(piece);
    this.#queuedBytes += piece.length;
    if (!this.#paused && this.#queuedBytes >= HIGH_WATER_BYTES) {
      this.#paused = true;
      this.#control.pause();
    }
    this.#notify();
  }

  /** From the connection: that was all, or, with an error, all that there will be. */
  end(error?: unknown): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#error = error;
    this.#notify();
  }

  /** The next piece, or undefined at the end. @throws what the connection ended with */
  async next(): Promise<Uint8Array | undefined> {
    while (this.#queue.length === 0 && !this.#ended) await this.#news();
    const piece = this.#queue.shift();
    if (piece === undefined) {
      if (this.#error !== undefined) throw this.#error;
      return undefined;
    }
    this.#queuedBytes -= piece.length;
    this.#relieve();
    return piece;
  }

  /**
   * Writes the rest of the body into `target`, without queueing it.
   * @returns how many bytes came; more than `target` holds means that there are more, which are dropped
   * @throws what the connection ended with
   */
  async readInto(target: Uint8Array): Promise<number> {
    this.#target = target;
    for (const piece of this.#queue.splice(0)) this.#fill(target, piece);
    this.#queuedBytes = 0;
    this.#relieve();
    while (!this.#ended) await this.#news();
    this.#target = undefined;
    if (this.#targetAt <= target.length && this.#error !== undefined) throw this.#error;
    return this.#targetAt;
  }

  #fill(target: Uint8Array, piece: Uint8Array): void {
    const room = target.length - this.#targetAt;
    if (room >= piece.length) target.set(piece, this.#targetAt);
    else if (room > 0) target.set(piece.subarray(0, room), this.#targetAt);
    this.#targetAt += piece.length;
    if (this.#targetAt > target.length) this.drop();
  }

  /** Ends the connection unless the body has ended. */
  drop(): void {
    this.#queue.length = 0;
    if (this.#ended) return;
    const dropped = new BodyDropped("the rest of the body is not wanted");
    this.end(dropped);
    this.#control.abort(dropped);
  }

  /** Reads to the end so that the connection can be used again, within limits; then drops. */
  async discard(limits: { readonly bytes: number; readonly timeoutMs: number }): Promise<void> {
    const timer = setTimeout(() => this.drop(), limits.timeoutMs);
    try {
      for (let read = 0; read <= limits.bytes; ) {
        const piece = await this.next();
        if (piece === undefined) return;
        read += piece.length;
      }
    } catch {
      // what breaks while nobody reads is nobody's failure
    } finally {
      clearTimeout(timer);
      this.drop();
    }
  }

  #relieve(): void {
    if (!this.#paused || this.#queuedBytes > LOW_WATER_BYTES) return;
    this.#paused = false;
    if (!this.#ended) this.#control.resume();
  }

  #news(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }

  #notify(): void {
    const wake = this.#wake;
    this.#wake = undefined;
    wake?.();
  }
}
