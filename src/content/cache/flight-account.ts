import { asNydusError, type NydusError } from "../../base/errors.ts";
import type { ChunkMap } from "../../format/rafs/chunk-map.ts";
import { errorKindOf, type FetchMeter } from "./fetch-meter.ts";
import type { PlannedFetch } from "./fetch-plan.ts";
import type { FetchLane } from "./fetch-queue.ts";

/** For whom a flight is. */
export interface AccountStart {
  /** Of the blob, and of whoever causes the flight. */
  readonly meters: readonly FetchMeter[];
  /** Chunks that a reader waits for; all of them unless given, should one come to wait. */
  readonly wanted?: readonly number[];
}

/** Counts what one flight costs, for all who keep count. */
export class FlightAccount {
  readonly #meters: readonly FetchMeter[];
  readonly #wantedBytes: number;

  constructor(plan: PlannedFetch, { meters, wanted }: AccountStart) {
    this.#meters = meters;
    this.#wantedBytes = wanted === undefined ? Number.POSITIVE_INFINITY : wantedBytesOf(plan, new Set(wanted));
  }

  /** @param lane the flight's when its bytes came: once promoted it is a reader's @param bytes of the blob */
  onFetched(lane: FetchLane, bytes: number, seconds?: number): void {
    const demand = Math.min(bytes, this.#wantedBytes);
    const split = { demand: 0, ahead: 0, prefetch: 0 };
    if (lane === "demand") Object.assign(split, { demand, ahead: bytes - demand });
    else split[lane] = bytes;
    for (const meter of this.#meters) meter.onFetched(split, seconds);
  }

  /** @param bytes uncompressed, ready now */
  onDecoded(bytes: number, seconds: number): void {
    for (const meter of this.#meters) meter.onDecoded(bytes, seconds);
  }

  /** Chunks of the flight have failed. */
  onFailed(lane: FetchLane, failures: Iterable<NydusError>): void {
    for (const { code } of failures) {
      if (code === "ECANCELED") continue; // nobody wants it any more
      if (code === "ETIMEDOUT" && lane === "demand") continue; // its readers count that themselves
      for (const meter of this.#meters) meter.onChunkErrors(errorKindOf(code), 1);
    }
  }
}

/** Of a fetch, the bytes of units that hold chunks which a reader waits for. */
function wantedBytesOf(plan: PlannedFetch, wanted: ReadonlySet<number>): number {
  const units = plan.units.filter((unit) => unit.chunks.some((chunk) => wanted.has(chunk)));
  return units.reduce((sum, { blobSizeBytes }) => sum + blobSizeBytes, 0);
}

/** Uncompressed bytes of chunks. */
export function bytesOfChunks(chunks: ChunkMap, positions: readonly number[]): number {
  return positions.reduce((sum, i) => sum + chunks.sizeBytes(i), 0);
}

/** A reader has given up waiting for chunks. @param error why; another one than ETIMEDOUT is not counted */
export function countGivenUp(meters: readonly FetchMeter[], error: unknown, chunks: number): void {
  if (asNydusError(error).code !== "ETIMEDOUT") return;
  for (const meter of meters) meter.onChunkErrors("deadline", chunks);
}
