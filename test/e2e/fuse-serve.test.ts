import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { NydusError } from "../../src/base/errors.ts";
import { listMounts, type MountRecord } from "../../src/operation/mount/mount-record.ts";
import { umountMount } from "../../src/operation/mount/umount.ts";
import { findMount } from "../../src/os/mount.ts";
import { processStart } from "../../src/os/process.ts";
import { canMount, type MountFixture, makeMountFixture } from "../kit/mount-fixture.ts";
import { run, shell } from "../kit/shell.ts";

const PROGRAM = join(dirname(fileURLToPath(import.meta.url)), "..", "kit", "mount-program.ts");

/** How long a server may take to end behind its mount. */
const END_MS = 5_000;

let fixture: MountFixture;
let root = "";
const started: number[] = [];

function command(verb: "start" | "serve", fault?: string): string[] {
  const { mountpoint, bootstrapPath, blobPath } = fixture;
  const faults = fault === undefined ? [] : [fault];
  return [process.execPath, PROGRAM, verb, root, mountpoint, bootstrapPath, blobPath, ...faults];
}

async function start(fault?: string): Promise<MountRecord> {
  const { stdout, stderr, status } = await run(...command("start", fault));
  if (status !== 0) throw new Error(stderr);
  const record = JSON.parse(stdout) as MountRecord;
  started.push(record.pid);
  return record;
}

/** Whether it runs: who adopts the orphans here may be slow to bury their zombies. */
function isRunning(pid: number): boolean {
  return processStart(pid) !== undefined;
}

async function untilGone(pid: number): Promise<void> {
  while (isRunning(pid)) await Bun.sleep(10);
}

async function codeOf(work: Promise<unknown>): Promise<string> {
  try {
    await work;
    return "none";
  } catch (error) {
    if (error instanceof NydusError) return error.code;
    throw error;
  }
}

/** Every file below the state root but logs with something in them. */
function stateFiles(): string[] {
  return readdirSync(root, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && !entry.name.endsWith(".log"))
    .map((entry) => entry.name);
}

