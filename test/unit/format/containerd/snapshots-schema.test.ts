import { describe, expect, test } from "bun:test";
import {
  decodeMount,
  decodeTimestamp,
  encodeMount,
  encodeTimestamp,
} from "../../../../src/format/containerd/snapshots-schema.ts";

describe("messages of the snapshots API", () => {
  test.each([0, 1, 999_999, 1_000_000, 1_790_000_000_123_456, -1])("%p microseconds survive", (micros) => {
    const encoded = encodeTimestamp(micros);
    expect(encoded.nanos).toBeGreaterThanOrEqual(0);
    expect(encoded.nanos).toBeLessThan(1_000_000_000);
    expect(decodeTimestamp(encoded)).toBe(micros);
  });

  test("a mount survives, and one that lacks fields has empty ones", () => {
    const mount = { type: "overlay", source: "overlay", target: "", options: ["ro", "lowerdir=a:b"] };
    expect(decodeMount(encodeMount(mount))).toEqual(mount);
    expect(decodeMount({ type: "bind" })).toEqual({ type: "bind", source: "", target: "", options: [] });
  });
});
