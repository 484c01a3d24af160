import type { ByteRange } from "../../base/bytes.ts";

/** Limits of reading more than was asked for; chosen by measuring, see this folder's README. */
export const AHEAD_LIMITS = {
  /** A unit of at most so many bytes in the blob is small: mostly a small file, among others of its directory. */
  smallBytes: 64 << 10,
  /**
   * A miss of small units brings the small ones that lie without a break around it in this window, by the same
   * request; windows begin at multiples of their length.
   */
  smallWindowBytes: 1 << 20,
  /** A miss of others brings what lies in this window, of any size, by requests behind its own. */
  windowBytes: 512 << 10,
  /** A miss so near behind what was read ahead of the one before, in device bytes, continues it. */
  gapBytes: 128 << 10,
  /** The second miss that continues, and those after it, bring what follows: so much, and twice as much each time. */
  firstBytes: 1 << 20,
  mostBytes: 8 << 20,
  /** Readers that are told apart. */
  readers: 8,
} as const;

interface Reader {
  /** Of the last miss. */
  readonly start: number;
  /** Of what has been read ahead. */
  readonly end: number;
  /** Misses that continued the first one. */
  readonly continued: number;
}

/** What to read beside a miss. */
export interface AheadRange extends ByteRange {
  /** Whether only small units are meant, those that lie around the miss without a break. */
  readonly onlySmall: boolean;
}

/**
 * Tells readers that go through a device in its order, which get what follows, from those that jump, which get what
 * lies around: files of one directory lie near one another, in whatever order they are read.
 */
export class ReadAhead {
  /** The one that came last is the last. */
  readonly #readers: Reader[] = [];

  /** @param miss in the device @param unitBytes of its largest unit in the blob */
  around(miss: ByteRange, unitBytes: number): AheadRange {
    const { gapBytes, readers } = AHEAD_LIMITS;
    const at = this.#readers.findIndex(({ start, end }) => miss.start >= start && miss.start <= end + gapBytes);
    const [before] = at < 0 ? [] : this.#readers.splice(at, 1);
    const continued = before === undefined ? 0 : before.continued + 1;
    const range = continued < 2 ? windowOf(miss, unitBytes) : behind(miss, continued);
    const end = Math.max(before?.end ?? 0, range.end);
    this.#readers.push({ start: miss.start, end, continued });
    if (this.#readers.length > readers) this.#readers.shift();
    return { ...range, end };
  }
}

function windowOf(miss: ByteRange, unitBytes: number): AheadRange {
  const isSmall = unitBytes <= AHEAD_LIMITS.smallBytes;
  const bytes = isSmall ? AHEAD_LIMITS.smallWindowBytes : AHEAD_LIMITS.windowBytes;
  return {
    start: Math.floor(miss.start / bytes) * bytes,
    end: Math.ceil(miss.end / bytes) * bytes,
    onlySmall: isSmall,
  };
}

function behind(miss: ByteRange, continued: number): AheadRange {
  const { firstBytes, mostBytes } = AHEAD_LIMITS;
  const bytes = Math.min(mostBytes, firstBytes * 2 ** Math.min(30, continued - 2));
  return { start: miss.start, end: miss.end + bytes, onlySmall: false };
}
