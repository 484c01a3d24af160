import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { concatBytes, keyOfBytes } from "../../../../src/base/bytes.ts";
import type { TarEntry } from "../../../../src/format/tar/reader.ts";
import { directoryEntries, withoutOwners } from "../../../../src/operation/build/directory-entries.ts";
import { shell } from "../../../kit/shell.ts";

const isRoot = process.getuid?.() === 0;
let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "nydus-directory-"));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

async function read(entries: AsyncIterable<TarEntry>) {
  const found: (Omit<TarEntry, "path" | "linkPath" | "content"> & { path: string; linkPath: string; text: string })[] =
    [];
  for await (const entry of entries) {
    const pieces: Uint8Array[] = [];
    for await (const piece of entry.content) pieces.push(piece);
    const [path, linkPath] = [keyOfBytes(entry.path), keyOfBytes(entry.linkPath)];
    found.push({ ...entry, path, linkPath, text: keyOfBytes(concatBytes(pieces)) });
  }
  return found;
}

describe("directoryEntries()", () => {
  test("gives the root first, directories before what they hold, names in the order of their bytes", async () => {
    await shell(`cd '${dir}'; mkdir -p b/y b.d a; touch b/x $'b/\\xff' b-c c $'\\xe9'`);
    const entries = await read(directoryEntries(dir));
    expect(entries.map(({ path }) => path)).toEqual(
      ["", "a", "b", "b/x", "b/y", "b/\xff", "b-c", "b.d", "c", "\xe9"].sort((x, y) => {
        const key = (path: string): string => path.replaceAll("/", "\0");
        return key(x) < key(y) ? -1 : 1;
      }),
    );
  });

  test("tells type, mode, owner, time, content and further names", async () => {
    writeFileSync(join(dir, "file"), "hello");
    await shell(`cd '${dir}'; chmod 4751 file; ln file hard; ln -s 'to nothing' link; mkfifo fifo; touch -d @-1 fifo
      touch -h -d @1500000000.123456789 file; touch -h -d @-1.5 link`);
    const entries = new Map((await read(directoryEntries(dir))).map((entry) => [entry.path, entry]));
    expect(entries.get("file")).toMatchObject({
      ...{ type: "file", mode: 0o4751, sizeBytes: 5, text: "hello", uid: process.getuid?.() ?? 0 },
      ...{ mtimeSec: 1_500_000_000, mtimeNsec: 123_456_789 },
    });
    expect(entries.get("hard")).toMatchObject({ type: "hardlink", linkPath: "file", sizeBytes: 0 });
    expect(entries.get("link")).toMatchObject({
      ...{ type: "symlink", linkPath: "to nothing", mtimeSec: -2, mtimeNsec: 500_000_000 },
    });
    expect(entries.get("fifo")).toMatchObject({ type: "fifo", mtimeSec: -1, mtimeNsec: 0 });
  });

  test.skipIf(!isRoot)("tells devices and xattrs", async () => {
    await shell(`cd '${dir}'; mknod dev b 291 74565; touch x; setfattr -n trusted.a -v 0x00ff x; setfattr -n user.e x`);
    const entries = new Map((await read(directoryEntries(dir))).map((entry) => [entry.path, entry]));
    expect(entries.get("dev")).toMatchObject({ type: "block", rdevMajor: 291, rdevMinor: 74565 });
    expect([...(entries.get("x")?.xattrs ?? [])].sort()).toEqual([
      ["trusted.a", Uint8Array.of(0, 255)],
      ["user.e", new Uint8Array(0)],
    ]);
  });

  test("follows no symlink, and says where a file cannot be read", async () => {
    await shell(`cd '${dir}'; ln -s /etc outside`);
    const entries = await read(directoryEntries(dir));
    expect(entries.map(({ path }) => path)).toEqual(["", "outside"]);
    await expect(read(directoryEntries(join(dir, "none")))).rejects.toMatchObject({ code: "ENOENT" });
  });
});

test("withoutOwners() leaves owners out", async () => {
  const owned = (await read(withoutOwners(directoryEntries(dir)))).map(({ uid, gid }) => [uid, gid]);
  expect(owned).toEqual([[0, 0]]);
});
