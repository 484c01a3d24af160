import { expect, test } from "bun:test";
import type { ByteRange } from "../../../../src/base/bytes.ts";
import { AHEAD_LIMITS, type Miss, ReadAhead } from "../../../../src/content/cache/read-ahead.ts";

const MIB = 1 << 20;
const STEP = 16 << 10;
const { smallBytes, windowBytes, gapBytes } = AHEAD_LIMITS;
const SMALL = 100;
const LARGE = smallBytes + 1;

function miss(range: ByteRange, unitBytes = SMALL, isLocal = false): Miss {
  return { range, unitBytes, isLocal };
}

test("a miss of large units brings the window around it, of any size", () => {
  for (const at of [0, STEP, windowBytes - STEP, 7 * windowBytes + 5 * STEP]) {
    const range = new ReadAhead().around(miss({ start: at, end: at + STEP }, LARGE));
    expect([range.start % windowBytes, range.end - range.start, range.onlySmall]).toEqual([0, windowBytes, false]);
    expect(range.start <= at && at + STEP <= range.end).toBe(true);
  }
  const long = new ReadAhead().around(miss({ start: STEP, end: 3 * windowBytes + STEP }, LARGE));
  expect(long).toMatchObject({ start: 0, end: 4 * windowBytes, onlySmall: false });
});

test("a miss of small units brings what is near, and looks farther behind; farther where readers have missed before", () => {
  const ahead = new ReadAhead();
  const [near, again] = [8 * MIB + 5 * STEP, 9 * MIB + 40 * STEP].map((at) =>
    ahead.around(miss({ start: at, end: at + STEP })),
  );
  expect(near).toMatchObject({ start: 8 * MIB, end: 8 * MIB + 6 * STEP + MIB / 4, onlySmall: true });
  expect(near?.wider).toEqual({ start: 8 * MIB, end: 9 * MIB, blobBytes: 128 << 10 });
  expect(again?.wider).toEqual({ start: 8 * MIB, end: 10 * MIB, blobBytes: 512 << 10 });
});

/** Bytes that are read ahead of each of some misses of a reader that always continues. */
function goOn(ahead: ReadAhead, misses: number, isLocal = false): number[] {
  let at = 0;
  return Array.from({ length: misses }, () => {
    const { end } = ahead.around(miss({ start: at, end: at + STEP }, SMALL, isLocal));
    const bytes = end - at - STEP;
    at = end + gapBytes;
    return bytes;
  });
}

test("a reader that goes on gets what follows, twice as much with each miss, up to a limit", () => {
  const [first, second, ...found] = goOn(new ReadAhead(), 8);
  expect([first, second].every((bytes) => (bytes ?? 0) < MIB)).toBe(true); // windows still
  expect(found).toEqual([1, 2, 4, 8, 8, 8].map((times) => times * MIB));
});

test("of a local file a reader that goes on gets more, sooner", () => {
  const [first, ...found] = goOn(new ReadAhead(), 6, true);
  expect(first).toBeLessThan(MIB);
  expect(found).toEqual([4, 16, 64, 128, 128].map((times) => times * MIB));
});

test("what has been brought for a reader that goes on is not looked at again", () => {
  const ahead = new ReadAhead();
  let before = 0;
  for (const at of [0, 20 * STEP, 40 * STEP, 60 * STEP, 900 * STEP]) {
    const { start, end } = ahead.around(miss({ start: at, end: at + STEP }, SMALL, true));
    if (at > 20 * STEP) expect(start).toBe(Math.max(at, before));
    before = end;
  }
});

test("misses that continue one another are one reader's, others are another's", () => {
  const ahead = new ReadAhead();
  const readerAt = (at: number): object => ahead.around(miss({ start: at, end: at + STEP })).reader;
  const first = readerAt(0);
  expect([readerAt(4 * STEP) === first, readerAt(900 * MIB) === first, readerAt(8 * STEP) === first]).toEqual([
    true,
    false,
    true,
  ]);
});

test("a reader that jumps, or goes backwards, gets a window each time", () => {
  const ahead = new ReadAhead();
  for (const at of [900, 300, 299, 298, 700, 699, 100]) {
    const { start, end } = ahead.around(miss({ start: at * MIB + STEP, end: at * MIB + 2 * STEP }));
    expect([start, end < (at + 1) * MIB]).toEqual([at * MIB, true]);
  }
});

test("readers that take turns do not disturb one another", () => {
  const [one, all] = [new ReadAhead(), new ReadAhead()];
  const alone = goOn(one, 5);
  let ends = [0, 1000 * MIB, 2000 * MIB, 3000 * MIB];
  for (let round = 0; round < 5; round++) {
    ends = ends.map((at) => {
      const { end } = all.around(miss({ start: at, end: at + STEP }));
      expect(end - at - STEP).toBe(alone[round] ?? 0);
      return end + gapBytes;
    });
  }
});
