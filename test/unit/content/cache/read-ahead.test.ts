import { expect, test } from "bun:test";
import { AHEAD_LIMITS, ReadAhead } from "../../../../src/content/cache/read-ahead.ts";

const MIB = 1 << 20;
const STEP = 16 << 10;
const { smallBytes, smallWindowBytes, windowBytes, firstBytes, mostBytes, gapBytes } = AHEAD_LIMITS;
const SMALL = 100;
const LARGE = smallBytes + 1;

test.each([
  ["small", SMALL, smallWindowBytes, true],
  ["large", LARGE, windowBytes, false],
])("a miss of %s units brings the window around it", (_what, unitBytes, window, onlySmall) => {
  for (const at of [0, STEP, window - STEP, 7 * window + 5 * STEP]) {
    const range = new ReadAhead().around({ start: at, end: at + STEP }, unitBytes);
    expect([range.start % window, range.end - range.start, range.onlySmall]).toEqual([0, window, onlySmall]);
    expect(range.start <= at && at + STEP <= range.end).toBe(true);
  }
  const long = new ReadAhead().around({ start: STEP, end: 3 * window + STEP }, unitBytes);
  expect(long).toEqual({ start: 0, end: 4 * window, onlySmall });
});

/** Bytes that are read ahead of each of some misses of a reader that always continues. */
function goOn(ahead: ReadAhead, from: number, misses: number): number[] {
  let at = from;
  return Array.from({ length: misses }, () => {
    const { end } = ahead.around({ start: at, end: at + STEP }, SMALL);
    const bytes = end - at - STEP;
    at = end + gapBytes;
    return bytes;
  });
}

test("a reader that goes on gets what follows, twice as much with each miss, up to a limit", () => {
  const [first, second, ...found] = goOn(new ReadAhead(), 0, 8);
  expect([first, second].every((bytes) => (bytes ?? 0) < smallWindowBytes)).toBe(true); // windows still
  expect(found).toEqual([1, 2, 4, 8, 16, 32].map((times) => Math.min(mostBytes, firstBytes * times)));
});

test("a reader that jumps, or goes backwards, gets a window each time", () => {
  const ahead = new ReadAhead();
  for (const at of [900, 300, 299, 298, 700, 699, 100]) {
    const { start, end } = ahead.around({ start: at * MIB + STEP, end: at * MIB + 2 * STEP }, SMALL);
    expect([start, end]).toEqual([at * MIB, at * MIB + smallWindowBytes]);
  }
});

test("readers that take turns do not disturb one another", () => {
  const [one, all] = [new ReadAhead(), new ReadAhead()];
  const alone = goOn(one, 0, 5);
  let ends = [0, 1000 * MIB, 2000 * MIB, 3000 * MIB];
  for (let miss = 0; miss < 5; miss++) {
    ends = ends.map((at) => {
      const { end } = all.around({ start: at, end: at + STEP }, SMALL);
      expect(end - at - STEP).toBe(alone[miss] ?? 0);
      return end + gapBytes;
    });
  }
});
