import type { ErrorCode } from "../../base/errors.ts";
import { addLatencies, LatencyHistogram, type LatencyStats } from "../../base/histogram.ts";
import type { FetchLane } from "./fetch-queue.ts";

/** Why data cannot be had: its place fails, it is not what its digest says, it does not decode, it comes too late. */
export const ERROR_KINDS = ["fetch", "digest", "decode", "deadline", "no_space", "other"] as const;

/** One of {@link ERROR_KINDS}. */
export type ErrorKind = (typeof ERROR_KINDS)[number];

const KIND_OF_CODE = {
  EBADMSG: "digest",
  EUCLEAN: "decode",
  ENOTSUP: "decode",
  ETIMEDOUT: "deadline",
  ENOSPC: "no_space",
  ENOENT: "fetch",
  EIO: "fetch",
  EACCES: "fetch",
  EPERM: "fetch",
  EBUSY: "fetch",
  EINVAL: "other",
  EEXIST: "other",
  ECANCELED: "other",
  EFAULT: "other",
} as const satisfies Record<ErrorCode, ErrorKind>;

/** What kind of failure metrics count an error as. */
export function errorKindOf(code: ErrorCode): ErrorKind {
  return KIND_OF_CODE[code];
}

/** What was fetched on behalf of somebody. */
export interface FetchStats {
  /** Requests to places of blobs that gave bytes. */
  readonly requests: number;
  /** Bytes of blobs: units that a reader waited for. */
  readonly demandBytes: number;
  /** What readers' misses brought along, gaps between units too. */
  readonly aheadBytes: number;
  readonly prefetchBytes: number;
  /** Uncompressed, of chunks that were verified and written. */
  readonly decodedBytes: number;
  /** Chunks that could not be had. */
  readonly chunkErrors: Readonly<Record<ErrorKind, number>>;
  /** From a request to its last byte; nothing of blobs in local files, which the codec threads read themselves. */
  readonly fetches: LatencyStats;
  /** Decompressing, verifying and writing one job of some chunks, the wait for a codec thread included. */
  readonly decodes: LatencyStats;
}

/** What was fetched on behalf of two. */
export function addFetchStats(a: FetchStats, b: FetchStats): FetchStats {
  return {
    requests: a.requests + b.requests,
    demandBytes: a.demandBytes + b.demandBytes,
    aheadBytes: a.aheadBytes + b.aheadBytes,
    prefetchBytes: a.prefetchBytes + b.prefetchBytes,
    decodedBytes: a.decodedBytes + b.decodedBytes,
    chunkErrors: countKinds((kind) => a.chunkErrors[kind] + b.chunkErrors[kind]),
    fetches: addLatencies(a.fetches, b.fetches),
    decodes: addLatencies(a.decodes, b.decodes),
  };
}

function countKinds(count: (kind: ErrorKind) => number): Record<ErrorKind, number> {
  return Object.fromEntries(ERROR_KINDS.map((kind) => [kind, count(kind)])) as Record<ErrorKind, number>;
}

/**
 * Counts fetches on behalf of a blob, of a mount or of a process. What mounts share is counted once, for who caused it:
 * a fetch for the mount whose read or prefetch began it. Another one that waits for the same chunks, or
 * finds them ready, counts a miss or a hit of its own and no fetch.
 */
export class FetchMeter {
  readonly #parent: FetchMeter | undefined;
  readonly #fetches = new LatencyHistogram();
  readonly #decodes = new LatencyHistogram();
  readonly #chunkErrors = countKinds(() => 0);
  readonly #bytes: Record<FetchLane, number> = { demand: 0, ahead: 0, prefetch: 0 };
  #requests = 0;
  #decodedBytes = 0;

  /** @param parent counts the same */
  constructor(parent?: FetchMeter) {
    this.#parent = parent;
  }

  /** A request gave bytes. @param seconds unless a codec thread was to read them */
  onFetched(bytes: Readonly<Record<FetchLane, number>>, seconds: number | undefined): void {
    this.#requests++;
    this.#bytes.demand += bytes.demand;
    this.#bytes.ahead += bytes.ahead;
    this.#bytes.prefetch += bytes.prefetch;
    if (seconds !== undefined) this.#fetches.observe(seconds);
    this.#parent?.onFetched(bytes, seconds);
  }

  /** A job has come back from the codec threads. @param bytes that are ready by it */
  onDecoded(bytes: number, seconds: number): void {
    this.#decodedBytes += bytes;
    this.#decodes.observe(seconds);
    this.#parent?.onDecoded(bytes, seconds);
  }

  onChunkErrors(kind: ErrorKind, chunks: number): void {
    this.#chunkErrors[kind] += chunks;
    this.#parent?.onChunkErrors(kind, chunks);
  }

  /** What was counted so far. */
  get stats(): FetchStats {
    const { demand, ahead, prefetch } = this.#bytes;
    return {
      requests: this.#requests,
      demandBytes: demand,
      aheadBytes: ahead,
      prefetchBytes: prefetch,
      decodedBytes: this.#decodedBytes,
      chunkErrors: { ...this.#chunkErrors },
      fetches: this.#fetches.stats,
      decodes: this.#decodes.stats,
    };
  }
}

/** Of whoever has had nothing fetched. */
export const NOTHING_FETCHED: FetchStats = new FetchMeter().stats;
