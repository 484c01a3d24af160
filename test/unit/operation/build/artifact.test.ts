import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { concatBytes } from "../../../../src/base/bytes.ts";
import { digestOfHex } from "../../../../src/base/digest.ts";
import { openArtifact, openInput } from "../../../../src/operation/build/artifact.ts";
import { run } from "../../../kit/shell.ts";

const DIGEST = digestOfHex("ab".repeat(32));
const MEGABYTE = new Uint8Array(1 << 20).fill(7);
let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "nydus-artifact-"));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

function pipe(name: string): string {
  const path = join(dir, name);
  spawnSync("mkfifo", [path]);
  return path;
}

async function readAll(path: string): Promise<Uint8Array> {
  await using input = await openInput(path);
  const pieces: Uint8Array[] = [];
  for await (const piece of input.bytes) pieces.push(piece);
  return concatBytes(pieces);
}

describe("openArtifact()", () => {
  test("gives a file its name when it is complete, in the place of what had it", async () => {
    const path = join(dir, "blob");
    writeFileSync(path, "old");
    await using sink = await openArtifact({ path });
    await sink.write(MEGABYTE);
    expect(readFileSync(path, "utf8")).toBe("old");
    await sink.commit(DIGEST, MEGABYTE.length);
    expect(readFileSync(path).equals(MEGABYTE)).toBe(true);
  });

  test("leaves nothing of a file that is not committed", async () => {
    {
      await using sink = await openArtifact({ path: join(dir, "blob") });
      await sink.write(MEGABYTE);
    }
    expect(readdirSync(dir)).toEqual([]);
  });

  test("names a file in a directory by its digest", async () => {
    await using sink = await openArtifact({ dir });
    await sink.write(MEGABYTE);
    await sink.commit(DIGEST, MEGABYTE.length);
    expect(readdirSync(dir)).toEqual(["ab".repeat(32)]);
  });

  test("writes to a pipe as its reader takes it", async () => {
    const path = pipe("out");
    const counted = run("wc", "-c", path);
    {
      await using sink = await openArtifact({ path });
      for (let i = 0; i < 3; i++) await sink.write(MEGABYTE);
      await sink.commit(DIGEST, 3 * MEGABYTE.length);
    }
    expect((await counted).stdout).toStartWith(`${3 * MEGABYTE.length} `);
    expect(existsSync(path)).toBe(true);
  });

  test("fails when the reader of a pipe has gone", async () => {
    const path = pipe("out");
    const reader = spawn("head", ["-c", "10", path], { stdio: "ignore" });
    const ended = new Promise((resolve) => reader.once("exit", resolve));
    await using sink = await openArtifact({ path });
    const writing = (async () => {
      for (let i = 0; i < 10; i++) await sink.write(MEGABYTE);
    })();
    await expect(writing).rejects.toMatchObject({ code: "EIO", at: { path } });
    await ended;
  });

  test("refuses a directory as a file", async () => {
    await expect(openArtifact({ path: dir })).rejects.toMatchObject({ code: "EINVAL" });
  });
});

describe("openInput()", () => {
  test("gives a pipe's bytes until its writer is done, however they come", async () => {
    const path = pipe("in");
    const script = `(printf abc; sleep 0.1; head -c 300000 /dev/zero; sleep 0.1; printf end) > '${path}'`;
    const writer = run("bash", "-c", script);
    const bytes = await readAll(path);
    expect((await writer).status).toBe(0);
    expect([bytes.length, Buffer.from(bytes.subarray(-3)).toString()]).toEqual([300006, "end"]);
  });

  test("gives a file's bytes", async () => {
    const path = join(dir, "file");
    writeFileSync(path, concatBytes([MEGABYTE, MEGABYTE, Uint8Array.of(1)]));
    expect((await readAll(path)).length).toBe(2 * MEGABYTE.length + 1);
  });

  test("lets a writer go when it is closed early", async () => {
    const path = pipe("in");
    const writer = run("bash", "-c", `head -c 9000000 /dev/zero > '${path}'`);
    {
      await using input = await openInput(path);
      for await (const piece of input.bytes) {
        expect(piece.length).toBeGreaterThan(0);
        break;
      }
    }
    expect((await writer).status).not.toBe(0);
  });

  test("throws ENOENT where nothing is, and refuses a directory", async () => {
    await expect(openInput(join(dir, "none"))).rejects.toMatchObject({ code: "ENOENT" });
    await expect(openInput(dir)).rejects.toMatchObject({ code: "EINVAL" });
  });
});
