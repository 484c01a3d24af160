import { expect, test } from "bun:test";
import { AHEAD_LIMITS, ReadAhead } from "../../../../src/content/cache/read-ahead.ts";

const MIB = 1 << 20;
const STEP = 64 << 10;

function aheadBytes(ahead: ReadAhead, start: number): number {
  const { end } = ahead.behind({ start, end: start + STEP });
  return end - start - STEP;
}

test("a reader that goes on gets twice as much with each miss, up to a limit", () => {
  const ahead = new ReadAhead();
  const found: number[] = [];
  let at = 0;
  for (let i = 0; i < 6; i++) {
    const { end } = ahead.behind({ start: at, end: at + STEP });
    found.push((end - at - STEP) / AHEAD_LIMITS.firstBytes);
    at = end + 1000;
  }
  expect(found).toEqual([1, 2, 4, 8, 8, 8]);
});

test("a reader that jumps gets the same each time", () => {
  const ahead = new ReadAhead();
  for (const at of [900, 300, 700, 100, 500]) expect(aheadBytes(ahead, at * MIB)).toBe(AHEAD_LIMITS.firstBytes);
});

test("a miss within what is on its way for a reader asks for no more than it would behind it", () => {
  const ahead = new ReadAhead();
  const { end } = ahead.behind({ start: 0, end: STEP });
  const next = ahead.behind({ start: STEP, end: 2 * STEP });
  expect(next.end).toBe(2 * STEP + 2 * AHEAD_LIMITS.firstBytes);
  expect(next.end).toBeGreaterThan(end);
});

test("readers that take turns do not disturb one another", () => {
  const ahead = new ReadAhead();
  const ends = [0, 1, 2, 3].map((reader) => reader * 1000 * MIB);
  const sizes = [1, 2, 3].map(() =>
    ends.map((start, reader) => {
      const { end } = ahead.behind({ start, end: start + STEP });
      ends[reader] = end;
      return (end - start - STEP) / AHEAD_LIMITS.firstBytes;
    }),
  );
  expect(sizes).toEqual([
    [1, 1, 1, 1],
    [2, 2, 2, 2],
    [4, 4, 4, 4],
  ]);
});
