import type { ChunkMap } from "../../format/rafs/chunk-map.ts";
import { type ChunkSpan, chunksOf } from "./chunk-range.ts";
import { FETCH_LIMITS } from "./fetch-plan.ts";
import { AHEAD_LIMITS, ReadAhead, type WiderRange } from "./read-ahead.ts";

/** What is fetched for a reader besides its own chunks. */
export interface Beside {
  /** By the same requests. */
  readonly along: readonly number[];
  /** By others, behind them. */
  readonly behind: readonly number[];
  /** Whose way they are on. */
  readonly reader?: object | undefined;
}

/** The chunks of a miss. */
interface Middle {
  readonly first: number;
  readonly last: number;
}

const NOTHING: Beside = { along: [], behind: [] };

/** Finds what a reader is likely to ask for next. */
export class Neighbours {
  readonly #chunks: ChunkMap;
  readonly #isWorthFetching: (chunk: number) => boolean;
  readonly #ahead = new ReadAhead();

  constructor(chunks: ChunkMap, isWorthFetching: (chunk: number) => boolean) {
    this.#chunks = chunks;
    this.#isWorthFetching = isWorthFetching;
  }

  /** @param missing chunks that a reader has asked for, ascending @param isLocal whether the blob lies in a local file */
  of(missing: readonly number[], isLocal: boolean): Beside {
    const [first, last] = [missing[0], missing.at(-1)];
    if (first === undefined || last === undefined) return NOTHING;
    const chunks = this.#chunks;
    const range = { start: chunks.deviceOffset(first), end: chunks.deviceOffset(last) + chunks.sizeBytes(last) };
    const unitBytes = missing.reduce((most, i) => Math.max(most, chunks.blobSizeBytes(i)), 0);
    const { reader, onlySmall, wider, ...window } = this.#ahead.around({ range, unitBytes, isLocal });
    const span = chunksOf(chunks, window);
    if (onlySmall) {
      const isGood = (i: number): boolean => this.#isWorthFetching(i) && isSmallNeighbour(chunks, i);
      const along = runAround(span, { first, last }, isGood);
      return { along, behind: wider === undefined ? [] : this.#nearest({ first, last }, along, wider), reader };
    }
    const behind: number[] = [];
    for (let i = span.first; i < span.end; i++) {
      if ((i < first || i > last) && this.#isWorthFetching(i)) behind.push(i);
    }
    return { along: [], behind, reader };
  }

  /** The small chunks of a range that are nearest, but are not brought along; ascending. */
  #nearest({ first, last }: Middle, along: readonly number[], { blobBytes, ...range }: WiderRange): number[] {
    const chunks = this.#chunks;
    const { first: from, end } = chunksOf(chunks, range);
    const known = new Set(along);
    const good: number[] = [];
    for (let i = from; i < end; i++) {
      const isBeside = (i < first || i > last) && !known.has(i);
      if (isBeside && chunks.blobSizeBytes(i) <= AHEAD_LIMITS.smallBytes && this.#isWorthFetching(i)) good.push(i);
    }
    const distance = (i: number): number => (i < first ? first - i : i - last);
    good.sort((a, b) => distance(a) - distance(b));
    const taken: number[] = [];
    let bytes = 0;
    for (const i of good) {
      bytes += chunks.blobSizeBytes(i);
      if (bytes > blobBytes) break;
      taken.push(i);
    }
    return taken.sort((a, b) => a - b);
  }
}

/** Whether a chunk is of a small unit that can be had by one request with the chunk before it. */
function isSmallNeighbour(chunks: ChunkMap, i: number): boolean {
  if (chunks.blobSizeBytes(i) > AHEAD_LIMITS.smallBytes) return false;
  if (i === 0 || chunks.blobOffset(i) === chunks.blobOffset(i - 1)) return true;
  const gap = chunks.blobOffset(i) - (chunks.blobOffset(i - 1) + chunks.blobSizeBytes(i - 1));
  return gap >= 0 && gap <= FETCH_LIMITS.gapBytes;
}

/** Chunks of a span around some of it, in either direction up to the first one that is not good. */
function runAround(span: ChunkSpan, middle: Middle, isGood: (chunk: number) => boolean): number[] {
  const run: number[] = [];
  for (let i = middle.last + 1; i < span.end && isGood(i); i++) run.push(i);
  for (let i = middle.first - 1; i >= span.first && isGood(i); i--) run.push(i);
  return run.sort((a, b) => a - b);
}