describe.skipIf(!canMount)("a served mount", () => {
  beforeAll(() => {
    fixture = makeMountFixture();
  });
  afterAll(() => fixture[Symbol.dispose]());

  beforeEach(() => {
    root = join(fixture.dir, "root");
    rmSync(root, { recursive: true, force: true });
  });

  afterEach(async () => {
    // What has been unmounted ends by itself: give it the moment that it takes.
    const pids = started.splice(0);
    await Promise.race([Promise.all(pids.map(untilGone)), Bun.sleep(END_MS)]);
    const alive = pids.filter(isRunning);
    const left = { alive, mount: findMount(fixture.mountpoint)?.type, files: existsSync(root) ? stateFiles() : [] };
    await run("umount", "-l", fixture.mountpoint);
    for (const pid of alive) process.kill(pid, "SIGKILL");
    expect(left).toEqual({ alive: [], mount: undefined, files: [] });
  });

  test("answers when start returns, is listed, and is gone when umount returns", async () => {
    const { pid } = await start();
    expect(await shell(`cat ${fixture.mountpoint}/small`)).toBe("hello\n");
    expect(listMounts(root)).toEqual([
      expect.objectContaining({
        mountpoint: fixture.mountpoint,
        image: "test:image",
        engine: "fuse",
        pid,
        state: "serving",
      }),
    ]);
    await umountMount({ root, mountpoint: fixture.mountpoint });
    expect(listMounts(root)).toEqual([]);
    await untilGone(pid);
  });

  test.each(["SIGTERM", "SIGINT", "SIGHUP"] as const)("unmounts and ends at %s, leaving nothing", async (signal) => {
    const { pid } = await start();
    process.kill(pid, signal);
    await untilGone(pid);
    expect(findMount(fixture.mountpoint)).toBeUndefined();
  });

  test("at SIGTERM lets a reader finish, and ends with it", async () => {
    const { pid } = await start();
    const script = 'exec 3< "$0"; echo open; read line; sha256sum <&3';
    const reader = Bun.spawn(["bash", "-c", script, join(fixture.mountpoint, "big")], {
      stdin: "pipe",
      stdout: "pipe",
    });
    const output = reader.stdout.getReader();
    await output.read();
    process.kill(pid, "SIGTERM");
    while (findMount(fixture.mountpoint) !== undefined) await Bun.sleep(10);
    reader.stdin.write("go\n");
    reader.stdin.end();
    const { value } = await output.read();
    expect(new TextDecoder().decode(value)).toBe(await shell(`sha256sum < ${fixture.source}/big`));
    await untilGone(pid);
  });

  test("at a second signal takes the mount from its readers", async () => {
    const { pid } = await start("slow");
    const reader = run("cat", join(fixture.mountpoint, "big"));
    await shell(`until ls ${fixture.mountpoint} > /dev/null; do :; done`);
    process.kill(pid, "SIGTERM");
    while (findMount(fixture.mountpoint) !== undefined) await Bun.sleep(10);
    process.kill(pid, "SIGTERM");
    expect((await reader).status).toBe(1);
    await untilGone(pid);
  });

  test("that is told to end while it opens the image never mounts, and leaves nothing", async () => {
    const server = Bun.spawn(command("serve", "late"), { stdout: "pipe", stderr: "pipe" });
    while (listMounts(root).length === 0) await Bun.sleep(10);
    expect(listMounts(root).map(({ state }) => state)).toEqual(["starting"]);
    server.kill("SIGTERM");
    expect(await server.exited).toBe(1);
    expect(await new Response(server.stderr).text()).toContain("ECANCELED: Interrupted by SIGTERM");
  });

  test("a failed start gives the reason and leaves nothing", async () => {
    const { status, stderr } = await run(...command("start", "broken"));
    expect(status).toBe(1);
    expect(stderr).toContain("EBADMSG: Cannot open image: broken on purpose");
  });

  test("a second start at the same place fails with EBUSY and leaves the first alone", async () => {
    await start();
    for (const verb of ["start", "serve"] as const) {
      const { status, stderr } = await run(...command(verb));
      expect([status, stderr.split(":")[0]]).toEqual([1, "EBUSY"]);
    }
    expect(await shell(`cat ${fixture.mountpoint}/small`)).toBe("hello\n");
    await umountMount({ root, mountpoint: fixture.mountpoint });
  });

  test("of five that start at once, one serves", async () => {
    const runs = await Promise.all(Array.from({ length: 5 }, () => run(...command("start"))));
    const winners = runs.filter(({ status }) => status === 0).map(({ stdout }) => JSON.parse(stdout) as MountRecord);
    expect(winners.length).toBe(1);
    started.push(...winners.map(({ pid }) => pid));
    expect(await shell(`cat ${fixture.mountpoint}/small`)).toBe("hello\n");
    await umountMount({ root, mountpoint: fixture.mountpoint });
  });

  test("whose server was killed is listed as dead, and umount takes it away", async () => {
    const { pid } = await start();
    process.kill(pid, "SIGKILL");
    await untilGone(pid);
    expect(listMounts(root).map(({ state }) => state)).toEqual(["dead"]);
    await umountMount({ root, mountpoint: fixture.mountpoint });
    expect(listMounts(root)).toEqual([]);
  });

  test("whose server was killed gives way to its successor", async () => {
    const { pid } = await start();
    process.kill(pid, "SIGKILL");
    await untilGone(pid);
    await start();
    expect(await shell(`cat ${fixture.mountpoint}/small`)).toBe("hello\n");
    await umountMount({ root, mountpoint: fixture.mountpoint });
  });

  test("umount says EBUSY while files are open, unless it is lazy", async () => {
    const { pid } = await start();
    const holder = Bun.spawn(["sh", "-c", "echo in; read line"], {
      cwd: fixture.mountpoint,
      stdin: "pipe",
      stdout: "pipe",
    });
    await holder.stdout.getReader().read();
    expect(await codeOf(umountMount({ root, mountpoint: fixture.mountpoint }))).toBe("EBUSY");
    expect(listMounts(root).map(({ state }) => state)).toEqual(["serving"]);
    await umountMount({ root, mountpoint: fixture.mountpoint, lazy: true });
    expect(listMounts(root).map(({ state }) => state)).toEqual(["detached"]);
    holder.stdin.end();
    await holder.exited;
    await untilGone(pid);
  });

  test("umount of a directory where nothing of ours is mounted says ENOENT", async () => {
    expect(await codeOf(umountMount({ root, mountpoint: fixture.mountpoint }))).toBe("ENOENT");
    expect(await codeOf(umountMount({ root, mountpoint: join(fixture.dir, "nowhere") }))).toBe("ENOENT");
  });

  test("damaged and stale records are removed from the list", async () => {
    const { pid, id } = await start();
    writeFileSync(join(root, "mounts", "0123456789abcdef.json"), "{ not json");
    const record = JSON.parse(readFileSync(join(root, "mounts", `${id}.json`), "utf8")) as MountRecord;
    const stale = { ...record, id: "fedcba9876543210", mountpoint: fixture.source, pidStart: "1" };
    writeFileSync(join(root, "mounts", "fedcba9876543210.json"), JSON.stringify(stale));
    expect(listMounts(root).map((mount) => mount.pid)).toEqual([pid]);
    expect(stateFiles()).toEqual([`${id}.json`]);
    await umountMount({ root, mountpoint: fixture.mountpoint });
  });

  test("serves in the foreground until it is unmounted from outside, and exits with 0", async () => {
    const server = Bun.spawn(command("serve"), { stdout: "pipe", stderr: "pipe" });
    await server.stdout.getReader().read();
    await shell(`umount ${fixture.mountpoint}`);
    expect(await server.exited).toBe(0);
  });
});
