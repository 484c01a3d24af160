import type { ByteRange } from "../../base/bytes.ts";

/** Limits of reading more than was asked for, device bytes. */
export const AHEAD_LIMITS = {
  /** A miss brings the window that it lies in: windows are as long, and begin at multiples of it. */
  windowBytes: 1 << 20,
  /** A miss that continues the one before brings what follows: so much, and twice as much each time. */
  firstBytes: 2 << 20,
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
  /** 0 for the first miss. */
  readonly aheadBytes: number;
}

/**
 * Tells readers that go through a device in its order, which get what follows, from those that jump, which get what
 * lies around: files of one directory lie near one another, in whatever order they are read.
 */
export class ReadAhead {
  /** The one that came last is the last. */
  readonly #readers: Reader[] = [];

  /** What to read beside a miss, which it holds. */
  around(miss: ByteRange): ByteRange {
    const { windowBytes, firstBytes, mostBytes, gapBytes, readers } = AHEAD_LIMITS;
    const at = this.#readers.findIndex(({ start, end }) => miss.start >= start && miss.start <= end + gapBytes);
    const [before] = at < 0 ? [] : this.#readers.splice(at, 1);
    const aheadBytes = before === undefined ? 0 : Math.min(mostBytes, Math.max(firstBytes, before.aheadBytes * 2));
    const windowEnd = Math.ceil(miss.end / windowBytes) * windowBytes;
    const end = before === undefined ? windowEnd : Math.max(before.end, miss.end + aheadBytes);
    this.#readers.push({ start: miss.start, end, aheadBytes });
    if (this.#readers.length > readers) this.#readers.shift();
    const start = before === undefined ? Math.floor(miss.start / windowBytes) * windowBytes : miss.start;
    return { start, end };
  }
}
