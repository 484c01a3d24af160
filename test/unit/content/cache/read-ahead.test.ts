import { expect, test } from "bun:test";
import { AHEAD_LIMITS, ReadAhead } from "../../../../src/content/cache/read-ahead.ts";

const MIB = 1 << 20;
const STEP = 16 << 10;
const { windowBytes, firstBytes, mostBytes, gapBytes } = AHEAD_LIMITS;

test("a miss brings the window around it", () => {
  for (const at of [0, STEP, windowBytes - STEP, 7 * windowBytes + 5 * STEP]) {
    const { start, end } = new ReadAhead().around({ start: at, end: at + STEP });
    expect([start % windowBytes, end - start]).toEqual([0, windowBytes]);
    expect(start <= at && at + STEP <= end).toBe(true);
  }
  const long = new ReadAhead().around({ start: STEP, end: 3 * windowBytes + STEP });
  expect(long).toEqual({ start: 0, end: 4 * windowBytes });
});

test("a reader that goes on gets what follows, twice as much with each miss, up to a limit", () => {
  const ahead = new ReadAhead();
  let at = ahead.around({ start: 0, end: STEP }).end + 1000;
  const found: number[] = [];
  for (let i = 0; i < 5; i++) {
    const { start, end } = ahead.around({ start: at, end: at + STEP });
    expect(start).toBe(at);
    found.push(end - at - STEP);
    at = end + gapBytes;
  }
  expect(found).toEqual([1, 2, 4, 8, 16].map((times) => Math.min(mostBytes, firstBytes * times)));
});

test("a reader that jumps, or goes backwards, gets a window each time", () => {
  const ahead = new ReadAhead();
  for (const at of [900, 300, 299, 700, 699, 100]) {
    expect(ahead.around({ start: at * MIB, end: at * MIB + STEP })).toEqual({
      start: Math.floor((at * MIB) / windowBytes) * windowBytes,
      end: Math.floor((at * MIB) / windowBytes + 1) * windowBytes,
    });
  }
});

test("readers that take turns do not disturb one another", () => {
  const ahead = new ReadAhead();
  const ends = [0, 1, 2, 3].map((reader) => reader * 1000 * MIB);
  const sizes = [1, 2, 3].map(() =>
    ends.map((start, reader) => {
      const { end } = ahead.around({ start, end: start + STEP });
      ends[reader] = end;
      return end - start - STEP;
    }),
  );
  for (const [i, row] of sizes.entries()) {
    const wanted = i === 0 ? windowBytes - STEP : firstBytes * i;
    expect(row).toEqual([wanted, wanted, wanted, wanted]);
  }
});
