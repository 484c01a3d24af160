import { afterEach, beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, copyFileSync, existsSync, mkdtempSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findMount } from "../../src/os/mount.ts";
import { makeCrashImage } from "../kit/crash-image.ts";
import { crashRound } from "../kit/crash-lab.ts";
import { DaemonHome, descriptorsOf, untilGone } from "../kit/daemon.ts";
import {
  allResults,
  FILES,
  fileResult,
  holdersOf,
  isAlive,
  killDaemon,
  listMounts,
  type MountedImage,
  mountImage,
  settledStates,
  until,
  untilNothingRuns,
  withEnvironment,
} from "../kit/failover-lab.ts";
import { killProcessesOf, unmountBelow } from "../kit/leftovers.ts";
import { isBuilt, PROGRAM } from "../kit/program.ts";
import { run, shell } from "../kit/shell.ts";

setDefaultTimeout(60_000);
const canMount = isBuilt && process.getuid?.() === 0 && existsSync("/dev/fuse");
const FLAGS = ["--engine", "fuse", "--prefetch", "none"];

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

describe.skipIf(!canMount)("kill -9 of the daemon", () => {
  test.each([
    ["1", 0],
    ["0", 1],
  ])(
    "under readers gives right bytes (kernel resends: %s), with at most %i errors a kill and reader",
    async (resend, errors) => {
      const dir = mkdtempSync(join(tmpdir(), "nydus-failover-"));
      const image = await makeCrashImage(dir, { seed: 2, bytes: 16 << 20, probes: 3 });
      try {
        const round = {
          engine: "fuse",
          harm: "kill",
          readers: 6,
          mappers: 2,
          times: 3,
          readTimeoutMs: 10_000,
        } as const;
        const result = await withEnvironment({ NYDUS_FUSE_RESEND: resend }, () =>
          crashRound({ ...round, image, seed: 2 }),
        );
        expect([result.wrong, result.unread, result.broken, result.sigbus]).toEqual([[], [], [], 0]);
        expect(result.errorsOfOne).toBeLessThanOrEqual(errors * round.times);
      } finally {
        await image[Symbol.asyncDispose]();
        rmSync(dir, { recursive: true, force: true });
      }
    },
  );

  test.each([
    ["1", ["right"]],
    ["0", ["right", "Input/output error"]],
  ])("does not lose a read that was under way (kernel resends: %s)", async (resend, allowed) => {
    const dir = mkdtempSync(join(tmpdir(), "nydus-failover-"));
    await using image = await makeCrashImage(dir, { seed: 4, bytes: 2 << 20, probes: 1 });
    const at = home.mountpoint("m");
    const mount = (): Promise<string> => home.ok("mount", ...FLAGS, "--read-timeout", "20s", image.reference, at);
    await withEnvironment({ NYDUS_FUSE_RESEND: resend }, mount);
    const { path = "", sha256 = "" } = image.probes[0] ?? {};
    let hanging = 0;
    image.registry.rules.push(({ headers }) => {
      if (headers["range"] === undefined) return undefined;
      hanging++;
      return { status: 206, body: "x", cutAt: 0, end: "hang" };
    });
    const reader = run("sha256sum", join(at, path));
    await until("the fetch", () => hanging > 0);
    image.registry.rules.length = 0;
    await killDaemon(home);
    const { stdout, stderr } = await reader;
    const result = stdout.startsWith(sha256) ? "right" : (/: ([^:]+)\n$/.exec(stderr)?.[1] ?? stdout);
    expect(allowed).toContain(result);
    expect((await run("sha256sum", join(at, path))).stdout).toStartWith(sha256);
    rmSync(dir, { recursive: true, force: true });
  });

  test("is survived with the registry gone: what is cached is read, what is not is an error", async () => {
    const dir = mkdtempSync(join(tmpdir(), "nydus-failover-"));
    const image = await makeCrashImage(dir, { seed: 3, bytes: 4 << 20, probes: 2 });
    const at = home.mountpoint("m");
    const [read, unread] = [image.probes[0]?.path ?? "", "d0/f0"].map((path) => join(at, path));
    await home.ok("mount", ...FLAGS, "--read-timeout", "3s", image.reference, at);
    expect((await run("cat", read ?? "")).status).toBe(0);
    await Bun.sleep(3_000); // until it is durable
    await image[Symbol.asyncDispose]();
    rmSync(dir, { recursive: true, force: true });
    await killDaemon(home);
    // What the kernel had in memory says nothing about the daemon.
    await Bun.write("/proc/sys/vm/drop_caches", "3");
    expect((await run("cat", read ?? "")).status).toBe(0);
    expect((await run("cat", unread ?? "")).stderr).toContain("Input/output error");
    expect((await run("find", at)).status).toBe(0);
  });

  test("opens the image that was mounted, though its name means another by now", async () => {
    const { image, at } = await mounted("a", 1);
    const other = home.image("b", { ...FILES, seed: 2 });
    renameSync(other.bootstrapPath, image.bootstrapPath);
    await killDaemon(home);
    expect(await allResults(image, at)).toEqual(new Set(["right"]));
  });

  test("loses one of three mounts, which cannot be opened again, and not the others", async () => {
    const [a, b, c] = [await mounted("a", 1), await mounted("b", 2), await mounted("c", 3)];
    rmSync(b.image.blobDir, { recursive: true });
    await killDaemon(home);
    expect(await settledStates(home)).toEqual(["serving", "dead", "serving"]);
    for (const { image, at } of [a, c]) expect(await allResults(image, at)).toEqual(new Set(["right"]));
    expect(await fileResult(b.image, b.at, 1)).toBe("ENOTCONN");
    await home.ok("umount", b.at);
    expect(await home.ok("daemon", "logs")).toContain(`cannot take over the mount at ${b.at}`);
  });

  test("lets a mount that is being read in a deleted place end as one does", async () => {
    const { image, at } = await mounted("a", 1);
    const reader = Bun.spawn(["sh", "-c", `exec 9<${join(at, image.pathOf(0))}; read _; cat <&9`], {
      stdin: "pipe",
      stdout: "pipe",
    });
    await Bun.sleep(200);
    await home.ok("umount", "--lazy", at);
    const killed = await home.pid();
    process.kill(killed, "SIGKILL");
    await untilGone(killed);
    reader.stdin.write("\n");
    await reader.stdin.end();
    expect(Buffer.from(await new Response(reader.stdout).arrayBuffer()).equals(image.contentOf(0))).toBe(true);
    await until("the end of the mount", async () => (await listMounts(home)).length === 0);
    expect(descriptorsOf(await home.pid())).toEqual([]);
  });

  test("again and again, where no successor serves, ends the mounts: readers get an error, nothing runs on", async () => {
    const program = join(home.dir, "nydus");
    copyFileSync(PROGRAM, program);
    const image = home.image("a", { ...FILES, seed: 1 });
    const at = home.mountpoint("a");
    const words = ["--bootstrap", image.bootstrapPath, "--blob-dir", image.blobDir, at];
    const mount = (): ReturnType<typeof run> => run(program, "--root", home.root, "mount", ...FLAGS, ...words);
    await withEnvironment({ NYDUS_FAILOVER_CRASHES: "3", NYDUS_DAEMON_IDLE: "60s" }, mount);
    const pid = await home.pid();
    rmSync(program);
    writeFileSync(program, "#!/bin/sh\nexit 1\n");
    chmodSync(program, 0o755);
    process.kill(pid, "SIGKILL");
    expect(["ECONNABORTED", "ENOTCONN"]).toContain(await fileResult(image, at, 1));
    expect(await settledStates(home)).toEqual(["dead"]);
    await untilNothingRuns(home);
    await home.ok("umount", at);
  });

  test("and of its holder at once leaves a dead mount, which can be taken away", async () => {
    const { image, at } = await mounted("a", 1);
    const pid = await home.pid();
    for (const one of [...holdersOf(pid), pid]) process.kill(one, "SIGKILL");
    await untilGone(pid);
    expect(["ECONNABORTED", "ENOTCONN"]).toContain(await fileResult(image, at, 1));
    expect(await settledStates(home)).toEqual(["dead"]);
    await home.mount(image, at, ...FLAGS);
    expect(await allResults(image, at)).toEqual(new Set(["right"]));
  });
});

