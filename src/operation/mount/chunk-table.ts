import { BLOCK_BYTES } from "../../base/bytes.ts";
import { NydusError } from "../../base/errors.ts";
import type { ChunkMap } from "../../format/rafs/chunk-map.ts";

/**
 * Where the chunks of a device begin and how long they are, two numbers a chunk: first block, bytes. In shared memory,
 * so that the threads of a mount look chunks up without a chunk map of their own, whatever the image's format.
 */
export type ChunkTable = Uint32Array<SharedArrayBuffer>;

const ROW = 2;

/** Mounts of one image have one table. */
const tables = new WeakMap<ChunkMap, ChunkTable>();

/** The table of a chunk map, built once for each. @throws as {@link buildChunkTable} */
export function chunkTableOf(chunks: ChunkMap): ChunkTable {
  const known = tables.get(chunks);
  if (known !== undefined) return known;
  const table = buildChunkTable(chunks);
  tables.set(chunks, table);
  return table;
}

/**
 * The table of a chunk map.
 * @throws EUCLEAN chunks that overlap, are not in order, or do not begin at a block below 2^44
 */
export function buildChunkTable(chunks: ChunkMap): ChunkTable {
  const table = new Uint32Array(new SharedArrayBuffer(chunks.count * ROW * Uint32Array.BYTES_PER_ELEMENT));
  let end = 0;
  for (let i = 0; i < chunks.count; i++) {
    const start = chunks.deviceOffset(i);
    const sizeBytes = chunks.sizeBytes(i);
    table[i * ROW] = start / BLOCK_BYTES;
    table[i * ROW + 1] = sizeBytes;
    if (start < end || chunkStart(table, i) !== start || chunkBytes(table, i) !== sizeBytes) {
      const found = `chunk ${i} has ${sizeBytes} bytes from ${start}, the one before ends at ${end}`;
      throw new NydusError("EUCLEAN", `Cannot order chunks: ${found}`, { offset: start });
    }
    end = start + sizeBytes;
  }
  return table;
}

/** Bytes of each chunk in {@link coveringTable}. */
const COVER_BYTES = 2 ** 31;

/** A table of which every byte below `sizeBytes` is in some chunk. */
export function coveringTable(sizeBytes: number): ChunkTable {
  const count = Math.ceil(sizeBytes / COVER_BYTES);
  const table = new Uint32Array(new SharedArrayBuffer(count * ROW * Uint32Array.BYTES_PER_ELEMENT));
  for (let i = 0; i < count; i++) {
    table[i * ROW] = (i * COVER_BYTES) / BLOCK_BYTES;
    table[i * ROW + 1] = Math.min(COVER_BYTES, sizeBytes - i * COVER_BYTES);
  }
  return table;
}

/** Chunks in a table. */
export function chunkCount(table: ChunkTable): number {
  return table.length / ROW;
}

/** First byte of chunk `i` in the device. */
export function chunkStart(table: ChunkTable, i: number): number {
  return (table[i * ROW] as number) * BLOCK_BYTES;
}

/** Bytes of chunk `i`. */
export function chunkBytes(table: ChunkTable, i: number): number {
  return table[i * ROW + 1] as number;
}

/** The chunk that holds device byte `deviceOffset`, or -1. */
export function findChunk(table: ChunkTable, deviceOffset: number): number {
  let low = 0;
  let high = chunkCount(table) - 1;
  while (low <= high) {
    const middle = (low + high) >>> 1;
    if (chunkStart(table, middle) <= deviceOffset) low = middle + 1;
    else high = middle - 1;
  }
  return high >= 0 && deviceOffset < chunkStart(table, high) + chunkBytes(table, high) ? high : -1;
}

/** The first chunk that ends behind a byte; the count where none does. */
export function firstChunkBehind(table: ChunkTable, at: number): number {
  let low = 0;
  let high = chunkCount(table);
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (chunkStart(table, middle) + chunkBytes(table, middle) > at) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** Whether the chunk at `deviceOffset`, or the nearest one before it, is ready; false where there is none. */
export function isReadyBefore(table: ChunkTable, ready: Uint8Array, deviceOffset: number): boolean {
  let low = 0;
  let high = chunkCount(table);
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (chunkStart(table, middle) <= deviceOffset) low = middle + 1;
    else high = middle;
  }
  return low > 0 && (Atomics.load(ready, (low - 1) >> 3) & (1 << ((low - 1) & 7))) !== 0;
}

/**
 * Whether every chunk of a range is ready.
 * @param ready bit `i` (of byte `i >> 3`, from the lowest) belongs to chunk `i`
 * @throws EUCLEAN when part of the range belongs to no chunk: nothing ever makes it ready
 */
export function isRangeReady(table: ChunkTable, ready: Uint8Array, range: { start: number; end: number }): boolean {
  const count = chunkCount(table);
  let at = range.start;
  let chunk = -1;
  while (at < range.end) {
    // Behind a chunk mostly lies the next one: that saves the search.
    const follows = chunk >= 0 && chunk + 1 < count && chunkStart(table, chunk + 1) === at;
    chunk = follows ? chunk + 1 : findChunk(table, at);
    if (chunk < 0) throw new NydusError("EUCLEAN", `Cannot read device: no chunk holds byte ${at}`, { offset: at });
    if ((Atomics.load(ready, chunk >> 3) & (1 << (chunk & 7))) === 0) return false;
    at = chunkStart(table, chunk) + chunkBytes(table, chunk);
  }
  return true;
}
