/** Events that wait for data at once; more wait in the kernel's queue. Each holds a descriptor. */
export const MAX_SLOTS = 1024;

const FREE = 0;
const BUSY = -1;

/**
 * Events in hand, in memory that threads share: whoever claims one answers it, nobody else. A descriptor's number is
 * soon another event's, so an answer that comes twice would let that one through.
 */
export class EventSlots {
  readonly memory: Int32Array<SharedArrayBuffer>;
  #generation = 0;
  #cursor = 0;

  /** @param memory of {@link makeSlots} */
  constructor(memory: Int32Array<SharedArrayBuffer>) {
    this.memory = memory;
  }

  /** How many slots are free, counted up to `limit`; the one thread that takes slots can rely on so many. */
  countFree(limit: number): number {
    const { length } = this.memory;
    let free = 0;
    for (let tried = 0; tried < length && free < limit; tried++) {
      if (Atomics.load(this.memory, (this.#cursor + tried) % length) === FREE) free++;
    }
    return free;
  }

  /** Takes a slot; only one thread does. @returns undefined when all are taken */
  take(): SlotTicket | undefined {
    for (let tried = 0; tried < this.memory.length; tried++) {
      const slot = this.#cursor;
      this.#cursor = (slot + 1) % this.memory.length;
      if (Atomics.load(this.memory, slot) !== FREE) continue;
      this.#generation = (this.#generation % 0x7fff_ffff) + 1;
      Atomics.store(this.memory, slot, this.#generation);
      return { slot, generation: this.#generation };
    }
    return undefined;
  }

  /** Whether nobody has claimed it yet. */
  isPending({ slot, generation }: SlotTicket): boolean {
    return Atomics.load(this.memory, slot) === generation;
  }

  /** @returns whether the caller is the one that answers; it then calls {@link free} */
  claim({ slot, generation }: SlotTicket): boolean {
    return Atomics.compareExchange(this.memory, slot, generation, BUSY) === generation;
  }

  /** Call when the event is answered and its descriptor closed. */
  free({ slot }: SlotTicket): void {
    Atomics.store(this.memory, slot, FREE);
  }
}

/** Names an event in hand. */
export interface SlotTicket {
  readonly slot: number;
  readonly generation: number;
}

/** Memory for {@link EventSlots}. */
export function makeSlots(count: number): Int32Array<SharedArrayBuffer> {
  return new Int32Array(new SharedArrayBuffer(count * Int32Array.BYTES_PER_ELEMENT));
}
