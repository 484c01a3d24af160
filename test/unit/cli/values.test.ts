import { describe, expect, test } from "bun:test";
import {
  parseChoice,
  parseDuration,
  parseInteger,
  parseList,
  parseSize,
  platformOf,
  platformsOf,
} from "../../../src/cli/values.ts";

describe("parseSize()", () => {
  test.each([
    ["0", 0],
    ["65536", 65536],
    ["64k", 65536],
    ["64K", 65536],
    ["64KiB", 65536],
    ["64kb", 65536],
    ["1M", 1048576],
    ["1MiB", 1048576],
    ["16MiB", 16777216],
    ["2g", 2147483648],
    ["1T", 1099511627776],
    ["0x100000", 1048576],
    ["12B", 12],
  ])("reads %s as %d bytes", (text, bytes) => {
    expect(parseSize("chunk-size", text)).toBe(bytes);
  });

  test.each(["", " 1", "1 M", "-1", "1.5M", "1MM", "M", "1e6", "0x", "9007199254740993", "9007199254740991T", "١"])(
    "refuses %j by the flag's name",
    (text) => {
      expect(() => parseSize("chunk-size", text)).toThrow(`Cannot use --chunk-size ${JSON.stringify(text)}`);
    },
  );
});

describe("parseInteger()", () => {
  test("takes both ends of its range", () => {
    expect(parseInteger("level", "1", { min: 1, max: 22 })).toBe(1);
    expect(parseInteger("level", "22", { min: 1, max: 22 })).toBe(22);
    expect(parseInteger("level", "-5", { min: -7, max: 22 })).toBe(-5);
  });

  test.each(["0", "23", "3.0", "", "three", "0x3", "1e1"])("refuses %j", (text) => {
    expect(() => parseInteger("level", text, { min: 1, max: 22 })).toThrow("a whole number from 1 to 22 is wanted");
  });
});

describe("parseDuration()", () => {
  test.each([
    ["500ms", 500],
    ["30s", 30_000],
    ["1.5s", 1500],
    ["2m", 120_000],
    ["1h", 3_600_000],
  ])("reads %s as %d ms", (text, ms) => {
    expect(parseDuration("read-timeout", text)).toBe(ms);
  });

  test.each(["30", "0s", "-1s", "s", "1d", "1000h"])("refuses %j", (text) => {
    expect(() => parseDuration("read-timeout", text)).toThrow("a time such as 500ms, 30s or 2m is wanted");
  });
});

test("platformOf() falls back to this machine and refuses what is no platform", () => {
  expect(platformOf("linux/arm64")).toEqual({ os: "linux", architecture: "arm64" });
  expect(platformOf(undefined).os).toBe("linux");
  expect(() => platformOf("a/b/c/d")).toThrow("Cannot parse platform");
});

test("platformsOf() takes several platforms or all, not both", () => {
  expect(platformsOf("linux/arm64,amd64", false)).toEqual([
    { os: "linux", architecture: "arm64" },
    { os: "linux", architecture: "amd64" },
  ]);
  expect(platformsOf(undefined, false)).toHaveLength(1);
  expect(platformsOf(undefined, true)).toBe("all");
  expect(() => platformsOf("linux/arm64", true)).toThrow("--platform");
});

test("parseList() splits at commas and refuses empty members", () => {
  expect(parseList("platform", undefined)).toEqual([]);
  expect(parseList("platform", "a, b")).toEqual(["a", "b"]);
  expect(() => parseList("platform", "a,,b")).toThrow("--platform");
});

test("parseChoice() names the choices", () => {
  expect(parseChoice("engine", "fuse", ["fuse", "erofs"])).toBe("fuse");
  expect(() => parseChoice("engine", "nfs", ["fuse", "erofs"])).toThrow("one of fuse, erofs is wanted");
});
