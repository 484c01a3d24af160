import { expect, test } from "bun:test";
import { DISK_AHEAD, DiskAhead } from "../../../../../src/operation/mount/fuse/disk-ahead.ts";

const READ_BYTES = 8192;

/** What is read ahead beside reads at these places. */
function aheadOf(starts: readonly number[]): { start: number; end: number }[] {
  const ahead = new DiskAhead();
  return starts.flatMap((start) => ahead.note({ start, end: start + READ_BYTES }) ?? []);
}

test("a device that is read from front to back with gaps is read ahead, each byte once and before it is read", () => {
  const starts = Array.from({ length: 2000 }, (_, i) => i * 3 * READ_BYTES);
  const ranges = aheadOf(starts);
  for (const [i, range] of ranges.entries()) if (i > 0) expect(range.start).toBe(ranges[i - 1]?.end as number);
  const [first] = ranges;
  const late = starts.filter((start) => start > (first?.start ?? 0));
  const covered = (at: number): boolean => ranges.some(({ start, end }) => at >= start && at < end);
  expect(late.every(covered)).toBe(true);
  expect(first?.start).toBeLessThan(DISK_AHEAD.reads * 4 * READ_BYTES);
});

test("small steps back do not end it", () => {
  const starts = Array.from({ length: 1000 }, (_, i) => i * READ_BYTES + (i % 2) * 65_536);
  expect(aheadOf(starts).length).toBeGreaterThan(1);
});

test("reads far from one another are not read ahead", () => {
  expect(aheadOf(Array.from({ length: 1000 }, (_, i) => ((i * 7919) % 997) * 4 * DISK_AHEAD.nearBytes))).toEqual([]);
});
