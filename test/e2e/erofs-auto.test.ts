import { afterAll, afterEach, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MountSources } from "../../src/operation/image/mount-source.ts";
import { openAutoHost } from "../../src/operation/mount/auto-engine.ts";
import type { MountHost, MountSession } from "../../src/operation/mount/engine.ts";
import { openErofsHost } from "../../src/operation/mount/erofs/engine.ts";
import { probeErofs } from "../../src/operation/mount/erofs/probe.ts";
import { parseMountFlags } from "../../src/operation/mount/mount-flags.ts";
import { findMount } from "../../src/os/mount.ts";
import { canMountErofs, makeLabImage } from "../kit/erofs-lab.ts";
import { run, shell } from "../kit/shell.ts";
import { makeSyntheticImage, type SyntheticImage } from "../kit/synthetic-image.ts";

setDefaultTimeout(60_000);
const canMount = canMountErofs();

let dir: string;
let root: string;
let image: SyntheticImage;
let sources: MountSources;
let host: MountHost;
const sessions: MountSession[] = [];
const closers: (() => Promise<void>)[] = [];
let choices: string[] = [];

beforeAll(() => {
  if (!canMount) return;
  dir = mkdtempSync(join(tmpdir(), "nydus-auto-"));
  root = join(dir, "state");
  image = makeSyntheticImage(dir, { files: 300, seed: 5, fileBytes: 9000 });
  sources = new MountSources(root);
  host = openAutoHost({ onChoice: (line) => choices.push(line) });
});

afterEach(async () => {
  for (const session of sessions.splice(0)) await session[Symbol.asyncDispose]();
  for (const close of closers.splice(0)) await close();
  choices = [];
});

afterAll(async () => {
  if (!canMount) return;
  await host[Symbol.asyncDispose]();
  await sources[Symbol.asyncDispose]();
  rmSync(dir, { recursive: true, force: true });
});

interface Asked {
  readonly bootstrapPath?: string;
  readonly options?: string;
  readonly from?: MountSources;
  readonly by?: MountHost;
}

async function mount(name: string, asked: Asked = {}): Promise<MountSession> {
  const { bootstrapPath = image.bootstrapPath, options = "", from = sources, by = host } = asked;
  const mountpoint = join(dir, name);
  mkdirSync(mountpoint, { recursive: true });
  const signal = new AbortController().signal;
  const source = await from.open({ bootstrapPath, blobDir: image.blobDir }, { signal });
  closers.push(async () => source[Symbol.asyncDispose]());
  const { bootstrap, devices } = source;
  const session = await by.mount({ mountpoint, bootstrap, devices, root, flags: parseMountFlags(options) });
  sessions.push(session);
  return session;
}

async function readSome(name: string): Promise<void> {
  for (let file = 0; file < image.files; file += 37) {
    const read = await readFile(join(dir, name, image.pathOf(file)));
    expect(Buffer.compare(read, image.contentOf(file))).toBe(0);
  }
}

describe.skipIf(!canMount)("--engine auto", () => {
  test("mounts by EROFS where that works, says why once, and keeps what the check of the bootstrap found", async () => {
    const session = await mount("one");
    expect([session.kind, findMount(join(dir, "one"))?.type]).toEqual([
      { engine: "erofs", type: "erofs", why: expect.stringContaining("asks before it reads") },
      "erofs",
    ]);
    expect(choices).toEqual([expect.stringContaining("engine erofs: ")]);
    await readSome("one");
    await mount("two");
    expect(choices.length).toBe(1);
    await readSome("two");
    const digest = new Bun.SHA256().update(readFileSync(image.bootstrapPath)).digest("hex");
    expect(readFileSync(join(root, "checked", digest), "utf8")).toContain("passed");
  });

  test("mounts by FUSE with options of FUSE, and says so in the session", async () => {
    const session = await mount("fuse", { options: "subtype=other" });
    expect(session.kind).toEqual({ engine: "fuse", type: "fuse.other", why: "its mount options are for FUSE" });
    await readSome("fuse");
  });

  test("mounts a large image by FUSE at first, and by EROFS once it has been checked", async () => {
    const large = join(dir, "large");
    mkdirSync(large, { recursive: true });
    const many = makeSyntheticImage(large, { files: 70_000, seed: 6, fileBytes: 16 });
    const open = async (name: string): Promise<string | undefined> => {
      const mountpoint = join(dir, name);
      mkdirSync(mountpoint, { recursive: true });
      const source = await sources.open(many, { signal: new AbortController().signal });
      closers.push(async () => source[Symbol.asyncDispose]());
      const session = await host.mount({ mountpoint, bootstrap: source.bootstrap, devices: source.devices, root });
      sessions.push(session);
      expect(await readFile(join(mountpoint, many.pathOf(69_999)))).toEqual(Buffer.from(many.contentOf(69_999)));
      return session.kind?.engine;
    };
    expect(await open("large-1")).toBe("fuse");
    const digest = new Bun.SHA256().update(readFileSync(many.bootstrapPath)).digest("hex");
    for (let waited = 0; !existsSync(join(root, "checked", digest)) && waited < 30_000; waited += 50)
      await Bun.sleep(50);
    expect(await open("large-2")).toBe("erofs");
  });

  test("mounts by FUSE what must not be handed to the kernel", async () => {
    const bytes = new Uint8Array(readFileSync(image.bootstrapPath));
    bytes[1024 + 13] = 1; // an extension slot
    const bootstrapPath = join(dir, "odd.boot");
    writeFileSync(bootstrapPath, bytes);
    const session = await mount("odd", { bootstrapPath });
    expect(session.kind?.engine).toBe("fuse");
    expect(choices.join()).toContain("extension slots");
    await readSome("odd");
  });
});

