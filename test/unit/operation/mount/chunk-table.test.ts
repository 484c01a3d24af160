import { describe, expect, test } from "bun:test";
import { NydusError } from "../../../../src/base/errors.ts";
import type { ChunkMap } from "../../../../src/format/rafs/chunk-map.ts";
import {
  buildChunkTable,
  chunkCount,
  findChunk,
  isRangeReady,
  isReadyBefore,
} from "../../../../src/operation/mount/chunk-table.ts";
import { evenChunks } from "../../../kit/raw-device.ts";

/** Chunks at given places, as [first block, bytes]. */
function chunksAt(...places: readonly (readonly [number, number])[]): ChunkMap {
  return {
    ...evenChunks(0, 4096),
    count: places.length,
    deviceOffset: (i) => (places[i]?.[0] ?? 0) * 4096,
    sizeBytes: (i) => places[i]?.[1] ?? 0,
  };
}

describe("chunk tables", () => {
  test("findChunk() gives the chunk of each byte and -1 for the gaps, the ends and an empty table", () => {
    const table = buildChunkTable(chunksAt([0, 5000], [2, 4096], [9, 1]));
    expect(chunkCount(table)).toBe(3);
    const found = [0, 4999, 5000, 8191, 8192, 12287, 12288, 36863, 36864, 36865].map((at) => findChunk(table, at));
    expect(found).toEqual([0, 0, -1, -1, 1, 1, -1, -1, 2, -1]);
    expect(findChunk(buildChunkTable(chunksAt()), 0)).toBe(-1);
  });

  test("findChunk() agrees with a search from the start, for places beyond 4 GiB too", () => {
    let block = 0;
    const places = Array.from({ length: 500 }, (_, i) => {
      block += 1 + ((i * 7919) % 9000);
      const blocks = 1 + ((i * 31) % 256);
      const place = [block, blocks * 4096 - ((i * 17) % 4096)] as const;
      block += blocks;
      return place;
    });
    const table = buildChunkTable(chunksAt(...places));
    for (let at = 0; at < block * 4096; at += 1_234_567) {
      const wanted = places.findIndex(([start, bytes]) => at >= start * 4096 && at < start * 4096 + bytes);
      expect(findChunk(table, at)).toBe(wanted);
    }
  });

  test.each([
    ["overlap", chunksAt([0, 8192], [1, 4096])],
    ["are out of order", chunksAt([5, 10], [2, 10])],
    ["begin past 2^44", chunksAt([2 ** 32, 10])],
    ["begin inside a block", { ...chunksAt([0, 10]), deviceOffset: () => 100 }],
    ["are longer than 4 GiB", chunksAt([0, 2 ** 32])],
  ])("buildChunkTable() refuses chunks that %s", (_, chunks) => {
    expect(() => buildChunkTable(chunks)).toThrow(NydusError);
  });

  test("isRangeReady() wants the bit of every chunk that the range touches", () => {
    const table = buildChunkTable(evenChunks(20 * 8192, 8192));
    const ready = new Uint8Array(new SharedArrayBuffer(3));
    for (const chunk of [3, 4, 5, 8]) Atomics.or(ready, chunk >> 3, 1 << (chunk & 7));
    const isReady = (start: number, end: number): boolean => isRangeReady(table, ready, { start, end });
    expect(isReady(3 * 8192, 6 * 8192)).toBe(true);
    expect(isReady(3 * 8192 + 100, 5 * 8192 + 1)).toBe(true);
    expect(isReady(3 * 8192 - 1, 4 * 8192)).toBe(false);
    expect(isReady(5 * 8192, 6 * 8192 + 1)).toBe(false);
    expect(isReady(8 * 8192, 9 * 8192)).toBe(true);
    expect(isReady(8 * 8192, 8 * 8192)).toBe(true);
  });

  test("isRangeReady() throws for bytes that no chunk holds: waiting for them would have no end", () => {
    const table = buildChunkTable(chunksAt([0, 5000], [2, 4096]));
    const ready = new Uint8Array(new SharedArrayBuffer(1)).fill(0xff);
    expect(() => isRangeReady(table, ready, { start: 0, end: 8193 })).toThrow(NydusError);
    expect(() => isRangeReady(table, ready, { start: 12288, end: 12289 })).toThrow(NydusError);
  });
});

test("isReadyBefore() looks at the chunk at a place, or the nearest one before it", () => {
  const table = new Uint32Array(new SharedArrayBuffer(3 * 8));
  table.set([1, 5000, 3, 4096, 9, 100]); // at 4096, 12288 and 36864
  const ready = new Uint8Array([0b010]);
  const found = [0, 4096, 12287, 12288, 36863, 36864, 2 ** 40].map((at) => isReadyBefore(table, ready, at));
  expect(found).toEqual([false, false, false, true, true, false, false]);
});
