import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { createHash, randomBytes } from "node:crypto";
import { closeSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { canMountErofs } from "../kit/erofs-lab.ts";
import { canMount } from "../kit/mount-fixture.ts";
import { OciDraft } from "../kit/oci-image.ts";
import { powerCutMissing } from "../kit/power-cut.ts";
import { isBuilt, nydus, nydusOk } from "../kit/program.ts";
import { run, shell } from "../kit/shell.ts";

const FILES = 24;
const FILE_BYTES = 1 << 20;
/** How long what was read may take to be on the disk. */
const FLUSH_MS = 10_000;

interface CacheRow {
  readonly digest: string;
  readonly filledBytes: number;
  readonly diskBytes: number;
  readonly isInUse: boolean;
  readonly mountpoints: readonly string[];
}

let dir: string;
let image: string;
const contents = new Map<string, string>();
const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

/** A state directory with its mounts, which end with the test. */
class State {
  readonly root: string;
  readonly mountpoint: string;

  constructor(name: string) {
    this.root = join(dir, name);
    this.mountpoint = join(dir, `${name}-mnt`);
    mkdirSync(this.mountpoint, { recursive: true });
  }

  nydus(...args: string[]): ReturnType<typeof nydus> {
    return nydus("--root", this.root, ...args);
  }

  ok(...args: string[]): Promise<string> {
    return nydusOk("--root", this.root, ...args);
  }

  async caches(): Promise<CacheRow[]> {
    return JSON.parse(await this.ok("cache", "ls", "--json")) as CacheRow[];
  }

  /** Waits until so much is on the disk. */
  async untilFilled(bytes: number): Promise<CacheRow> {
    for (let waited = 0; waited < FLUSH_MS; waited += 100) {
      const [row] = await this.caches();
      if (row !== undefined && row.filledBytes >= bytes) return row;
      await Bun.sleep(100);
    }
    throw new Error(`the cache is not filled after ${FLUSH_MS} ms`);
  }

  async end(): Promise<void> {
    await run("umount", "-l", this.mountpoint);
    await this.nydus("daemon", "stop");
    rmSync(this.root, { recursive: true, force: true });
  }
}

let state: State;

describe.skipIf(!isBuilt || !canMount)("nydus cache", () => {
  beforeAll(async () => {
    dir = mkdtempSync(join(tmpdir(), "nydus-e2e-cache-"));
    const tree = join(dir, "tree");
    mkdirSync(tree);
    for (let i = 0; i < FILES; i++) {
      const bytes = randomBytes(FILE_BYTES);
      contents.set(`f${i}`, sha256(bytes));
      writeFileSync(join(tree, `f${i}`), bytes);
    }
    await shell(`cd '${tree}' && tar -cf ../layer.tar *`);
    const draft = new OciDraft(join(dir, "oci"));
    const plain = draft.name(draft.addImage([draft.addLayer(readFileSync(join(dir, "layer.tar")))]), "plain");
    image = `oci:${join(dir, "oci")}:nydus`;
    await nydusOk("--root", join(dir, "convert"), "convert", plain, image);
  }, 60_000);
  afterAll(() => rmSync(dir, { recursive: true, force: true }));

  afterEach(() => state.end());

  const read = async (name: string): Promise<string> => sha256(readFileSync(join(state.mountpoint, name)));

  test("ls, du and gc tell what is there, and never take what a mount uses", async () => {
    state = new State("gc");
    await state.ok("mount", image, state.mountpoint);
    expect(await read("f3")).toBe(contents.get("f3") ?? "");
    const row = await state.untilFilled(FILE_BYTES);
    expect(row).toMatchObject({ isInUse: true, mountpoints: [state.mountpoint] });
    expect(await state.ok("cache", "ls")).toContain(state.mountpoint);
    const use = JSON.parse(await state.ok("cache", "du", "--json")) as { diskBytes: number; inUseBytes: number };
    expect(use.inUseBytes).toBe(use.diskBytes);
    const kept = await state.nydus("cache", "gc", "--max-size", "0");
    expect([kept.status, kept.stdout.startsWith("0 caches removed")]).toEqual([0, true]);
    expect(kept.stderr).toContain("in use and stay");
    expect(await read("f3")).toBe(contents.get("f3") ?? "");
    await state.ok("umount", state.mountpoint);
    await state.ok("daemon", "stop");
    expect((await state.caches()).map(({ isInUse }) => isInUse)).toEqual([false]);
    expect((await state.ok("cache", "gc", "--max-size", "1GiB")).startsWith("0 caches removed")).toBe(true);
    expect(await state.ok("--quiet", "cache", "gc", "--max-size", "1")).toBe(`${row.digest}\n`);
    expect(await state.caches()).toEqual([]);
  }, 60_000);

  test("verify finds and drops what is damaged, with status 5, and it is fetched again", async () => {
    state = new State("verify");
    await state.ok("mount", "--prefetch", "all", image, state.mountpoint);
    const { digest } = await state.untilFilled(FILES * FILE_BYTES);
    await state.ok("umount", state.mountpoint);
    await state.ok("daemon", "stop");
    expect(await state.ok("cache", "verify")).toMatch(/24 chunks, 24\.0 MiB, 0 damaged/);
    const fd = openSync(join(state.root, "cache", `${digest.slice("sha256:".length)}.data`), "r+");
    writeSync(fd, Buffer.from("damage"), 0, 6, 5 * FILE_BYTES + 4);
    closeSync(fd);
    const found = await state.nydus("cache", "verify", digest.slice(7, 19));
    expect([found.status, found.stdout.includes("1 damaged")]).toEqual([5, true]);
    expect(found.stderr).toContain(`1048576 bytes at ${5 * FILE_BYTES} of ${digest} (dropped)`);
    expect((await state.nydus("cache", "verify")).status).toBe(0);
    await state.ok("mount", image, state.mountpoint);
    for (const [name, sum] of contents) expect(await read(name)).toBe(sum);
  }, 60_000);

  test.each([
    [["cache", "gc"], 2, "Missing flag --max-size"],
    [["cache", "sweep"], 2, 'Unknown action "sweep"'],
    [["cache", "verify", "abcd"], 3, "there is none"],
    [["cache", "ls", "abcd"], 2, "no argument behind it"],
  ])("%p ends with status %p", async (args, status, message) => {
    state = new State("usage");
    const found = await state.nydus(...args);
    expect(found.status).toBe(status);
    expect(found.stderr).toContain(message);
  });

  // The kernel's EROFS driver has one error for all that its files may have.
  test
    .skipIf(powerCutMissing() !== undefined)
    .each([["fuse", "ENOSPC"], ...(canMountErofs() ? [["erofs", "EIO"] as const] : [])] as const)(
    "a full disk is, by %s, %s to readers; what they get is right, and when there is space they get the rest",
    async (engine, code) => {
      state = new State("full");
      mkdirSync(state.root);
      const disk = join(dir, "disk");
      await shell(`truncate -s 16M '${disk}' && mkfs.ext4 -q -F '${disk}' && mount -o loop '${disk}' '${state.root}'`);
      try {
        const hog = join(state.root, "hog");
        writeFileSync(hog, Buffer.alloc(6 << 20, 1));
        await state.ok("mount", "--engine", engine, image, state.mountpoint);
        const codes = new Map<string, string>();
        for (const [name, sum] of contents) {
          try {
            expect(await read(name)).toBe(sum);
          } catch (error) {
            codes.set(name, (error as NodeJS.ErrnoException).code ?? "");
          }
        }
        expect(codes.size).toBeGreaterThan(10);
        expect(codes.size).toBeLessThan(FILES); // some have found room
        expect([...new Set(codes.values())]).toEqual([code]);
        rmSync(hog);
        // ext4 gives freed blocks out again once its journal has committed.
        await shell(`sync -f '${state.root}'`);
        const [late = ""] = [...codes.keys()];
        expect(await read(late)).toBe(contents.get(late) ?? "");
        await state.ok("umount", state.mountpoint);
        await state.ok("daemon", "stop");
        expect((await state.nydus("cache", "verify")).status).toBe(0);
      } finally {
        await run("umount", "-l", state.mountpoint);
        await state.nydus("daemon", "stop");
        await run("umount", "-l", state.root);
      }
    },
    60_000,
  );
});