describe.skipIf(!canMount)("caches below EROFS mounts", () => {
  test("two images of a blob that know different chunks of it share the cache in one process, and fill it", async () => {
    const shape = { blobs: 2, filesPerBlob: 5, fileBytes: 150_000, seed: 70 };
    const [all, some] = [makeLabImage(dir, shape), makeLabImage(dir, { ...shape, without: 2 })];
    for (const device of all.devices) {
      writeFileSync(join(image.blobDir, new Bun.SHA256().update(device).digest("hex")), device);
    }
    const compare = async (name: string, files: ReadonlyMap<string, Uint8Array>): Promise<void> => {
      for (const [file, bytes] of files) {
        expect(Buffer.compare(await readFile(join(dir, name, file)), bytes)).toBe(0);
      }
    };
    await mount("some", { bootstrapPath: some.bootstrapPath });
    await compare("some", new Map([...some.files].slice(0, 2)));
    const second = await mount("all", { bootstrapPath: all.bootstrapPath });
    expect(second.kind?.engine).toBe("erofs");
    await Promise.all([compare("some", some.files), compare("all", all.files)]);
    // One data file a blob: nobody was sent away to a copy of his own.
    const data = readdirSync(join(root, "cache")).filter((name) => /^[0-9a-f]{64}\..*data$/.test(name));
    expect(new Set(data.map((name) => name.slice(0, 64))).size).toBe(data.length);
  });

  test("another process with the same state directory reads and fills beside it, and neither waits for the other", async () => {
    const session = await mount("one");
    expect(session.kind?.engine).toBe("erofs");
    const program = `
import { MountSources } from "${join(import.meta.dir, "../../src/operation/image/mount-source.ts")}";
const sources = new MountSources(${JSON.stringify(root)});
const signal = new AbortController().signal;
const source = await sources.open(${JSON.stringify({ bootstrapPath: image.bootstrapPath, blobDir: image.blobDir })}, { signal });
const [device] = source.devices;
await device.ensure({ start: 0, end: 1 << 20 }, { why: "demand", signal });
console.log("filled");
await source[Symbol.asyncDispose]();
process.exit(0);
`;
    const path = join(dir, "other.ts");
    writeFileSync(path, program);
    const { stdout, stderr } = await run("timeout", "20", process.execPath, path);
    expect([stdout, stderr]).toEqual(["filled\n", ""]);
    await readSome("one");
  });
});

describe.skipIf(!canMount)("probeErofs()", () => {
  test("says that it works, and leaves nothing", async () => {
    await using own = openErofsHost();
    expect(await probeErofs(own, root)).toEqual({ works: true, why: expect.any(String) });
    expect(await shell(`ls -A ${root} | grep probe || true`)).toBe("");
  });

  test("says why it does not where the file system takes no marks", async () => {
    await using own = openErofsHost();
    const memory = mkdtempSync("/dev/shm/nydus-probe-");
    try {
      const { works, why } = await probeErofs(own, memory);
      expect([works, why]).toEqual([false, expect.stringContaining("pre-content")]);
    } finally {
      rmSync(memory, { recursive: true });
    }
  });
});
