import { describe, expect, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as abi from "../../../../src/format/fuse/abi.ts";
import { FUSE_OPCODES, handlerOf } from "../../../../src/format/fuse/opcode.ts";

const HEADER = "/usr/include/linux/fuse.h";
const hasOracle = existsSync(HEADER) && spawnSync("cc", ["--version"]).status === 0;

/** Evaluates integer C expressions against the kernel's own header. */
function evaluate(expressions: readonly string[]): number[] {
  const dir = mkdtempSync(join(tmpdir(), "nydus-abi-"));
  try {
    const prints = expressions.map((expression) => `printf("%lld\\n", (long long)(${expression}));`).join("\n");
    const source = `#include <stdio.h>\n#include <stddef.h>\n#include <dirent.h>\n#include <linux/fuse.h>\nint main(void) {\n${prints}\nreturn 0; }\n`;
    writeFileSync(join(dir, "abi.c"), source);
    const built = spawnSync("cc", ["-w", "-o", join(dir, "abi"), join(dir, "abi.c")], { encoding: "utf8" });
    if (built.status !== 0) throw new Error(built.stderr);
    return spawnSync(join(dir, "abi"), { encoding: "utf8" }).stdout.trim().split("\n").map(Number);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

const snake = (name: string): string => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);

const RECORDS = [
  abi.InHeader,
  abi.OutHeader,
  abi.InitOut,
  abi.Attr,
  abi.EntryOut,
  abi.AttrOut,
  abi.OpenOut,
  abi.ReadIn,
  abi.GetxattrIn,
  abi.GetxattrOut,
  abi.StatfsOut,
];

describe.skipIf(!hasOracle)("the kernel's header agrees", () => {
  test.each(RECORDS.map((record) => [record.title, record] as const))("on the layout of %s", (title, record) => {
    const names = Object.keys(record.at);
    const expressions = names.map((name) => `offsetof(struct ${title}, ${snake(name)})`);
    const [size, ...offsets] = evaluate([`sizeof(struct ${title})`, ...expressions]);
    expect(size).toBe(record.sizeBytes);
    expect(Object.fromEntries(names.map((name, i) => [name, offsets[i] as number]))).toEqual(
      record.at as object as Record<string, number>,
    );
  });

  test("on the layout of directory entries and the head of fuse_init_in", () => {
    const [name, off, namelen, type, flags] = evaluate([
      "FUSE_NAME_OFFSET",
      "offsetof(struct fuse_dirent, off)",
      "offsetof(struct fuse_dirent, namelen)",
      "offsetof(struct fuse_dirent, type)",
      "offsetof(struct fuse_init_in, flags)",
    ]);
    expect([name, off, namelen, type]).toEqual([
      abi.Dirent.sizeBytes,
      abi.Dirent.at.off,
      abi.Dirent.at.namelen,
      abi.Dirent.at.type,
    ]);
    expect(flags).toBe(abi.InitIn.at.flags);
  });

  test("on every opcode that it has", () => {
    // STATX came after this header.
    const known = Object.entries(FUSE_OPCODES).filter(([name]) => name !== "STATX");
    expect(evaluate(known.map(([name]) => `FUSE_${name}`))).toEqual(known.map(([, row]) => row.code));
  });

  test("on every flag and directory entry type", () => {
    const flags = Object.entries(abi.InitFlag);
    expect(evaluate(flags.map(([name]) => `FUSE_${name}`))).toEqual(flags.map(([, bit]) => bit));
    const open = Object.entries(abi.OpenFlag);
    expect(evaluate(open.map(([name]) => `FOPEN_${name}`))).toEqual(open.map(([, bit]) => bit));
    const types = ["DT_FIFO", "DT_CHR", "DT_DIR", "DT_BLK", "DT_REG", "DT_LNK", "DT_SOCK"];
    expect(evaluate(types)).toEqual(Object.values(abi.DirentType));
  });
});

test("handlerOf() calls an opcode that it does not know unsupported", () => {
  expect(handlerOf(4096)).toBe("unsupported");
  expect(handlerOf(0)).toBe("unsupported");
  expect(handlerOf(FUSE_OPCODES.FORGET.code)).toBe("silent");
});
