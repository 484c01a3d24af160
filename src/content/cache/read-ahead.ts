import type { ByteRange } from "../../base/bytes.ts";

/** Limits of reading more than was asked for; chosen by measuring, see this folder's README. */
export const AHEAD_LIMITS = {
  /** A unit of at most so many bytes in the blob is small: mostly a small file, among others of its directory. */
  smallBytes: 64 << 10,
  /**
   * A miss of small units brings the small ones that lie without a break around it in this window, by the same
   * request; windows begin at multiples of their length.
   */
  smallWindowBytes: 256 << 10,
  /**
   * Behind its request come other small units of a wider window, the nearest first, up to so many bytes of the blob;
   * more where readers have missed before in the same window of `againBytes`.
   */
  first: { windowBytes: 1 << 20, blobBytes: 128 << 10 },
  again: { windowBytes: 2 << 20, blobBytes: 512 << 10 },
  againBytes: 2 << 20,
  /** A miss of others brings what lies in this window, of any size, by requests behind its own. */
  windowBytes: 256 << 10,
  /** A miss so near behind what was read ahead of the one before, in device bytes, continues it. */
  gapBytes: 128 << 10,
  /** From some miss on that continues, what follows is brought: so much at first, then `times` as much each time. */
  remote: { misses: 2, firstBytes: 1 << 20, times: 2, mostBytes: 8 << 20 },
  /** The same where nothing is fetched, only read from a local file and decoded. */
  local: { misses: 1, firstBytes: 4 << 20, times: 4, mostBytes: 128 << 20 },
  /** Readers that are told apart. */
  readers: 8,
} as const;

/** One that reads a device. */
interface Reader {
  /** Of the last miss. */
  start: number;
  /** Of what has been read ahead. */
  end: number;
  /** Misses that continued the first one. */
  continued: number;
}

/** Where small units may be brought from behind the others. */
export interface WiderRange extends ByteRange {
  readonly blobBytes: number;
}

/** What to read beside a miss. */
export interface AheadRange extends ByteRange {
  /** Whether only small units are meant, those that lie around the miss without a break. */
  readonly onlySmall: boolean;
  /** Where to look for more small units, and how many bytes of the blob they may have. */
  readonly wider?: WiderRange | undefined;
  /** Who reads; the same object for misses that continue one another. */
  readonly reader: object;
}

/** A miss. */
export interface Miss {
  /** In the device. */
  readonly range: ByteRange;
  /** Of its largest unit in the blob. */
  readonly unitBytes: number;
  /** Whether the blob lies in a local file. */
  readonly isLocal: boolean;
}

/**
 * Tells readers that go through a device in its order, which get what follows, from those that jump, which get what
 * lies around: files of one directory lie near one another, in whatever order they are read.
 */
export class ReadAhead {
  /** The one that came last is the last. */
  readonly #readers: Reader[] = [];
  /** By window of `againBytes`: misses of small units. */
  readonly #misses = new Map<number, number>();

  around(miss: Miss): AheadRange {
    const { range } = miss;
    const reader = this.#readerAt(range.start);
    const { local, remote } = AHEAD_LIMITS;
    const growth = miss.isLocal ? local : remote;
    const times = reader.continued - growth.misses;
    const beside = times < 0 ? this.#windowOf(miss) : behind(range, times, growth);
    // What was brought for earlier misses of a reader that goes on need not be looked at again.
    const start = times > 0 ? Math.max(range.start, Math.min(reader.end, beside.end)) : beside.start;
    const end = Math.max(reader.end, beside.end);
    reader.start = range.start;
    reader.end = end;
    return { ...beside, start, end, reader };
  }

  #windowOf({ range, unitBytes }: Miss): Beside {
    const { smallBytes, smallWindowBytes, windowBytes, again, againBytes, first } = AHEAD_LIMITS;
    if (unitBytes > smallBytes) return { ...widen(range, windowBytes), onlySmall: false };
    const place = Math.floor(range.start / againBytes);
    const misses = this.#misses.get(place) ?? 0;
    this.#misses.set(place, misses + 1);
    const wide = misses === 0 ? first : again;
    const wider = { ...widen(range, wide.windowBytes), blobBytes: wide.blobBytes };
    const { start, end } = widen(range, smallWindowBytes);
    // Who goes on behind the nearer part of the wider window is the same reader.
    return { start, end: Math.max(end, range.end + wide.windowBytes / 4), onlySmall: true, wider };
  }

  /** The reader that goes on at a place, or a new one. */
  #readerAt(place: number): Reader {
    const { gapBytes, readers } = AHEAD_LIMITS;
    const at = this.#readers.findIndex(({ start, end }) => place >= start && place <= end + gapBytes);
    const [known] = at < 0 ? [] : this.#readers.splice(at, 1);
    const reader = known ?? { start: place, end: 0, continued: -1 };
    reader.continued++;
    this.#readers.push(reader);
    if (this.#readers.length > readers) this.#readers.shift();
    return reader;
  }
}

type Beside = Omit<AheadRange, "reader">;
type Growth = (typeof AHEAD_LIMITS)["local" | "remote"];

/** From and to multiples of a length. */
function widen({ start, end }: ByteRange, bytes: number): ByteRange {
  return { start: Math.floor(start / bytes) * bytes, end: Math.ceil(end / bytes) * bytes };
}

function behind(range: ByteRange, misses: number, { firstBytes, mostBytes, times }: Growth): Beside {
  const bytes = Math.min(mostBytes, firstBytes * times ** Math.min(30, misses));
  return { start: range.start, end: range.end + bytes, onlySmall: false };
}
