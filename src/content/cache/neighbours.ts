import type { ChunkMap } from "../../format/rafs/chunk-map.ts";
import type { ChunkSpan } from "./chunk-range.ts";
import { FETCH_LIMITS } from "./fetch-plan.ts";
import { AHEAD_LIMITS } from "./read-ahead.ts";

/** Whether a chunk is of a small unit that can be had by one request with the chunk before it. */
export function isSmallNeighbour(chunks: ChunkMap, i: number): boolean {
  if (chunks.blobSizeBytes(i) > AHEAD_LIMITS.smallBytes) return false;
  if (i === 0 || chunks.blobOffset(i) === chunks.blobOffset(i - 1)) return true;
  const gap = chunks.blobOffset(i) - (chunks.blobOffset(i - 1) + chunks.blobSizeBytes(i - 1));
  return gap >= 0 && gap <= FETCH_LIMITS.gapBytes;
}

/** Chunks of a span around some of it, in either direction up to the first one that is not good. */
export function runAround(
  span: ChunkSpan,
  middle: { readonly first: number; readonly last: number },
  isGood: (chunk: number) => boolean,
): number[] {
  const run: number[] = [];
  for (let i = middle.last + 1; i < span.end && isGood(i); i++) run.push(i);
  for (let i = middle.first - 1; i >= span.first && isGood(i); i--) run.push(i);
  return run.sort((a, b) => a - b);
}
