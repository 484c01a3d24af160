import { describe, expect, test } from "bun:test";
import { IMAGE_COMMANDS } from "../../../../src/cli/nydus-image/commands.ts";
import { CREATE_SHAPE } from "../../../../src/cli/nydus-image/create-options.ts";
import { type CommandShape, helpOf, type Parsed } from "../../../../src/cli/nydus-image/option.ts";
import { parseHead, parseWords, UsageError } from "../../../../src/cli/nydus-image/parse.ts";

const merge = await shapeOf("merge");
const inspect = await shapeOf("inspect");

async function shapeOf(name: string): Promise<CommandShape> {
  const entry = IMAGE_COMMANDS[name];
  if (entry === undefined) throw new Error(`no command ${name}`);
  return (await entry.load()).shape;
}

const given = ({ values, positionals }: Parsed, ...names: string[]) => [
  names.map((one) => values.get(one)),
  positionals,
];

describe("parseWords()", () => {
  test("takes options before, between and behind positionals", () => {
    const words = "-l warn one --bootstrap out two --blob-digests a,b".split(" ");
    const parsed = parseWords(merge, words);
    expect(given(parsed, "log-level", "bootstrap", "blob-digests")).toEqual([
      ["warn", "out", "a,b"],
      ["one", "two"],
    ]);
  });

  test.each([
    [["boot", "-R", "blobs"], "blobs"],
    [["boot", "-Rblobs"], "blobs"],
    [["-R blobs", "boot"], " blobs"],
    [["--request=stat x", "boot"], "stat x"],
    [["-R=blobs", "boot"], "blobs"],
  ])("reads the request of %j", (words, request) => {
    expect(given(parseWords(inspect, words), "request")).toEqual([[request], ["boot"]]);
  });

  test("knows the names that older callers use", () => {
    const parsed = parseWords(CREATE_SHAPE, ["--source-type", "directory", "--inline-bootstrap", "--blob", "b", "dir"]);
    expect(given(parsed, "type", "blob-inline-meta", "blob")).toEqual([["directory", true, "b"], ["dir"]]);
  });

  test("fills defaults in, and nothing else", () => {
    const { values } = parseWords(CREATE_SHAPE, ["--blob-inline-meta", "x"]);
    expect([...values.keys()].sort()).toEqual(
      ["batch-size", "blob-inline-meta", "compressor", "digester", "fs-version", "log-level"].concat([
        "prefetch-policy",
        "type",
        "whiteout-spec",
      ]),
    );
  });

  test("takes everything behind -- as positionals", () => {
    expect(parseWords(merge, ["a", "--", "-b", "--c"]).positionals).toEqual(["a", "-b", "--c"]);
  });

  test.each([
    [["--frob", "x"], "unexpected argument '--frob' found"],
    [["-z", "x"], "unexpected argument '-z' found"],
    [["--blob-inline-meta", "a", "b"], "unexpected argument 'b' found"],
    [
      ["--blob-inline-meta", "-b", "x", "--blob", "y", "s"],
      "the argument '--blob <blob>' cannot be used multiple times",
    ],
    [["--blob-inline-meta"], "the following required arguments were not provided:\n  <SOURCE>"],
    [["-b", "x"], "the following required arguments were not provided:\n  --bootstrap <bootstrap>\n  <SOURCE>"],
    [
      ["--blob-inline-meta", "-B", "x", "s"],
      "the argument '--bootstrap <bootstrap>' cannot be used with '--blob-inline-meta'",
    ],
    [
      ["--blob", "x", "--blob-cache-dir", "y", "-B", "z", "s"],
      "the argument '--blob <blob>' cannot be used with '--blob-cache-dir <blob-cache-dir>'",
    ],
    [["--chunk-dict"], "a value is required for '--chunk-dict <chunk-dict>' but none was supplied"],
    [["--chunk-dict", "--blob", "x"], "a value is required for '--chunk-dict <chunk-dict>' but none was supplied"],
    [
      ["--compressor", "gzip", "s"],
      "invalid value 'gzip' for '--compressor <compressor>'\n  [possible values: none, lz4_block, zstd]",
    ],
    [["--blob-inline-meta=yes", "s"], "unexpected value 'yes' for '--blob-inline-meta'"],
  ])("refuses %j", (words, message) => {
    expect(() => parseWords(CREATE_SHAPE, words)).toThrow(UsageError);
    expect(() => parseWords(CREATE_SHAPE, words)).toThrow(message);
  });

  test("lets --help excuse what is missing", () => {
    expect(parseWords(CREATE_SHAPE, ["-h"]).values.has("help")).toBe(true);
  });
});

test("parseHead() stops at the command's name", () => {
  const [values, rest] = parseHead(merge, ["-l", "warn", "merge", "-B", "x"]);
  expect([[...values], rest]).toEqual([[["log-level", "warn"]], ["merge", "-B", "x"]]);
});

describe("the help of create", () => {
  const help = helpOf(CREATE_SHAPE);

  test.each(["--type", "tar-rafs", "--encrypt"])("has %s, by which converters know what a builder can do", (word) => {
    expect(help).toContain(word);
  });

  test("does not promise batches, without which converters make good images too", () => {
    expect(help).not.toContain("--batch-size");
  });
});
