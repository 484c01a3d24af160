import { expect, test } from "bun:test";
import { readTomlStatements, statementOf } from "../../../../src/operation/host/toml-statements.ts";

const TEXT = `# about
a = 1 # one
b.'c.d'."e\\u00e9\\"" = "x # y" # two

[ t . "u v" ]  # [no]
list = [ # ] no
  "a]", 'b"', # "
  [1, { x = "}" }],
]
long = """
[not.a.header]
\\""" x = 1
"""
raw = '''
y = 2 ''''
[[many]]
  k = {a = 1, b = [2]}
[many.sub]
empty = ""
date = 1979-05-27 07:32:00
last = true`;

test("readTomlStatements() finds headers and assignments, their paths, lines and values", () => {
  const found = readTomlStatements(TEXT).map(({ kind, path, line, start, valueStart, end }) => {
    const value = kind === "value" ? TEXT.slice(valueStart, end) : TEXT.slice(start, end);
    return [line, kind, path.join("|"), value.replaceAll("\n", "~")];
  });
  expect(found).toEqual([
    [2, "value", "a", "1"],
    [3, "value", 'b|c.d|eé"', '"x # y"'],
    [5, "table", "t|u v", '[ t . "u v" ]'],
    [6, "value", "t|u v|list", `[ # ] no~  "a]", 'b"', # "~  [1, { x = "}" }],~]`],
    [10, "value", "t|u v|long", '"""~[not.a.header]~\\""" x = 1~"""'],
    [14, "value", "t|u v|raw", "'''~y = 2 ''''"],
    [16, "array", "many", "[[many]]"],
    [17, "value", "many|k", "{a = 1, b = [2]}"],
    [18, "table", "many|sub", "[many.sub]"],
    [19, "value", "many|sub|empty", '""'],
    [20, "value", "many|sub|date", "1979-05-27 07:32:00"],
    [21, "value", "many|sub|last", "true"],
  ]);
});

test("readTomlStatements() ends on any text", () => {
  for (const text of ['"', "'''", "[", "[[", "a", "a =", "a.", '"""\\', "= [", "\r", "\ufeff", "[a\n=b"]) {
    expect(readTomlStatements(text).length).toBeLessThan(3);
  }
});

test.each([
  [["t", "u v", "list"], 6],
  [["t", "u v", "list", "deeper"], 6],
  [["many", "sub"], 18],
  [["b"], 3],
  [["nothing"], undefined],
] as const)("statementOf() names what says something of %p", (path, line) => {
  expect(statementOf(readTomlStatements(TEXT), path)?.line).toBe(line as number);
});
