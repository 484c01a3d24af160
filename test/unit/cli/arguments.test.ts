import { describe, expect, test } from "bun:test";
import { type ArgsDef, parseArgs } from "citty";
import { NydusError } from "../../../src/base/errors.ts";
import { readCommandArguments, readGlobalFlags, toCittyArguments } from "../../../src/cli/arguments.ts";

const ARGS = {
  source: { type: "positional", required: true },
  target: { type: "positional", required: false },
  level: { type: "string", alias: "l" },
  platform: { type: "string", valueHint: "OS/ARCH,..." },
  codec: { type: "enum", options: ["zstd", "none"] },
  recursive: { type: "boolean", alias: "R" },
} as const satisfies ArgsDef;

function read(...words: string[]): { flags: Record<string, string | true>; positionals: readonly string[] } {
  const { flags, positionals } = readCommandArguments(words, ARGS);
  return { flags: Object.fromEntries(flags), positionals };
}

function refusal(...words: string[]): string {
  try {
    read(...words);
  } catch (error) {
    expect(error).toBeInstanceOf(NydusError);
    expect((error as NydusError).code).toBe("EINVAL");
    return (error as NydusError).message;
  }
  throw new Error(`${words.join(" ")} was taken`);
}

describe("readCommandArguments()", () => {
  test("takes flags before, between and after positionals, in each spelling", () => {
    expect(read("--level", "3", "a", "-R", "--codec=none", "b", "-q")).toEqual({
      flags: { level: "3", recursive: true, codec: "none", quiet: true },
      positionals: ["a", "b"],
    });
    expect(read("a", "-l3").flags).toEqual({ level: "3" });
    expect(read("a", "-l=3").flags).toEqual({ level: "3" });
    expect(read("a", "-qRl", "3").flags).toEqual({ quiet: true, recursive: true, level: "3" });
  });

  test("takes global flags after the command", () => {
    expect(read("a", "--root", "/state", "--json", "--debug").flags).toEqual({
      root: "/state",
      json: true,
      debug: true,
    });
  });

  test("takes '-' and everything behind '--' as positionals", () => {
    expect(read("a", "-").positionals).toEqual(["a", "-"]);
    expect(read("--", "-R", "--level").positionals).toEqual(["-R", "--level"]);
  });

  test("takes a value that looks like a flag, and an empty one", () => {
    expect(read("a", "--level", "-1").flags).toEqual({ level: "-1" });
    expect(read("a", "--level=").flags).toEqual({ level: "" });
  });

  test("joins a repeated list and lets the last of other flags win", () => {
    expect(read("a", "--platform", "linux/amd64", "--platform=linux/arm64").flags).toEqual({
      platform: "linux/amd64,linux/arm64",
    });
    expect(read("a", "--level", "1", "--level", "2").flags).toEqual({ level: "2" });
    expect(read("a", "--recursive", "--recursive=false").flags).toEqual({});
  });

  test("lets --help excuse missing arguments, but not unknown flags", () => {
    expect(read("--help").flags).toEqual({ help: true });
    expect(refusal("--help", "--nope")).toBe("Unknown flag --nope");
  });

  test.each([
    [["a", "--nope"], "Unknown flag --nope"],
    [["a", "--nope=1"], "Unknown flag --nope"],
    [["a", "--Level", "1"], "Unknown flag --Level"],
    [["a", "--l", "1"], "Unknown flag --l"],
    [["a", "-x"], "Unknown flag -x"],
    [["a", "-Rx"], "Unknown flag -x"],
    [["a", "--no-recursive"], "Unknown flag --no-recursive"],
    [["a", "--constructor"], "Unknown flag --constructor"],
    [["a", "--source", "b"], "Unknown flag --source"],
    [["a", "--level"], "Flag --level needs a value"],
    [["a", "-l"], "Flag -l needs a value"],
    [["a", "--recursive=yes"], 'Flag --recursive takes no value, it was given "yes"'],
    [["a", "--codec", "gzip"], 'Flag --codec takes one of zstd, none, it was given "gzip"'],
    [[], "Missing argument SOURCE"],
    [["a", "b", "c"], 'Unexpected argument "c"'],
  ])("refuses %j", (words, message) => {
    expect(refusal(...words)).toBe(message);
  });
});

test("a positional that stands for several takes one or more words", () => {
  const args = { image: { type: "positional", required: true, valueHint: "IMAGE..." } } as const;
  expect(readCommandArguments(["a", "b", "c"], args).positionals).toEqual(["a", "b", "c"]);
  expect(() => readCommandArguments([], args)).toThrow("Missing argument IMAGE");
});

describe("readGlobalFlags()", () => {
  test("stops at the command's name, whose own flags it leaves alone", () => {
    const [before, rest] = readGlobalFlags(["--root", "convert", "--json", "convert", "--nope"], {
      root: { type: "string" },
      json: { type: "boolean" },
    });
    expect(Object.fromEntries(before.flags)).toEqual({ root: "convert", json: true });
    expect(rest).toEqual(["convert", "--nope"]);
  });
});

test("toCittyArguments() has citty take a flag that begins with no- for what it is", () => {
  const args: ArgsDef = { "no-unpack": { type: "boolean" } };
  const taken = (...words: string[]): unknown =>
    parseArgs(toCittyArguments(readCommandArguments(words, args)), args)["no-unpack"];
  expect(taken("--no-unpack")).toBe(true);
  expect(taken()).not.toBe(true);
});

test("toCittyArguments() leaves nothing for citty to guess", () => {
  const strict = readCommandArguments(["--", "--no-x", "-"], ARGS);
  expect(toCittyArguments({ ...strict, flags: new Map([["level", "--no-y"]]) })).toEqual([
    "--level=--no-y",
    "--",
    "--no-x",
    "-",
  ]);
});
