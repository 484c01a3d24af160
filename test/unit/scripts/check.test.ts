import { expect, test } from "bun:test";
import { formatCounts, parseCounts } from "../../../scripts/check.ts";

test("parseCounts() reads what bun test prints at its end", () => {
  const output = "(pass) a [1.00ms]\n(skip) b\n\n 932 pass\n 3 skip\n 1 todo\n 2 fail\n 1 error\n 5 expect() calls\n";
  expect(parseCounts(output)).toEqual({ passed: 932, failed: 3, skipped: 4 });
  expect(parseCounts(" 1 pass\n 0 fail\n")).toEqual({ passed: 1, failed: 0, skipped: 0 });
});

test("parseCounts() gives nothing for output of another kind", () => {
  expect(parseCounts("the test named '12 pass' failed\n")).toBeUndefined();
});

test("formatCounts() is the line that CI reads", () => {
  expect(formatCounts({ passed: 3, failed: 0, skipped: 1 })).toBe("3 passed, 0 failed, 1 skipped");
});
