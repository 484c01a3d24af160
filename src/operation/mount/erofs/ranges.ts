import { alignUp, BLOCK_BYTES, type ByteRange } from "../../../base/bytes.ts";
import { type ChunkTable, chunkBytes, chunkCount, chunkStart, findChunk, firstChunkBehind } from "../chunk-table.ts";

/** The chunks of a data file as one image knows them, in shared memory. Images that share a file do not contradict. */
export interface FileChunks {
  readonly chunks: ChunkTable;
  /** Bit `i` (of byte `i >> 3`, from the lowest) is set once chunk `i` is in the file. */
  readonly ready: Uint8Array;
}

/**
 * What is to be answered to a read: "ready" it may go on; "missing" something must be fetched; "foreign" it holds blocks
 * that no image knows, which would read as zeros.
 */
export type RangeState = "ready" | "missing" | "foreign";

/** End of the last chunk's last block: behind it a data file has nothing of an image. */
export function dataEnd(table: ChunkTable): number {
  const last = chunkCount(table) - 1;
  return last < 0 ? 0 : chunkBlocksEnd(table, last);
}

function chunkBlocksEnd(table: ChunkTable, i: number): number {
  return alignUp(chunkStart(table, i) + chunkBytes(table, i), BLOCK_BYTES);
}

function isReady({ ready }: FileChunks, i: number): boolean {
  return (Atomics.load(ready, i >> 3) & (1 << (i & 7))) !== 0;
}

/**
 * Whether a range of a data file may be read.
 * @param images all that have the file as a device: it is not known which one is read
 * @param range whole blocks; what lies behind all data may be read
 */
export function rangeState(images: readonly FileChunks[], range: ByteRange): RangeState {
  for (let at = range.start; at < range.end; ) {
    const next = readyUntil(images, at);
    if (next === "missing") return next;
    if (next === "foreign") return images.every(({ chunks }) => at >= dataEnd(chunks)) ? "ready" : next;
    at = next;
  }
  return "ready";
}

/** Where the chunk of a block ends, if some image has it ready. */
function readyUntil(images: readonly FileChunks[], at: number): number | "missing" | "foreign" {
  let isKnown = false;
  for (const image of images) {
    const chunk = findBlock(image.chunks, at);
    if (chunk < 0) continue;
    if (isReady(image, chunk)) return chunkBlocksEnd(image.chunks, chunk);
    isKnown = true;
  }
  return isKnown ? "missing" : "foreign";
}

/** The chunk that has a block, or -1. @param at in a block; a chunk's last block is the chunk's to its end */
function findBlock(table: ChunkTable, at: number): number {
  return findChunk(table, Math.floor(at / BLOCK_BYTES) * BLOCK_BYTES);
}

/** Runs of neighbouring chunks that overlap a range and are not ready, clipped to the range. */
export function missingRuns(image: FileChunks, range: ByteRange): ByteRange[] {
  const { chunks } = image;
  const runs: { start: number; end: number }[] = [];
  for (let i = firstChunkBehind(chunks, range.start); i < chunkCount(chunks); i++) {
    const start = Math.max(range.start, chunkStart(chunks, i));
    if (start >= range.end) break;
    if (isReady(image, i)) continue;
    const end = Math.min(range.end, chunkStart(chunks, i) + chunkBytes(chunks, i));
    const last = runs.at(-1);
    if (last !== undefined && alignUp(last.end, BLOCK_BYTES) === start) last.end = end;
    else if (end > start) runs.push({ start, end });
  }
  return runs;
}

/** The first chunk from `from` on that is not ready; the count when all are. */
export function firstMissing(image: FileChunks, from: number): number {
  const count = chunkCount(image.chunks);
  let i = from;
  while (i < count && isReady(image, i)) i++;
  return i;
}
