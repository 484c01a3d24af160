import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { NydusError } from "../../../../src/base/errors.ts";
import { unpackToDirectory } from "../../../../src/operation/image/extract.ts";
import { unpackToTar } from "../../../../src/operation/image/unpack.ts";
import type { CodecPool } from "../../../../src/os/codec-pool.ts";
import { openCodecPool } from "../../../../src/os/codec-threads.ts";
import { smallGolden } from "../../../kit/golden.ts";
import { openRafsDir } from "../../../kit/rafs-dir.ts";
import { diffTrees, readTree, type TreeEntry, treeOf } from "../../../kit/tree.ts";

const GOLDEN = smallGolden();
const isRoot = process.getuid?.() === 0;
const VARIANTS = ["v6-zstd-blake3-64k", "v6-lz4-sha256-4k"];

let dir: string;
let pool: CodecPool;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), "nydus-unpack-"));
  pool = openCodecPool({ threads: 2 });
});
afterAll(async () => {
  await pool[Symbol.asyncDispose]();
  rmSync(dir, { recursive: true, force: true });
});

/** Differences from the golden tree but for times, which nydus-image does not keep in all cases. */
function differences(tree: readonly TreeEntry[]): string[] {
  return diffTrees(readTree(join(GOLDEN, "tree.jsonl")), tree, { ignore: (field) => field === "mtime" });
}

async function failureOf(work: Promise<unknown>): Promise<NydusError> {
  const error = await work.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(NydusError);
  return error as NydusError;
}

/** A copy of a golden image in which one byte of each KiB of its blobs is another. */
function damagedCopy(name: string): string {
  const copy = join(dir, name);
  cpSync(join(GOLDEN, "rafs", "v6-lz4-sha256-4k"), copy, { recursive: true });
  for (const id of readdirSync(join(copy, "blobs"))) {
    const blob = join(copy, "blobs", id);
    const bytes = readFileSync(blob).map((byte, i) => (i % 1024 === 100 ? byte ^ 1 : byte));
    chmodSync(blob, 0o644);
    writeFileSync(blob, bytes);
  }
  return copy;
}

describe("unpackToDirectory()", () => {
  test.skipIf(!isRoot).each(VARIANTS)("writes the golden tree of %s", async (variant) => {
    await using image = await openRafsDir(join(GOLDEN, "rafs", variant));
    const target = join(dir, `dir-${variant}`);
    await unpackToDirectory(image, target, { pool });
    expect(differences(await treeOf(target))).toEqual([]);
  });

  test.skipIf(!isRoot)("fills an empty directory and leaves nothing beside it", async () => {
    await using image = await openRafsDir(join(GOLDEN, "rafs", "v6-lz4-sha256-4k"));
    const parent = join(dir, "parent");
    mkdirSync(join(parent, "empty"), { recursive: true });
    await unpackToDirectory(image, join(parent, "empty"), { pool });
    expect(readdirSync(parent)).toEqual(["empty"]);
    expect(readdirSync(join(parent, "empty")).length).toBeGreaterThan(5);
  });

  test("refuses a directory that is not empty, and a file", async () => {
    await using image = await openRafsDir(join(GOLDEN, "rafs", "v6-lz4-sha256-4k"));
    const full = join(dir, "full");
    mkdirSync(full);
    writeFileSync(join(full, "kept"), "kept");
    expect((await failureOf(unpackToDirectory(image, full, { pool }))).code).toBe("EEXIST");
    expect((await failureOf(unpackToDirectory(image, join(full, "kept"), { pool }))).code).toBe("EEXIST");
    expect(readdirSync(full)).toEqual(["kept"]);
  });

  test("names the file whose chunk is damaged, and leaves nothing", async () => {
    await using image = await openRafsDir(damagedCopy("damaged-dir"));
    const parent = join(dir, "after-damage");
    mkdirSync(parent);
    const error = await failureOf(unpackToDirectory(image, join(parent, "out"), { pool }));
    expect(["EBADMSG", "EUCLEAN"]).toContain(error.code);
    expect(error.at.path).toStartWith("/");
    expect(error.at.digest).toStartWith("sha256:");
    expect(readdirSync(parent)).toEqual([]);
  });

  test("stops when it is interrupted, and leaves nothing", async () => {
    await using image = await openRafsDir(join(GOLDEN, "rafs", "v6-lz4-sha256-4k"));
    const parent = join(dir, "interrupted");
    mkdirSync(parent);
    const signal = AbortSignal.abort(new NydusError("ECANCELED", "Interrupted"));
    const error = await failureOf(unpackToDirectory(image, join(parent, "out"), { pool, signal }));
    expect(error.code).toBe("ECANCELED");
    expect(readdirSync(parent)).toEqual([]);
  });
});

describe("unpackToTar()", () => {
  test.skipIf(!isRoot).each(VARIANTS)("gives GNU tar the golden tree of %s", async (variant) => {
    await using image = await openRafsDir(join(GOLDEN, "rafs", variant));
    const target = join(dir, `tar-${variant}`);
    mkdirSync(target);
    const tar = Bun.spawn(
      ["tar", "-xp", "--xattrs", "--xattrs-include=*", "--numeric-owner", "--warning=no-timestamp", "-C", target],
      {
        stdin: "pipe",
        stderr: "pipe",
      },
    );
    for await (const bytes of unpackToTar(image, { pool })) {
      tar.stdin.write(bytes);
      await tar.stdin.flush();
    }
    await tar.stdin.end();
    expect(await new Response(tar.stderr).text()).toBe("");
    expect(await tar.exited).toBe(0);
    expect(differences(await treeOf(target))).toEqual([]);
  });

  test("gives the same bytes each time", async () => {
    await using image = await openRafsDir(join(GOLDEN, "rafs", "v6-zstd-blake3-64k"));
    const digest = async (): Promise<string> => {
      const hasher = new Bun.CryptoHasher("sha256");
      for await (const bytes of unpackToTar(image, { pool })) hasher.update(bytes);
      return hasher.digest("hex");
    };
    expect(await digest()).toBe(await digest());
  });

  test("fails with the place of a damaged chunk", async () => {
    await using image = await openRafsDir(damagedCopy("damaged-tar"));
    const error = await failureOf(
      (async () => {
        for await (const _ of unpackToTar(image, { pool })) {
          // only the failure is wanted
        }
      })(),
    );
    expect(["EBADMSG", "EUCLEAN"]).toContain(error.code);
    expect(error.at.path).toStartWith("/");
  });
});
