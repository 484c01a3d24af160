import { describe, expect, test } from "bun:test";
import { buildChunkTable } from "../../../../../src/operation/mount/chunk-table.ts";
import {
  dataEnd,
  type FileChunks,
  firstMissing,
  missingRuns,
  rangeState,
} from "../../../../../src/operation/mount/erofs/ranges.ts";
import { EventSlots, makeSlots } from "../../../../../src/operation/mount/erofs/slots.ts";
import { chunkMapOver, randomOf } from "../../../../kit/fake-blob.ts";

const BLOCK = 4096;

/** Chunks by first block and bytes, ready or not. */
function chunksOf(rows: readonly (readonly [block: number, sizeBytes: number, isReady: boolean])[]): FileChunks {
  const places = rows.map(([block, sizeBytes]) => ({
    ...{ deviceOffset: block * BLOCK, sizeBytes, blobOffset: 0, blobSizeBytes: sizeBytes },
    ...({ compressor: "none", unitBytes: sizeBytes, offsetInUnit: 0, digest: undefined } as const),
  }));
  const ready = new Uint8Array(new SharedArrayBuffer(Math.ceil(rows.length / 8)));
  for (const [i, row] of rows.entries())
    if (row[2]) (ready as Uint8Array)[i >> 3] = (ready[i >> 3] as number) | (1 << (i & 7));
  return { chunks: buildChunkTable(chunkMapOver(places)), ready };
}

const blocks = (start: number, end: number): { start: number; end: number } => ({
  start: start * BLOCK,
  end: end * BLOCK,
});

describe("rangeState()", () => {
  const one = chunksOf([
    [0, 2 * BLOCK, true],
    [2, 100, true],
    [3, 5000, false],
    [6, 4096, true],
  ]);

  test.each([
    [0, 2, "ready"],
    [1, 3, "ready"],
    [2, 3, "ready"],
    [2, 4, "missing"],
    [4, 5, "missing"],
    [5, 6, "foreign"],
    [5, 7, "foreign"],
    [6, 7, "ready"],
    [6, 9, "ready"],
    [7, 9, "ready"],
  ] as const)("of blocks %d to %d is %s", (start, end, state) => {
    expect(rangeState([one], blocks(start, end))).toBe(state);
  });

  test("counts what any of two images has ready, and what any of them knows", () => {
    const two = chunksOf([
      [3, 5000, true],
      [9, 10, false],
    ]);
    expect(rangeState([one, two], blocks(0, 5))).toBe("ready");
    expect(rangeState([one, two], blocks(5, 6))).toBe("foreign");
    expect(rangeState([one, two], blocks(7, 8))).toBe("foreign");
    expect(rangeState([one, two], blocks(9, 10))).toBe("missing");
    expect(rangeState([one, two], blocks(10, 11))).toBe("ready");
  });

  test("agrees with looking at every block (seed 9)", () => {
    const random = randomOf(9);
    for (let round = 0; round < 500; round++) {
      const rows: [number, number, boolean][] = [];
      for (let block = random(3); block < 40; ) {
        const sizeBytes = 1 + random(3 * BLOCK);
        rows.push([block, sizeBytes, random(3) > 0]);
        block += Math.ceil(sizeBytes / BLOCK) + (random(3) === 0 ? 1 : 0);
      }
      const state = chunksOf(rows);
      const [start, length] = [random(45), 1 + random(6)];
      const stateOf = (block: number): string => {
        const row = rows.find(([first, size]) => block >= first && block < first + Math.ceil(size / BLOCK));
        if (row === undefined) return block * BLOCK >= dataEnd(state.chunks) ? "end" : "foreign";
        return row[2] ? "ready" : "missing";
      };
      const each = Array.from({ length }, (_, i) => stateOf(start + i));
      const wanted = each.find((one) => one === "foreign" || one === "missing") ?? "ready";
      expect(rangeState([state], blocks(start, start + length))).toBe(wanted as "ready");
    }
  });
});

test("missingRuns() joins neighbours and leaves out what is ready", () => {
  const image = chunksOf([
    [0, 8192, false],
    [2, 100, false],
    [3, 4096, true],
    [4, 4096, false],
    [6, 4096, false],
  ]);
  expect(missingRuns(image, blocks(0, 9))).toEqual([
    { start: 0, end: 8292 },
    { start: 4 * BLOCK, end: 5 * BLOCK },
    { start: 6 * BLOCK, end: 7 * BLOCK },
  ]);
  expect(missingRuns(image, blocks(1, 2))).toEqual([{ start: BLOCK, end: 2 * BLOCK }]);
  expect(missingRuns(image, blocks(3, 4))).toEqual([]);
  expect([firstMissing(image, 0), firstMissing(image, 3), firstMissing(chunksOf([[0, 5, true]]), 0)]).toEqual([
    0, 3, 1,
  ]);
});

describe("EventSlots", () => {
  test("lets one of two claim, and a slot be taken again only when it is free", () => {
    const memory = makeSlots(2);
    const [ours, theirs] = [new EventSlots(memory), new EventSlots(memory)];
    const first = ours.take();
    const second = ours.take();
    if (first === undefined || second === undefined) throw new Error("no slots");
    expect([ours.take(), ours.countFree(2)]).toEqual([undefined, 0]);
    expect([theirs.claim(first), ours.claim(first), ours.isPending(first)]).toEqual([true, false, false]);
    expect(ours.take()).toBeUndefined();
    theirs.free(first);
    const third = ours.take();
    expect(third?.slot).toBe(first.slot);
    // a ticket of before names nothing any more
    expect([theirs.claim(first), ours.isPending(second), theirs.claim(second)]).toEqual([false, true, true]);
  });
});
