import { expect, test } from "bun:test";
import { formatTable } from "../../../src/cli/output.ts";
import { stateRoot } from "../../../src/cli/state-root.ts";

test("formatTable() aligns columns, numbers to the right, and leaves no trailing space", () => {
  expect(
    formatTable(
      ["NAME", ">SIZE", "X"],
      [
        ["a", "12345", ""],
        ["longer", "1", "y"],
      ],
    ),
  ).toBe("NAME     SIZE  X\na       12345\nlonger      1  y\n");
});

test("stateRoot() takes the flag before NYDUS_ROOT before the default", () => {
  expect(stateRoot("/flag", { NYDUS_ROOT: "/env" })).toBe("/flag");
  expect(stateRoot(undefined, { NYDUS_ROOT: "/env" })).toBe("/env");
  expect(stateRoot("relative", {})).toBe(`${process.cwd()}/relative`);
  const fallback = stateRoot(undefined, { NYDUS_ROOT: "", XDG_DATA_HOME: "/data" });
  expect(fallback).toBe(process.getuid?.() === 0 ? "/var/lib/nydus" : "/data/nydus");
});
