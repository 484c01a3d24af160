/** A seeded source of numbers (mulberry32): the same seed gives the same cases everywhere. */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** 0 to 2^32-1. */
  word(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let mixed = this.#state;
    mixed = Math.imul(mixed ^ (mixed >>> 15), mixed | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return (mixed ^ (mixed >>> 14)) >>> 0;
  }

  /** An integer from 0 to `limit` - 1. */
  below(limit: number): number {
    return Math.floor((this.word() / 2 ** 32) * limit);
  }

  /** An integer from `least` to `most`. */
  between(least: number, most: number): number {
    return least + this.below(most - least + 1);
  }

  /** True with the given probability. */
  chance(probability: number): boolean {
    return this.word() / 2 ** 32 < probability;
  }

  pick<T>(items: readonly T[]): T {
    if (items.length === 0) throw new Error("nothing to pick from");
    return items[this.below(items.length)] as T;
  }

  bytes(length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    for (let i = 0; i < length; i++) bytes[i] = this.word() & 0xff;
    return bytes;
  }
}

/**
 * A copy of `bytes` with a few random faults: bits flipped, bytes replaced, stretches removed, repeated, zeroed, or the
 * end cut off. For tests whose decoders may only throw on purpose.
 */
export function mutate(bytes: Uint8Array, random: Random): Uint8Array {
  let mutated: Uint8Array = new Uint8Array(bytes); // a copy, also of a Buffer, whose slice() is none
  for (let faults = random.between(1, 4); faults > 0 && mutated.length > 0; faults--) {
    mutated = random.pick(FAULTS)(mutated, random);
  }
  return mutated;
}

type Fault = (bytes: Uint8Array, random: Random) => Uint8Array;

const FAULTS: readonly Fault[] = [
  (bytes, random) => {
    const at = random.below(bytes.length);
    bytes[at] = (bytes[at] as number) ^ (1 << random.below(8));
    return bytes;
  },
  (bytes, random) => {
    bytes[random.below(bytes.length)] = random.pick([
      0,
      1,
      0x2f,
      0x30,
      0x37,
      0x39,
      0x7f,
      0x80,
      0xff,
      random.below(256),
    ]);
    return bytes;
  },
  (bytes, random) => bytes.slice(0, random.below(bytes.length + 1)),
  (bytes, random) => {
    const [start, end] = stretch(bytes, random);
    return Uint8Array.from([...bytes.subarray(0, start), ...bytes.subarray(end)]);
  },
  (bytes, random) => {
    const [start, end] = stretch(bytes, random);
    return Uint8Array.from([...bytes.subarray(0, end), ...bytes.subarray(start)]);
  },
  (bytes, random) => {
    const [start, end] = stretch(bytes, random);
    return bytes.fill(random.pick([0, 0xff, 0x37]), start, end);
  },
];

function stretch(bytes: Uint8Array, random: Random): [start: number, end: number] {
  const start = random.below(bytes.length);
  return [start, Math.min(bytes.length, start + random.between(1, random.pick([2, 8, 64, 512])))];
}