describe.skipIf(!canMount)("a daemon that is stopped", () => {
  test("for less than its reads may wait goes on", async () => {
    const { image, at } = await mounted("a", 1);
    const pid = await home.pid();
    process.kill(pid, "SIGSTOP");
    const results = allResults(image, at);
    await Bun.sleep(3_000);
    process.kill(pid, "SIGCONT");
    expect(await results).toEqual(new Set(["right"]));
    expect(await home.pid()).toBe(pid);
  });

  test("for longer is replaced", async () => {
    const { image, at } = await withEnvironment({ NYDUS_FAILOVER_SILENCE_MS: "1500" }, () => mounted("a", 1));
    const pid = await home.pid();
    process.kill(pid, "SIGSTOP");
    expect(await allResults(image, at)).toEqual(new Set(["right"]));
    expect(isAlive(pid)).toBe(false);
  });
});

describe.skipIf(!canMount)("nydus daemon upgrade", () => {
  test("under load gives no reader an error, and leaves nothing of the old daemon", async () => {
    const { image, at } = await mounted("a", 1);
    const other = await mounted("b", 2);
    const before = await home.pid();
    const [holder] = holdersOf(before);
    let isOver = false;
    const results = new Set<string>();
    const load = Array.from({ length: 6 }, async (_, reader) => {
      for (let file = reader; !isOver; file = (file + 7) % FILES.files) {
        results.add(await fileResult(image, at, file));
        if (file % 10 === reader) await Bun.write("/proc/sys/vm/drop_caches", "3");
      }
    });
    for (let round = 0; round < 2; round++) {
      await Bun.sleep(300);
      expect(await home.ok("daemon", "upgrade")).toMatch(/^process \d+ \(.*\) serves 2 mounts of process \d+ \(.*\)$/m);
    }
    isOver = true;
    await Promise.all(load);
    expect(results).toEqual(new Set(["right"]));
    expect(await allResults(other.image, other.at)).toEqual(new Set(["right"]));
    await untilGone(before);
    await untilGone(holder ?? 0);
    const pid = await home.pid();
    expect((await listMounts(home)).map((mount) => [mount.state, mount.pid])).toEqual([
      ["serving", pid],
      ["serving", pid],
    ]);
    await killDaemon(home);
    expect(await fileResult(image, at, 5)).toBe("right");
  });

  test("to a program that does not start changes nothing", async () => {
    const { image, at } = await mounted("a", 1);
    const pid = await home.pid();
    for (const program of ["/bin/false", "/bin/none"]) {
      const upgrade = home.client().upgrade([program, "daemon", "run"]);
      expect(await upgrade.catch((error) => error.message)).toStartWith("Cannot hand mounts over: ");
    }
    expect(await home.pid()).toBe(pid);
    expect(await allResults(image, at)).toEqual(new Set(["right"]));
  });

  test("that cannot open one of the mounts is undone, and all are served by the old daemon", async () => {
    const [a, b] = [await mounted("a", 1), await mounted("b", 2)];
    renameSync(b.image.blobDir, `${b.image.blobDir}.away`);
    const pid = await home.pid();
    const { status, stderr } = await home.nydus("daemon", "upgrade");
    expect([status, stderr]).toEqual([expect.any(Number), expect.stringContaining("Cannot hand mounts over")]);
    expect(status).not.toBe(0);
    expect(await home.pid()).toBe(pid);
    for (const { image, at } of [a, b]) expect(await allResults(image, at)).toEqual(new Set(["right"]));
    renameSync(`${b.image.blobDir}.away`, b.image.blobDir);
    await home.ok("daemon", "upgrade");
    for (const { image, at } of [a, b]) {
      expect(await fileResult(image, at, 3)).toBe("right");
      await home.ok("umount", at);
    }
    await home.ok("daemon", "stop");
    await untilNothingRuns(home);
  });
});

