import { describe, expect, test } from "bun:test";
import { rootIdOf } from "../../../../src/format/containerd/id-mapping.ts";

describe("rootIdOf()", () => {
  test.each([
    ["0:1000:65536", 1000],
    ["5:9:1,0:70000:10", 70_000],
    ["0:0:1", 0],
  ])("%s maps id 0 to %p", (mapping, wanted) => {
    expect(rootIdOf(mapping)).toBe(wanted);
  });

  test.each(["", "0:1000", "1:1000:5", "0:1000:0", "0:4294967295:1", "0:-1:1", "a:b:c", "0:1:1;rm", "0:99999999999:1"])(
    "%p is refused",
    (mapping) => {
      expect(() => rootIdOf(mapping)).toThrow(/^Cannot read id mapping/);
    },
  );
});
