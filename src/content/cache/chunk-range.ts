import { alignUp, BLOCK_BYTES, type ByteRange } from "../../base/bytes.ts";
import { NydusError } from "../../base/errors.ts";
import type { ChunkMap } from "../../format/rafs/chunk-map.ts";

/** The first chunk that ends behind device byte `offset`; `count` when there is none. */
export function firstChunkFrom(chunks: ChunkMap, offset: number): number {
  let low = 0;
  let high = chunks.count;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (chunks.deviceOffset(middle) + chunks.sizeBytes(middle) > offset) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** Chunks that overlap a range of the device: positions from `first` to before `end`. */
export interface ChunkSpan {
  readonly first: number;
  readonly end: number;
}

/** The chunks that overlap a range. */
export function chunksOf(chunks: ChunkMap, range: ByteRange): ChunkSpan {
  const first = firstChunkFrom(chunks, range.start);
  let end = first;
  while (end < chunks.count && chunks.deviceOffset(end) < range.end) end++;
  return { first, end };
}

/**
 * Checks that every block of a range belongs to a chunk: the rest of a chunk's last block does, whole blocks between
 * chunks hold nothing that could be served.
 * @throws EUCLEAN
 */
export function refuseGaps(chunks: ChunkMap, range: ByteRange, span: ChunkSpan): void {
  let at = range.start;
  if (span.first > 0) at = Math.max(at, blocksEnd(chunks, span.first - 1));
  for (let i = span.first; i < span.end; i++) {
    if (chunks.deviceOffset(i) > at) throw gap(at, chunks.deviceOffset(i));
    at = blocksEnd(chunks, i);
  }
  if (at < range.end) throw gap(at, range.end);
}

function blocksEnd(chunks: ChunkMap, i: number): number {
  return alignUp(chunks.deviceOffset(i) + chunks.sizeBytes(i), BLOCK_BYTES);
}

function gap(start: number, end: number): NydusError {
  const place = { offset: start, length: end - start };
  return new NydusError("EUCLEAN", "Cannot read device: no chunk of the image holds these bytes", place);
}