describe.skipIf(!canMount)("the holder", () => {
  test("that dies is replaced, and the next one has everything", async () => {
    const { image, at } = await mounted("a", 1);
    const daemon = await home.pid();
    const [first] = holdersOf(daemon);
    process.kill(first ?? 0, "SIGKILL");
    const second = await until("another holder", async () => {
      const [mount] = await listMounts(home);
      return mount?.holder !== undefined && mount.holder.pid !== first && mount.holder.pid;
    });
    expect(holdersOf(daemon)).toEqual([second]);
    await killDaemon(home);
    expect(await allResults(image, at)).toEqual(new Set(["right"]));
  });

  test("has one descriptor of /dev/fuse a mount, and none when they are gone; a stop ends it", async () => {
    const mounts = [await mounted("a", 1), await mounted("b", 2)];
    const daemon = await home.pid();
    const [holder = 0] = holdersOf(daemon);
    const devices = (): number => descriptorsOf(holder).filter((path) => path === "/dev/fuse").length;
    expect(await until("both", () => devices() === 2 && devices())).toBe(2);
    await killDaemon(home);
    for (const { at } of mounts) await home.ok("umount", at);
    await until("none", () => descriptorsOf(holder).length === 0);
    await home.ok("daemon", "stop");
    expect(isAlive(holder)).toBe(false);
    await untilNothingRuns(home);
  });
});

describe.skipIf(!canMount || Bun.which("fusermount3") === null || Bun.which("setpriv") === null)("without root", () => {
  let restore: () => void = () => undefined;
  afterEach(() => restore());

  test("kill -9 of the daemon is survived too", async () => {
    const image = home.image("a", { ...FILES, seed: 1 });
    const at = home.mountpoint("a");
    // Others may open the device on every common system; udev sees to that, and is not everywhere.
    const mode = statSync("/dev/fuse").mode & 0o777;
    chmodSync("/dev/fuse", 0o666);
    restore = () => chmodSync("/dev/fuse", mode);
    const [root, program] = [join(home.dir, "nobody"), join(home.dir, "nydus")];
    copyFileSync(PROGRAM, program);
    await shell(`chmod -R a+rX ${home.dir} && install -d -o 65534 -g 65534 ${root} && chown 65534:65534 ${at}`);
    const asNobody = (...words: string[]): ReturnType<typeof run> =>
      run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", ...words);
    const nydus = (...words: string[]): ReturnType<typeof run> => asNobody(program, "--root", root, ...words);
    const words = ["--bootstrap", image.bootstrapPath, "--blob-dir", image.blobDir, at];
    expect((await nydus("mount", ...FLAGS, ...words)).stderr).toBe("");
    try {
      const status = async (): Promise<{ pid: number }> =>
        JSON.parse((await nydus("daemon", "status", "--json")).stdout);
      process.kill((await status()).pid, "SIGKILL");
      const { stdout, stderr } = await asNobody("cat", join(at, image.pathOf(4)));
      expect([stderr, stdout === Buffer.from(image.contentOf(4)).toString()]).toEqual(["", true]);
      expect((await nydus("umount", at)).stderr).toBe("");
      expect(findMount(at)).toBeUndefined();
    } finally {
      await nydus("daemon", "stop");
    }
  });
});
