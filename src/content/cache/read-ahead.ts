import type { ByteRange } from "../../base/bytes.ts";

/** Limits of reading ahead, device bytes. */
export const AHEAD_LIMITS = {
  /** What is read ahead of a miss; doubled with each miss that continues the one before. */
  firstBytes: 1 << 20,
  mostBytes: 8 << 20,
  /** A miss so near behind what has been read ahead continues it. */
  gapBytes: 256 << 10,
  /** Readers that are told apart. */
  readers: 8,
} as const;

interface Reader {
  /** Of the last miss. */
  readonly start: number;
  /** Of what has been read ahead. */
  readonly end: number;
  readonly aheadBytes: number;
}

/** Tells readers that go through a device in its order from those that jump: the first get more read ahead. */
export class ReadAhead {
  /** The one that came last is the last. */
  readonly #readers: Reader[] = [];

  /** What to read ahead of a miss: a range behind it. */
  behind(miss: ByteRange): ByteRange {
    const at = this.#readers.findIndex(
      ({ start, end }) => miss.start >= start && miss.start <= end + AHEAD_LIMITS.gapBytes,
    );
    const [before] = at < 0 ? [] : this.#readers.splice(at, 1);
    const aheadBytes =
      before === undefined ? AHEAD_LIMITS.firstBytes : Math.min(AHEAD_LIMITS.mostBytes, before.aheadBytes * 2);
    const end = Math.max(before?.end ?? 0, miss.end + aheadBytes);
    this.#readers.push({ start: miss.start, end, aheadBytes });
    if (this.#readers.length > AHEAD_LIMITS.readers) this.#readers.shift();
    return { start: miss.end, end };
  }
}
