import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { chmodSync, existsSync, readFileSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { request } from "node:http";
import { createServer } from "node:net";
import { join } from "node:path";
import { ERROR_CODES } from "../../src/base/errors.ts";
import { findMount } from "../../src/os/mount.ts";
import { processStart } from "../../src/os/process.ts";
import { API_NUMBER } from "../../src/service/daemon/api.ts";
import { DaemonHome, descriptorsOf, untilGone } from "../kit/daemon.ts";
import { isBuilt, PROGRAM } from "../kit/program.ts";
import { run, shell } from "../kit/shell.ts";
import type { SyntheticImage } from "../kit/synthetic-image.ts";

const canMount = isBuilt && process.getuid?.() === 0 && existsSync("/dev/fuse");
const SMALL = { files: 3, fileBytes: 5000 };

let home: DaemonHome;

beforeEach(() => {
  home = new DaemonHome();
});
afterEach(async () => {
  await home[Symbol.asyncDispose]();
});

function contentAt(image: SyntheticImage, mountpoint: string, file: number): boolean {
  return readFileSync(join(mountpoint, image.pathOf(file))).equals(image.contentOf(file));
}

interface Listed {
  readonly mountpoint: string;
  readonly pid: number;
  readonly state: string;
}

async function listed(): Promise<Listed[]> {
  return JSON.parse(await home.ok("mounts", "--json")) as Listed[];
}

/** Asks the daemon as no client of ours does. @param api number of its API, which mounts need */
function ask(method: string, path: string, body?: string, api?: string): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    const headers = { ...(api === undefined ? {} : { "x-nydus-api": api }) };
    const asked = request({ socketPath: home.socket, method, path, headers, agent: false }, (response) => {
      let text = "";
      response.on("data", (piece) => {
        text += String(piece);
      });
      response.on("end", () => resolve({ status: response.statusCode ?? 0, text }));
    });
    asked.on("error", reject);
    asked.end(body);
  });
}

