import { afterEach, beforeEach, expect, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { NydusError } from "../../../src/base/errors.ts";
import { mapFile } from "../../../src/os/mmap.ts";

const isRoot = process.getuid?.() === 0;
let dir = "";

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "nydus-mmap-"));
});
afterEach(() => {
  spawnSync("umount", ["-l", join(dir, "ro")]);
  rmSync(dir, { recursive: true, force: true });
});

test("mapFile() gives the bytes of the file, and writing to them never reaches it", () => {
  const path = join(dir, "file");
  writeFileSync(path, Buffer.alloc(10_000, 7));
  using file = mapFile(path);
  expect(file.bytes.length).toBe(10_000);
  expect(file.bytes.every((byte) => byte === 7)).toBe(true);
  file.bytes[0] = 9;
  expect(readFileSync(path)[0]).toBe(7);
});

test("mapFile() gives no bytes for an empty file", () => {
  writeFileSync(join(dir, "empty"), "");
  using file = mapFile(join(dir, "empty"));
  expect(file.bytes.length).toBe(0);
});

test("mapFile() fails on a missing file and can be closed twice", () => {
  expect(() => mapFile(join(dir, "missing"))).toThrow(NydusError);
  writeFileSync(join(dir, "file"), "x");
  const file = mapFile(join(dir, "file"));
  file.close();
  file.close();
});

test.skipIf(!isRoot)("mapFile() maps a file of a read-only file system (Bun.mmap cannot)", () => {
  mkdirSync(join(dir, "ro"));
  expect(spawnSync("mount", ["-t", "tmpfs", "none", join(dir, "ro")]).status).toBe(0);
  writeFileSync(join(dir, "ro", "file"), "bytes");
  chmodSync(join(dir, "ro", "file"), 0o444);
  expect(spawnSync("mount", ["-o", "remount,ro", join(dir, "ro")]).status).toBe(0);
  using file = mapFile(join(dir, "ro", "file"));
  expect(Buffer.from(file.bytes).toString()).toBe("bytes");
});
