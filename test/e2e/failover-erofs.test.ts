import { afterEach, beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  chmodSync,
  closeSync,
  copyFileSync,
  mkdtempSync,
  openSync,
  read,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { findMount } from "../../src/os/mount.ts";
import { makeCrashImage } from "../kit/crash-image.ts";
import { crashRound } from "../kit/crash-lab.ts";
import type { ReaderReport } from "../kit/crash-reader.ts";
import { DaemonHome, descriptorsOf, untilGone } from "../kit/daemon.ts";
import { canMountErofs, type LabImage, makeLabImage } from "../kit/erofs-lab.ts";
import {
  FILES,
  fileResult,
  holdersOf,
  isAlive,
  killDaemon,
  listMounts,
  type MountedImage,
  mountImage,
  allResults as resultsOf,
  settledStates,
  until,
  untilNothingRuns,
  withEnvironment,
} from "../kit/failover-lab.ts";
import { killProcessesOf, unmountBelow } from "../kit/leftovers.ts";
import { isBuilt, PROGRAM } from "../kit/program.ts";
import { run } from "../kit/shell.ts";

setDefaultTimeout(60_000);
const canMount = isBuilt && canMountErofs();
const FLAGS = ["--engine", "erofs", "--prefetch", "none", "--read-timeout", "5s"];

let home: DaemonHome;

beforeEach(() => {
  home = new DaemonHome();
});
afterEach(async () => {
  await unmountBelow(home.dir);
  await home[Symbol.asyncDispose]();
  await killProcessesOf(home.dir);
});

function mounted(name: string, seed: number): Promise<MountedImage> {
  return mountImage(home, name, { seed, flags: FLAGS });
}

async function allResults({ image, at }: MountedImage): Promise<string[]> {
  return [...(await resultsOf(image, at))];
}

/** Requests of all mounts that the daemon has counted. */
async function requestsOf(): Promise<number> {
  const mounts = JSON.parse(await home.ok("mounts", "--json")) as { readonly stats?: { readonly requests: number } }[];
  return mounts.reduce((sum, { stats }) => sum + (stats?.requests ?? 0), 0);
}

/** Reads that wait for data, as the daemon has counted. */
async function waitingNow(): Promise<number> {
  const mounts = JSON.parse(await home.ok("mounts", "--json")) as {
    readonly stats?: { readonly waitingNow: number };
  }[];
  return mounts.reduce((sum, { stats }) => sum + (stats?.waitingNow ?? 0), 0);
}

/** Reads by the thread pool, which may wait. @returns how many bytes came, or the error */
async function readByte(fd: number): Promise<string> {
  try {
    return String((await promisify(read)(fd, Buffer.alloc(1), 0, 1, 100)).bytesRead);
  } catch (error) {
    return (error as { code: string }).code;
  }
}

async function dropCaches(): Promise<void> {
  await Bun.write("/proc/sys/vm/drop_caches", "3");
}

describe.skipIf(!canMount)("kill -9 of a daemon that mounts by EROFS", () => {
  test("under readers gives right bytes, to those that map files too, with at most an error a kill and reader", async () => {
    const dir = mkdtempSync(join(tmpdir(), "nydus-failover-"));
    const image = await makeCrashImage(dir, { seed: 2, bytes: 16 << 20, probes: 5 });
    try {
      const round = {
        ...({ engine: "erofs", harm: "kill" } as const),
        ...{ readers: 8, mappers: 3, times: 5, readTimeoutMs: 10_000, image, seed: 2 },
      };
      const result = await crashRound(round);
      expect([result.wrong, result.unread, result.broken, result.sigbus]).toEqual([[], [], [], 0]);
      expect(result.errorsOfOne).toBeLessThanOrEqual(round.times);
    } finally {
      await image[Symbol.asyncDispose]();
      rmSync(dir, { recursive: true, force: true });
    }
  });

  test("with reads in hand gives them to its successor: none fails, by read and by mmap, with two deaths in a row", async () => {
    const dir = mkdtempSync(join(tmpdir(), "nydus-failover-"));
    const image = await makeCrashImage(dir, { seed: 5, bytes: 4 << 20, probes: 1 });
    let isStuck = false;
    image.registry.rules.unshift(({ path }) => {
      return isStuck && path.includes("/blobs/") ? { status: 206, body: "never", cutAt: 0, end: "hang" } : undefined;
    });
    try {
      const at = home.mountpoint("m");
      await home.ok("mount", "--engine", "erofs", "--prefetch", "none", "--read-timeout", "20s", image.reference, at);
      isStuck = true;
      const readers = ["read", "mmap", "read", "mmap", "mmap", "read"].map((how, seed) =>
        run(process.execPath, join(import.meta.dir, "../kit/crash-reader.ts"), image.list, at, how, `${seed}`),
      );
      await until("all wait", async () => (await waitingNow()) >= 4);
      await killDaemon(home);
      await Bun.sleep(500); // the successor waits, too
      isStuck = false;
      await killDaemon(home);
      const reports = (await Promise.all(readers)).map(({ status, stdout, stderr }) => {
        if (status !== 0) return { status, stderr };
        const { errors, wrong, unread } = JSON.parse(stdout) as ReaderReport;
        return { errors, wrong, unread };
      });
      expect(reports).toEqual(readers.map(() => ({ errors: {}, wrong: [], unread: [] })));
    } finally {
      await image[Symbol.asyncDispose]();
      rmSync(dir, { recursive: true, force: true });
    }
  });

  test("is survived with the registry gone: what is cached is read, what is not is an error", async () => {
    const dir = mkdtempSync(join(tmpdir(), "nydus-failover-"));
    const image = await makeCrashImage(dir, { seed: 3, bytes: 4 << 20, probes: 2 });
    const at = home.mountpoint("m");
    const [read, unread] = [image.probes[0]?.path ?? "", "d0/f0"].map((path) => join(at, path));
    await home.ok("mount", "--engine", "erofs", "--prefetch", "none", "--read-timeout", "2s", image.reference, at);
    expect((await run("cat", read ?? "")).status).toBe(0);
    await Bun.sleep(3_000); // until it is durable
    await image[Symbol.asyncDispose]();
    rmSync(dir, { recursive: true, force: true });
    await killDaemon(home);
    await dropCaches();
    expect((await run("cat", read ?? "")).status).toBe(0);
    expect((await run("cat", unread ?? "")).stderr).toContain("Input/output error");
    expect((await run("find", at)).status).toBe(0);
  });

  test("opens the image that was mounted, though its name means another by now", async () => {
    const a = await mounted("a", 1);
    renameSync(home.image("b", { ...FILES, seed: 2 }).bootstrapPath, a.image.bootstrapPath);
    await killDaemon(home);
    expect(await allResults(a)).toEqual(["right"]);
  });

  test("does not undo what has been read, and fills what has not, three times in a row; then all ends in good order", async () => {
    const a = await mounted("a", 1);
    for (let round = 0; round < 3; round++) {
      for (let file = 0; file < 10; file++) {
        expect(await fileResult(a.image, a.at, round * 10 + file)).toBe("right");
      }
      await killDaemon(home);
      await dropCaches();
    }
    expect(await allResults(a)).toEqual(["right"]);
    const stats = JSON.parse(await home.ok("mounts", "--json")) as { stats?: { requests: number } }[];
    expect(stats[0]?.stats?.requests).toBeGreaterThan(0);
    await until("all of it is durable, and no mark is needed", async () => {
      await dropCaches();
      const before = await requestsOf();
      await allResults(a);
      return (await requestsOf()) === before;
    });
    await home.ok("umount", a.at);
    expect(await listMounts(home)).toEqual([]);
    await home.mount(a.image, a.at, ...FLAGS); // the marks come back, by the same group
    expect(await allResults(a)).toEqual(["right"]);
    await home.ok("umount", a.at);
    await home.ok("daemon", "stop");
    await untilNothingRuns(home);
  });

  test("loses one of three mounts, which cannot be opened again; who has it open gets errors, no zeros", async () => {
    const [a, b, c] = [await mounted("a", 1), await mounted("b", 2), await mounted("c", 3)];
    const held = openSync(join(b.at, b.image.pathOf(1)), "r");
    try {
      rmSync(b.image.blobDir, { recursive: true });
      await killDaemon(home);
      expect(await settledStates(home)).toEqual(["serving", "serving"]);
      for (const one of [a, c]) expect(await allResults(one)).toEqual(["right"]);
      expect(findMount(b.at)).toBeUndefined();
      expect(await readByte(held)).toBe("EIO");
      expect(await home.ok("daemon", "logs")).toContain(`cannot take over the mount at ${b.at}`);
      await killDaemon(home);
      expect(await readByte(held)).toBe("EIO");
      for (const one of [a, c]) await home.ok("umount", one.at);
      await home.ok("daemon", "stop");
      expect(await readByte(held)).toBe("EIO");
    } finally {
      closeSync(held);
    }
    await untilNothingRuns(home);
  });

  test("brings images back that share the data of a blob and know different chunks of it", async () => {
    const shape = { blobs: 2, filesPerBlob: 6, fileBytes: 150_000, seed: 70 };
    const blobDir = join(home.dir, "blobs");
    const [all, some] = [makeLabImage(blobDir, shape), makeLabImage(blobDir, { ...shape, without: 2 })];
    for (const device of all.devices) {
      writeFileSync(join(blobDir, new Bun.SHA256().update(device).digest("hex")), device);
    }
    const mount = async (name: string, image: LabImage): Promise<string> => {
      const at = home.mountpoint(name);
      await home.ok("mount", ...FLAGS, "--bootstrap", image.bootstrapPath, "--blob-dir", blobDir, at);
      return at;
    };
    const wrong = async (at: string, image: LabImage, names = [...image.files.keys()]): Promise<string[]> => {
      const read = names.map(async (name) => [name, await readFile(join(at, name))] as const);
      return (await Promise.all(read)).flatMap(([name, bytes]) => {
        return Buffer.compare(bytes, image.files.get(name) ?? Buffer.alloc(0)) === 0 ? [] : [name];
      });
    };
    const at = [await mount("all", all), await mount("some", some)] as const;
    expect(await wrong(at[1], some, ["b0f0", "b0f1", "b1f5"])).toEqual([]);
    await killDaemon(home);
    const reads = [wrong(at[0], all), wrong(at[1], some)];
    await Bun.sleep(5);
    process.kill(await home.pid(), "SIGKILL");
    expect(await Promise.all(reads)).toEqual([[], []]);
    const third = await mount("third", all);
    expect(await wrong(third, all)).toEqual([]);
    for (const one of [...at, third]) await home.ok("umount", one);
    expect(await listMounts(home)).toEqual([]);
  });

  test("lets a mount that is being read in a deleted place end as one does", async () => {
    const { image, at } = await mounted("a", 1);
    const held = openSync(join(at, image.pathOf(0)), "r");
    await home.ok("umount", "--lazy", at);
    const killed = await home.pid();
    process.kill(killed, "SIGKILL");
    await untilGone(killed);
    try {
      expect(await readByte(held)).toBe("1");
    } finally {
      closeSync(held);
    }
    await until("the end of the mount", async () => (await listMounts(home)).length === 0);
    await until("no data is held", async () => descriptorsOf(await home.pid()).length === 0);
  });

  test("again and again, where no successor serves, ends the mounts: readers get EIO, nothing runs on", async () => {
    const program = join(home.dir, "nydus");
    copyFileSync(PROGRAM, program);
    const image = home.image("a", { ...FILES, seed: 1 });
    const at = home.mountpoint("a");
    const words = ["--bootstrap", image.bootstrapPath, "--blob-dir", image.blobDir, at];
    const mount = (): ReturnType<typeof run> => run(program, "--root", home.root, "mount", ...FLAGS, ...words);
    await withEnvironment({ NYDUS_FAILOVER_CRASHES: "3", NYDUS_DAEMON_IDLE: "60s" }, mount);
    const pid = await home.pid();
    const held = openSync(join(at, image.pathOf(7)), "r");
    rmSync(program);
    writeFileSync(program, "#!/bin/sh\nexit 1\n");
    chmodSync(program, 0o755);
    process.kill(pid, "SIGKILL");
    try {
      expect(await readByte(held)).toBe("EIO");
    } finally {
      closeSync(held);
    }
    await until("no mount", () => findMount(at) === undefined);
    expect(await settledStates(home)).toEqual([]);
    await untilNothingRuns(home);
  });

  test("and of its holder at once poisons the mount: it is shown so, never taken over, and can be taken away", async () => {
    const a = await mounted("a", 1);
    const pid = await home.pid();
    for (const one of [...holdersOf(pid), pid]) process.kill(one, "SIGSTOP"); // neither sees the other's end
    for (const one of [...holdersOf(pid), pid]) process.kill(one, "SIGKILL");
    await untilGone(pid);
    expect(await settledStates(home)).toEqual(["poisoned"]);
    expect(await home.ok("mounts")).toContain("poisoned");
    const other = await mounted("b", 2); // starts a daemon
    expect(await settledStates(home)).toEqual(["poisoned", "serving"]);
    expect(await allResults(other)).toEqual(["right"]);
    await home.ok("umount", a.at);
    expect(findMount(a.at)).toBeUndefined();
    await home.mount(a.image, a.at, ...FLAGS);
    expect(await allResults(a)).toEqual(["right"]);
  });
});

describe.skipIf(!canMount)("a stopped daemon that mounts by EROFS", () => {
  test("for less than its reads may wait goes on", async () => {
    const a = await mounted("a", 1);
    const pid = await home.pid();
    process.kill(pid, "SIGSTOP");
    const results = allResults(a);
    await Bun.sleep(2_000);
    process.kill(pid, "SIGCONT");
    expect(await results).toEqual(["right"]);
    expect(await home.pid()).toBe(pid);
  });

  test("for longer is replaced", async () => {
    const a = await withEnvironment({ NYDUS_FAILOVER_SILENCE_MS: "1500" }, () => mounted("a", 1));
    const pid = await home.pid();
    process.kill(pid, "SIGSTOP");
    expect(await allResults(a)).toEqual(["right"]);
    expect(isAlive(pid)).toBe(false);
  });
});

describe.skipIf(!canMount)("nydus daemon upgrade with EROFS mounts", () => {
  test("under load gives no reader an error, and leaves nothing of the old daemon", async () => {
    const [a, b] = [await mounted("a", 1), await mounted("b", 2)];
    const before = await home.pid();
    let isOver = false;
    const results = new Set<string>();
    const load = Array.from({ length: 6 }, async (_, reader) => {
      for (let file = reader; !isOver; file = (file + 7) % FILES.files) {
        results.add(await fileResult(a.image, a.at, file));
        if (file % 10 === reader) await dropCaches();
      }
    });
    for (let round = 0; round < 2; round++) {
      await Bun.sleep(300);
      expect(await home.ok("daemon", "upgrade")).toContain("serves 2 mounts");
    }
    isOver = true;
    await Promise.all(load);
    expect([...results]).toEqual(["right"]);
    expect(await allResults(b)).toEqual(["right"]);
    await untilGone(before);
    await killDaemon(home);
    expect(await allResults(a)).toEqual(["right"]);
    for (const { at } of [a, b]) await home.ok("umount", at);
    await home.ok("daemon", "stop");
    await untilNothingRuns(home);
  });

  test("that cannot open one of the mounts is undone, and all are served by the old daemon", async () => {
    const [a, b] = [await mounted("a", 1), await mounted("b", 2)];
    renameSync(b.image.blobDir, `${b.image.blobDir}.away`);
    const pid = await home.pid();
    const { status, stderr } = await home.nydus("daemon", "upgrade");
    expect([status === 0, stderr]).toEqual([false, expect.stringContaining("Cannot hand mounts over")]);
    expect(await home.pid()).toBe(pid);
    expect(await allResults(a)).toEqual(["right"]);
    expect(await allResults(b)).toEqual(["right"]);
    renameSync(`${b.image.blobDir}.away`, b.image.blobDir);
    await home.ok("daemon", "upgrade");
    await dropCaches();
    for (const one of [a, b]) {
      expect(await allResults(one)).toEqual(["right"]);
      await home.ok("umount", one.at);
    }
    await home.ok("daemon", "stop");
    await untilNothingRuns(home);
  });
});