describe.skipIf(!canMount)("the daemon", () => {
  test("serves two images from one process, and outlives the first to go", async () => {
    const [a, b] = [home.image("a", { ...SMALL, seed: 1 }), home.image("b", { ...SMALL, seed: 2 })];
    const [at, bt] = [home.mountpoint("a"), home.mountpoint("b")];
    await home.mount(a, at);
    await home.mount(b, bt);
    const pid = await home.pid();
    expect((await listed()).map((mount) => [mount.mountpoint, mount.pid, mount.state])).toEqual([
      [at, pid, "serving"],
      [bt, pid, "serving"],
    ]);
    expect([contentAt(a, at, 0), contentAt(b, bt, 0)]).toEqual([true, true]);
    await home.ok("umount", at);
    expect(findMount(at)).toBeUndefined();
    expect([contentAt(b, bt, 2), await home.pid()]).toEqual([true, pid]);
  });

  test("is started once by five mounts at once, and lets only its owner in", async () => {
    const image = home.image("a", { ...SMALL, seed: 1 });
    const places = [1, 2, 3, 4, 5].map((n) => home.mountpoint(`${n}`));
    await Promise.all(places.map((place) => home.mount(image, place)));
    const mounts = await listed();
    expect(mounts.map(({ state }) => state)).toEqual(Array(5).fill("serving"));
    expect(new Set(mounts.map(({ pid }) => pid)).size).toBe(1);
    expect(statSync(home.socket).mode & 0o777).toBe(0o600);
    expect(JSON.parse(await home.ok("daemon", "status", "--json"))).toMatchObject({ mounts: 5, images: 1 });
  });

  test("takes one descriptor for a further mount of an image, and gives all back", async () => {
    const image = home.image("a", { ...SMALL, seed: 1 });
    const other = home.image("b", { ...SMALL, seed: 2 });
    await home.mount(other, home.mountpoint("other"), "--engine", "fuse");
    const pid = await home.pid();
    const before = descriptorsOf(pid);
    await home.mount(image, home.mountpoint("1"), "--engine", "fuse");
    const one = descriptorsOf(pid);
    await home.mount(image, home.mountpoint("2"), "--engine", "fuse");
    expect(descriptorsOf(pid).filter((name) => name === "/dev/fuse").length).toBe(3);
    expect(descriptorsOf(pid).length).toBe(one.length + 1);
    await home.ok("umount", home.mountpoint("1"));
    expect(contentAt(image, home.mountpoint("2"), 1)).toBe(true);
    await home.ok("umount", home.mountpoint("2"));
    expect(descriptorsOf(pid)).toEqual(before);
  });

  test("ends when nothing has been mounted for a while, leaving no socket", async () => {
    await home[Symbol.asyncDispose]();
    home = new DaemonHome("300ms");
    const image = home.image("a", { ...SMALL, seed: 1 });
    await home.mount(image, home.mountpoint("a"));
    const pid = await home.pid();
    await Bun.sleep(600);
    expect(contentAt(image, home.mountpoint("a"), 0)).toBe(true);
    await home.ok("umount", home.mountpoint("a"));
    await untilGone(pid);
    expect(existsSync(home.socket)).toBe(false);
    const { status, stderr } = await home.nydus("daemon", "status");
    expect([status, stderr]).toEqual([
      ERROR_CODES.ENOENT.exit,
      `nydus: Cannot ask the daemon: none serves this directory (${JSON.stringify(home.root)})\n`,
    ]);
  });

  test("that was killed has a successor: its mounts are listed as recovering, then as that one's", async () => {
    const image = home.image("a", { ...SMALL, seed: 1 });
    const [at, other] = [home.mountpoint("a"), home.mountpoint("b")];
    await home.mount(image, at, "--engine", "fuse");
    await home.mount(image, other, "--engine", "fuse");
    const pid = await home.pid();
    process.kill(pid, "SIGKILL");
    await untilGone(pid);
    for (const { state } of await listed()) expect(["recovering", "serving"]).toContain(state);
    const { status } = await home.nydus("mount", "--bootstrap", image.bootstrapPath, "--blob-dir", image.blobDir, at);
    expect(status).toBe(ERROR_CODES.EBUSY.exit);
    await home.ok("umount", other);
    expect(contentAt(image, at, 0)).toBe(true);
    const next = await home.pid();
    expect((await listed()).map(({ state, pid: server }) => [state, server])).toEqual([["serving", next]]);
    expect(next).not.toBe(pid);
  });

  test("is the only one of its directory", async () => {
    await home.mount(home.image("a", { ...SMALL, seed: 1 }), home.mountpoint("a"));
    const { status, stderr } = await home.nydus("daemon", "run");
    expect([status, stderr]).toEqual([
      ERROR_CODES.EBUSY.exit,
      `nydus: Cannot start daemon: another one serves this directory (${JSON.stringify(home.root)})\n`,
    ]);
    expect((await listed()).map(({ state }) => state)).toEqual(["serving"]);
  });

  test.each(["SIGTERM", "stop"])("unmounts everything at %s, and lets a reader finish", async (how) => {
    const image = home.image("a", { ...SMALL, seed: 1 });
    const [at, bt] = [home.mountpoint("a"), home.mountpoint("b")];
    await home.mount(image, at);
    await home.mount(image, bt);
    const pid = await home.pid();
    const script = 'exec 3< "$0"; echo open; read line; sha256sum <&3';
    const path = join(bt, image.pathOf(0));
    const reader = Bun.spawn(["bash", "-c", script, path], { stdin: "pipe", stdout: "pipe" });
    const output = reader.stdout.getReader();
    await output.read();
    const stopped = how === "stop" ? home.ok("daemon", "stop") : process.kill(pid, "SIGTERM");
    while (findMount(bt) !== undefined) await Bun.sleep(10);
    reader.stdin.write("go\n");
    reader.stdin.end();
    const { value } = await output.read();
    expect(new TextDecoder().decode(value)).toStartWith(Bun.SHA256.hash(image.contentOf(0), "hex"));
    await stopped;
    await untilGone(pid);
    expect([findMount(at), existsSync(home.socket), await listed()]).toEqual([undefined, false, []]);
  });

  test("fails as a mount in the foreground does, with the same words and status", async () => {
    const image = home.image("a", { ...SMALL, seed: 1 });
    const at = home.mountpoint("a");
    await home.mount(image, home.mountpoint("keep"));
    writeFileSync(join(home.dir, "noise"), "x".repeat(8192));
    const parts = ["--blob-dir", image.blobDir, "--bootstrap"];
    for (const args of [
      [...parts, join(home.dir, "nothing"), at],
      [...parts, join(home.dir, "noise"), at],
      [...parts, image.bootstrapPath, join(home.dir, "nowhere")],
      [...parts, image.bootstrapPath, image.bootstrapPath],
      [...parts, image.bootstrapPath, home.mountpoint("keep")],
      ["--bootstrap", image.bootstrapPath, "--blob-dir", at, at],
      [`oci:${join(home.dir, "none")}`, at],
    ]) {
      const there = await home.nydus("mount", ...args);
      const here = await home.nydus("mount", "--foreground", ...args);
      expect(there.status).toBeGreaterThan(1);
      expect([there.status, there.stderr]).toEqual([here.status, here.stderr]);
    }
    expect((await listed()).length).toBe(1);
  });

  test("is not needed by a mount in the foreground, whose server has exited when umount returns", async () => {
    const image = home.image("a", { ...SMALL, seed: 1 });
    const at = home.mountpoint("a");
    const args = ["--bootstrap", image.bootstrapPath, "--blob-dir", image.blobDir, at];
    const server = Bun.spawn(home.command("mount", "--foreground", ...args), { stderr: "pipe" });
    try {
      while ((await listed())[0]?.state !== "serving") await Bun.sleep(10);
      await home.ok("umount", at);
      expect(processStart(server.pid)).toBeUndefined();
      expect(await server.exited).toBe(0);
      expect(existsSync(home.socket)).toBe(false);
    } finally {
      server.kill();
    }
  });

  test("gives a mount up when who asked for it is interrupted", async () => {
    const silent = createServer(() => undefined).listen(0, "127.0.0.1");
    await new Promise((resolve) => silent.once("listening", resolve));
    const { port } = silent.address() as { port: number };
    const asking = Bun.spawn(home.command("mount", `docker://127.0.0.1:${port}/a:b`, home.mountpoint("a")), {
      stderr: "pipe",
    });
    while ((await listed()).length === 0) await Bun.sleep(10);
    expect((await listed()).map(({ state }) => state)).toEqual(["starting"]);
    asking.kill("SIGINT");
    expect(await asking.exited).toBe(ERROR_CODES.ECANCELED.exit);
    while ((await listed()).length > 0) await Bun.sleep(10);
    expect(JSON.parse(await home.ok("daemon", "status", "--json"))).toMatchObject({ mounts: 0, images: 0 });
    silent.close();
  });

  test("mounts nothing for a program that has another API, and stops for it", async () => {
    await home.mount(home.image("a", { ...SMALL, seed: 1 }), home.mountpoint("a"));
    const { status, text } = await ask("POST", "/v1/mounts", "{}", "999");
    expect([status, (JSON.parse(text) as { error: { code: string } }).error.code]).toEqual([409, "EBUSY"]);
    expect(text).toContain((await home.ok("--version")).trim());
    expect((await ask("POST", "/v1/mounts", "{}")).status).toBe(409);
    expect((await ask("POST", "/v1/stop")).status).toBe(200);
  });

  test("refuses requests that make no sense, and goes on", async () => {
    const image = home.image("a", { ...SMALL, seed: 1 });
    await home.mount(image, home.mountpoint("a"));
    const good = {
      image: { bootstrap: image.bootstrapPath, blobDir: image.blobDir },
      shown: "x",
      mountpoint: home.mountpoint("b"),
      engine: "fuse",
      readTimeoutMs: 1000,
      options: "",
    };
    const bodies: readonly unknown[] = [
      "{",
      [],
      { ...good, extra: 1 },
      { ...good, mountpoint: "relative" },
      { ...good, engine: "constructor" },
      { ...good, readTimeoutMs: 0 },
      { ...good, options: "rw" },
      { ...good, image: { name: "" } },
      { ...good, image: { name: "x", pull: "perhaps" } },
      { ...good, image: { bootstrapDir: "relative", blobs: [] } },
      { ...good, image: { bootstrapDir: "/", blobs: {} } },
      { ...good, image: { bootstrapDir: "/", blobs: [{}] } },
      { ...good, image: { bootstrapDir: "/", blobs: [{ registry: { reference: "not a name" } }] } },
      { ...good, image: { bootstrapDir: "/", blobs: [{ containerd: { address: "sock", namespace: "default" } }] } },
      { ...good, shown: "x".repeat(70_000) },
    ];
    for (const body of bodies) {
      const sent = typeof body === "string" ? body : JSON.stringify(body);
      expect(await ask("POST", "/v1/mounts", sent, API_NUMBER)).toMatchObject({ status: 400 });
    }
    expect((await ask("GET", "/v1/nothing")).status).toBe(404);
    expect((await ask("DELETE", "/v1/status")).status).toBe(405);
    expect((await ask("DELETE", "/v1/mounts?mountpoint=a")).status).toBe(400);
    expect((await ask("DELETE", `/v1/mounts?mountpoint=${home.dir}`)).status).toBe(404);
    expect(await ask("POST", "/v1/mounts", JSON.stringify(good), API_NUMBER)).toMatchObject({ status: 200 });
    expect(contentAt(image, home.mountpoint("b"), 0)).toBe(true);
  });

  test("counts what it does for Prometheus, of ended mounts too", async () => {
    const image = home.image("a", { ...SMALL, seed: 1 });
    for (const name of ["a", "b"]) await home.mount(image, home.mountpoint(name), "--engine", "fuse");
    expect(contentAt(image, home.mountpoint("a"), 0)).toBe(true);
    await home.ok("umount", home.mountpoint("a"));
    expect(contentAt(image, home.mountpoint("b"), 0)).toBe(true);
    const { text } = await ask("GET", "/metrics");
    const metrics = new Map(text.split("\n").map((line) => line.split(/ (?=[^ ]+$)/) as [string, string]));
    const number = (name: string): number => Number(metrics.get(name));
    expect(number("nydus_mounts")).toBe(1);
    expect(number("nydus_mounts_started_total")).toBe(2);
    expect(number("nydus_read_bytes_total")).toBe(10_000);
    const labels = `mountpoint="${home.mountpoint("b")}",image="${image.bootstrapPath}"`;
    expect(number(`nydus_mount_read_bytes_total{${labels}}`)).toBe(5000);
    expect(number(`nydus_mount_fetches_total{${labels}}`)).toBe(0);
    expect(number('nydus_fetched_bytes_total{cause="demand"}')).toBe(5000);
    expect(number('nydus_fetched_bytes_total{cause="ahead"}')).toBe(10_000);
    expect(number('nydus_reads_total{cache="miss"}')).toBe(1);
    expect(number('nydus_reads_total{cache="hit"}')).toBe(1);
    expect(number("process_open_fds")).toBeGreaterThan(10);
    for (const line of text.trimEnd().split("\n"))
      expect(line).toMatch(/^(# (HELP|TYPE) \w+ .+|\w+(\{.+\})? [0-9.e+-]+)$/);
  });

  test("logs what it does; logs -f goes on with it", async () => {
    const image = home.image("a", { ...SMALL, seed: 1 });
    await home.mount(image, home.mountpoint("a"));
    const follower = Bun.spawn(home.command("daemon", "logs", "-f"), { stdout: "pipe" });
    const output = follower.stdout.getReader();
    let seen = "";
    const until = async (text: string): Promise<void> => {
      while (!seen.includes(text)) {
        const { value, done } = await output.read();
        if (done) throw new Error(`the log ended with ${seen}`);
        seen += new TextDecoder().decode(value);
      }
    };
    await until(`mounted ${image.bootstrapPath} at ${home.mountpoint("a")}\n`);
    await home.ok("umount", home.mountpoint("a"));
    await until(`unmounted ${image.bootstrapPath} at ${home.mountpoint("a")}\n`);
    follower.kill("SIGINT");
    await follower.exited;
    expect(await home.ok("daemon", "logs")).toBe(seen);
  });

  test("reads on when the bootstrap that it was given is cut or replaced", async () => {
    const image = home.image("a", { files: 2000, fileBytes: 40, seed: 1 });
    await home.mount(image, home.mountpoint("a"));
    truncateSync(image.bootstrapPath, 0);
    expect(contentAt(image, home.mountpoint("a"), 1999)).toBe(true);
    expect((await shell(`find ${home.mountpoint("a")} -type f | wc -l`)).trim()).toBe("2000");
    expect(
      (await home.nydus("mount", "--bootstrap", image.bootstrapPath, "--blob-dir", image.blobDir, home.mountpoint("b")))
        .status,
    ).toBe(ERROR_CODES.EUCLEAN.exit);
  });

  test("has a socket in a directory whose name is too long for an address", async () => {
    const root = join(home.dir, "r".repeat(120));
    const image = home.image("a", { ...SMALL, seed: 1 });
    const at = home.mountpoint("a");
    const nydus = `${PROGRAM} --root ${root}`;
    await shell(`${nydus} mount --bootstrap ${image.bootstrapPath} --blob-dir ${image.blobDir} ${at}`);
    expect(contentAt(image, at, 0)).toBe(true);
    await shell(`${nydus} umount ${at} && ${nydus} daemon stop`);
  });

  test("mounts with the options of fusermount3, and names those it knows where one is unknown", async () => {
    const image = home.image("a", { ...SMALL, seed: 1 });
    const at = home.mountpoint("a");
    await home.mount(image, at, "-o", "suid,noexec", "-o", "fsname=my-image,max_read=8192");
    const mount = findMount(at);
    expect(mount).toMatchObject({ type: "fuse.nydus", source: "my-image" });
    expect(mount?.options.split(",").sort()).toEqual(["noatime", "nodev", "noexec", "ro"]);
    expect(mount?.superOptions).toContain("allow_other,max_read=8192");
    await home.ok("umount", at);
    await home.mount(image, at, "-o", "subtype=special");
    expect(findMount(at)?.type).toBe("fuse.special");
    expect((await listed()).map(({ state }) => state)).toEqual(["serving"]);
    await home.ok("umount", at);
    const { status, stderr } = await home.nydus("mount", "-o", "rw", "oci:x", at);
    expect(status).toBe(ERROR_CODES.EINVAL.exit);
    expect(stderr).toStartWith('nydus: Cannot use mount option "rw": known are allow_other, ro, ');
  });
});

describe.skipIf(!canMount || Bun.which("fusermount3") === null || Bun.which("setpriv") === null)("without root", () => {
  let restore: () => void = () => undefined;
  afterEach(() => restore());

  test("mounts through fusermount3, for its user alone, and unmounts", async () => {
    const image = home.image("a", { ...SMALL, seed: 1 });
    const at = home.mountpoint("a");
    // Others may open the device on every common system; udev sees to that, and is not everywhere.
    const mode = statSync("/dev/fuse").mode & 0o777;
    chmodSync("/dev/fuse", 0o666);
    restore = () => chmodSync("/dev/fuse", mode);
    await shell(`chmod -R a+rX ${home.dir} && mkdir ${home.root} && chown -R 65534:65534 ${home.root} ${at}`);
    const copy = join(home.dir, "nydus");
    await shell(`cp ${PROGRAM} ${copy} && chmod 755 ${copy}`);
    const as = (...words: string[]): ReturnType<typeof run> =>
      run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", ...words);
    const nydus = (...words: string[]): ReturnType<typeof run> => as(copy, "--root", home.root, ...words);
    const parts = ["--bootstrap", image.bootstrapPath, "--blob-dir", image.blobDir];
    expect(await nydus("mount", ...parts, at)).toMatchObject({ status: 0, stderr: "" });
    expect(findMount(at)).toMatchObject({ type: "fuse.nydus", source: "nydus" });
    expect(findMount(at)?.superOptions).toContain("user_id=65534");
    const read = await as("sha256sum", join(at, image.pathOf(2)));
    expect(read.stdout).toStartWith(Bun.SHA256.hash(image.contentOf(2), "hex"));
    const root = await run("cat", join(at, image.pathOf(2)));
    expect([root.status, root.stderr]).toEqual([1, expect.stringContaining("Permission denied")]);
    expect(await nydus("umount", at)).toMatchObject({ status: 0, stderr: "" });
    expect(findMount(at)).toBeUndefined();
    const refused = await nydus("mount", ...parts, "-o", "allow_other", at);
    const allowed = /^user_allow_other$/m.test(readFileSync("/etc/fuse.conf", "utf8"));
    expect(refused.status).toBe(allowed ? 0 : ERROR_CODES.EPERM.exit);
    if (!allowed) expect(refused.stderr).toContain("user_allow_other");
    expect((await nydus("daemon", "stop")).status).toBe(0);
  });
});
