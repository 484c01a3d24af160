import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { release, tmpdir } from "node:os";
import { join } from "node:path";
import { NydusError } from "../../../../src/base/errors.ts";
import { INTROSPECTION_SERVICE } from "../../../../src/format/containerd/introspection-schema.ts";
import { SNAPSHOTS_SERVICE } from "../../../../src/format/containerd/snapshots-schema.ts";
import { VERSION_SERVICE } from "../../../../src/format/containerd/version-schema.ts";
import { type Check, type CheckResult, type DoctorEnv, ok, runChecks } from "../../../../src/operation/host/checks.ts";
import { CONTAINERD_CHECKS, lookAtContainerd } from "../../../../src/operation/host/containerd-checks.ts";
import { allChecks } from "../../../../src/operation/host/doctor.ts";
import { KERNEL_CHECKS } from "../../../../src/operation/host/kernel-checks.ts";
import { STATE_CHECKS } from "../../../../src/operation/host/state-checks.ts";
import { MOUNT_CHECKS } from "../../../../src/operation/host/test-mount.ts";
import { type Message, serveGrpc } from "../../../../src/os/grpc.ts";
import { readMountInfo } from "../../../../src/os/mount.ts";
import { canMountErofs } from "../../../kit/erofs-lab.ts";
import { canMount } from "../../../kit/mount-fixture.ts";

const MAIN = join(import.meta.dir, "..", "..", "..", "..", "src", "cli", "main.ts");
const isRoot = process.getuid?.() === 0;
const canUnshare = isRoot && spawnSync("unshare", ["-m", "true"]).status === 0;

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "nydus-doctor-"));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

/** Runs the program's doctor. @returns its findings by their names, and its exit status */
function doctor(
  wrapper: readonly string[],
  env: Record<string, string> = {},
): [Map<string, CheckResult>, number | null] {
  const words = [process.execPath, MAIN, "--root", join(dir, "root"), "doctor", "--json"];
  const places = ["--config", join(dir, "config.toml"), "-a", join(dir, "containerd.sock")];
  const [program = "", ...args] = [...wrapper, ...words, ...places];
  const { stdout, stderr, status } = spawnSync(program, args, { encoding: "utf8", env: { ...process.env, ...env } });
  try {
    return [new Map((JSON.parse(stdout) as CheckResult[]).map((one) => [one.name, one])), status];
  } catch {
    throw new Error(`status ${status}: ${stdout}${stderr}`);
  }
}

async function envWith(more: Partial<DoctorEnv> = {}): Promise<DoctorEnv> {
  return {
    ...{ root: join(dir, "root"), uid: 0, kernelRelease: "6.18.0", now: new Date("2026-08-01T00:00:00Z") },
    ...{ variables: { HOME: dir }, readText: () => undefined, signal: new AbortController().signal },
    containerd: await look(),
    ...more,
  };
}

/** @param script of a program named containerd; without one there is none on PATH */
async function look(script?: string): Promise<DoctorEnv["containerd"]> {
  if (script !== undefined) writeFileSync(join(dir, "containerd"), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  return await lookAtContainerd({
    address: join(dir, "containerd.sock"),
    configPath: join(dir, "config.toml"),
    searchPath: script === undefined ? "" : dir,
  });
}

/** One finding of a table of checks. */
async function find(checks: readonly Check[], name: string, env: DoctorEnv): Promise<CheckResult> {
  const check = checks.filter((one) => one.name === name);
  for await (const result of runChecks(check, env)) return result;
  throw new Error(`there is no check ${name}`);
}

test("runChecks() makes a failed check of one that throws, and goes on", async () => {
  const checks: Check[] = [
    { name: "a", run: () => Promise.reject(new NydusError("EIO", "Cannot see", { path: "/x" })) },
    { name: "b", run: async () => ok("fine") },
  ];
  const results: CheckResult[] = [];
  for await (const one of runChecks(checks, await envWith())) results.push(one);
  expect(results).toEqual([
    { name: "a", status: "fail", found: 'Cannot see ("/x")', advice: "see the message" },
    { name: "b", status: "ok", found: "fine" },
  ]);
});

test("runChecks() ends when it is interrupted", async () => {
  const controller = new AbortController();
  const env = await envWith({ signal: controller.signal });
  const run = async (): Promise<void> => {
    for await (const _ of runChecks(KERNEL_CHECKS, env)) controller.abort(new NydusError("ECANCELED", "Interrupted"));
  };
  await expect(run()).rejects.toMatchObject({ code: "ECANCELED" });
});

test("every check has a name of its own, and those of other floors are among them", () => {
  const names = allChecks([{ name: "probe", run: async () => ok("") }]).map(({ name }) => name);
  expect(names).toContain("probe");
  expect(new Set(names).size).toBe(names.length);
});

describe("the kernel's checks", () => {
  const systems = (text: string) => (path: string) => (path === "/proc/filesystems" ? text : undefined);
  const modules = (text: string) => (path: string) => (path.endsWith("/modules.dep") ? text : undefined);
  const limits = (limit: string) => (path: string) =>
    path === "/proc/self/limits" ? `Max open files            ${limit}    4096   files\n` : undefined;

  test.each([
    ["an old release", "kernel", { kernelRelease: "4.18.0-553.el8" }, ["warn", "4.20"]],
    ["a release that will do", "kernel", { kernelRelease: "5.4.0" }, ["ok", "5.4.0"]],
    ["no FUSE at all", "fuse", { readText: systems("nodev\tproc\n\text4\n") }, ["fail", "modprobe fuse"]],
    ["FUSE as a module", "fuse", { readText: modules("kernel/fs/fuse/fuse.ko.xz:\n") }, ["warn", "modprobe fuse"]],
    ["FUSE", "fuse", { readText: systems("nodev\tproc\n\tfuseblk\nnodev\tfuse\n") }, ["ok", ""]],
    ["no overlayfs", "overlayfs", { readText: systems("nodev\tproc\n") }, ["fail", "modprobe overlay"]],
    [
      "no overlayfs for who is not root",
      "overlayfs",
      { readText: systems("nodev\tproc\n"), uid: 1000 },
      ["skip", "root"],
    ],
    ["EROFS", "erofs", { readText: systems("\terofs\n") }, ["ok", "also from files"]],
    [
      "EROFS of before files could be mounted",
      "erofs",
      { readText: systems("\terofs\n"), kernelRelease: "6.1.0" },
      ["ok", "the kernel has it"],
    ],
    ["no EROFS", "erofs", { readText: systems("") }, ["skip", "FUSE"]],
    ["64 open files", "open files", { readText: limits("64") }, ["warn", "ulimit -n 256"]],
    ["any number of open files", "open files", { readText: limits("unlimited") }, ["ok", "unlimited"]],
    ["a clock without a battery", "clock", { now: new Date(0) }, ["fail", "1970-01-01 00:00:00 UTC"]],
    ["no fusermount3", "fusermount3", { uid: 1000, variables: { PATH: "/nowhere" } }, ["fail", "fuse3"]],
    ["no fusermount3 for root", "fusermount3", { uid: 0 }, ["skip", "root"]],
  ] as const)("%s is seen by the check %s", async (_name, name, given, [status, words]) => {
    const { status: found, ...rest } = await find(KERNEL_CHECKS, name, await envWith(given as Partial<DoctorEnv>));
    expect(found).toBe(status);
    expect(Object.values(rest).join(" ")).toContain(words);
  });

  test("fusermount3 without its set-user-ID bit is of no use", async () => {
    writeFileSync(join(dir, "fusermount3"), "#!/bin/sh\n", { mode: 0o755 });
    const env = await envWith({ uid: 1000, variables: { PATH: dir } });
    expect(await find(KERNEL_CHECKS, "fusermount3", env)).toMatchObject({
      status: "fail",
      advice: expect.stringContaining("chmod u+s"),
    });
  });
});

describe("the state directory's checks", () => {
  test("a directory that is not there yet is no failure", async () => {
    expect(await find(STATE_CHECKS, "state directory", await envWith())).toMatchObject({ status: "ok" });
    expect(readdirSync(dir)).toEqual([]);
  });

  test("a file in its place is", async () => {
    writeFileSync(join(dir, "root"), "");
    expect(await find(STATE_CHECKS, "state directory", await envWith())).toMatchObject({ status: "fail" });
  });

  test.skipIf(!isRoot)("a read-only, full and noexec file system is told of", async () => {
    const root = join(dir, "root");
    mkdirSync(root);
    spawnSync("mount", ["-t", "tmpfs", "-o", "ro,noexec,size=1m", "none", root]);
    try {
      const env = await envWith();
      expect(await find(STATE_CHECKS, "state directory", env)).toMatchObject({
        status: "fail",
        advice: expect.stringContaining("--root"),
      });
      expect(await find(STATE_CHECKS, "disk space", env)).toMatchObject({
        status: "fail",
        advice: expect.stringContaining("prune"),
      });
      const system = await find(STATE_CHECKS, "file system", env);
      expect(system).toMatchObject({ status: "warn", advice: `mount -o remount,exec ${root}` });
    } finally {
      spawnSync("umount", [root]);
    }
  });

  test.skipIf(!isRoot)("overlayfs and a lack of inodes are told of", async () => {
    for (const name of ["t", "root"]) mkdirSync(join(dir, name));
    const small = join(dir, "t");
    spawnSync("mount", ["-t", "tmpfs", "-o", "nr_inodes=10", "none", small]);
    for (const name of ["l", "u", "w"]) mkdirSync(join(small, name));
    const options = `lowerdir=${small}/l,upperdir=${small}/u,workdir=${small}/w`;
    spawnSync("mount", ["-t", "overlay", "none", "-o", options, join(dir, "root")]);
    try {
      const env = await envWith();
      expect(await find(STATE_CHECKS, "file system", env)).toMatchObject({
        status: "warn",
        found: expect.stringContaining("overlayfs"),
      });
      expect(await find(STATE_CHECKS, "disk space", env)).toMatchObject({
        status: "warn",
        found: expect.stringContaining("inodes"),
      });
    } finally {
      spawnSync("umount", [join(dir, "root")]);
      spawnSync("umount", [small]);
    }
  });

  test.each([
    ["nothing", undefined, "ok", "none"],
    ["what is no JSON", "{secret", "fail", "nydus login"],
    ["a helper that is not there", '{"credsStore": "nowhere"}', "warn", "docker-credential-nowhere"],
    ["a list", "[]", "fail", ""],
  ] as const)("credentials of %s", async (_name, text, status, words) => {
    const path = join(dir, "config.json");
    if (text !== undefined) writeFileSync(path, text, { mode: 0o600 });
    const found = await find(
      STATE_CHECKS,
      "credentials",
      await envWith({ variables: { DOCKER_CONFIG: dir, PATH: "" } }),
    );
    expect(found.status).toBe(status);
    expect(Object.values(found).join(" ")).toContain(words);
    expect(JSON.stringify(found)).not.toContain("secret");
  });

  test("credentials that others can read are warned of", async () => {
    writeFileSync(join(dir, "config.json"), "{}");
    chmodSync(join(dir, "config.json"), 0o644);
    const found = await find(STATE_CHECKS, "credentials", await envWith({ variables: { DOCKER_CONFIG: dir } }));
    expect(found).toMatchObject({ status: "warn", advice: `chmod 600 ${join(dir, "config.json")}` });
  });
});

const VERSION_2 = 'case "$*" in --version) echo containerd x v2.2.1;; *) cat "$2";; esac';

describe("containerd's checks", () => {
  const plugin = (rest = ""): void => {
    const text = `version = 3\n[proxy_plugins.nydus]\ntype = "snapshot"\naddress = "${join(dir, "nydus.sock")}"\n${rest}`;
    writeFileSync(join(dir, "config.toml"), text);
  };
  const EXPORTS = `[proxy_plugins.nydus.exports]\nenable_remote_snapshot_annotations = "true"\n`;
  const UNPACK = `[[plugins."io.containerd.transfer.v1.local".unpack_config]]\nplatform = "linux/arm64"\nsnapshotter = "nydus"\n`;

  test("without containerd a warning is enough, unless it is to have the snapshotter", async () => {
    expect(await find(CONTAINERD_CHECKS, "containerd", await envWith())).toMatchObject({ status: "warn" });
    plugin();
    expect(await find(CONTAINERD_CHECKS, "containerd", await envWith({ containerd: await look() }))).toMatchObject({
      status: "fail",
    });
  });

  test("an old one has to be updated", async () => {
    const containerd = await look("echo containerd x 1.5.9");
    expect(await find(CONTAINERD_CHECKS, "containerd", await envWith({ containerd }))).toMatchObject({
      status: "fail",
    });
  });

  test.each([
    ["none", undefined, "warn", "nydus install containerd"],
    ["one that cannot be parsed", "a = \n", "fail", "line 1"],
    ["one without the snapshotter", "version = 3\n", "warn", "nydus install containerd"],
  ] as const)("its configuration: %s", async (_name, text, status, words) => {
    if (text !== undefined) writeFileSync(join(dir, "config.toml"), text);
    const found = await find(
      CONTAINERD_CHECKS,
      "containerd config",
      await envWith({ containerd: await look(VERSION_2) }),
    );
    expect(found.status).toBe(status);
    expect(Object.values(found).join(" ")).toContain(words);
  });

  test.each([
    ["its export", "", "fail", "enable_remote_snapshot_annotations"],
    ["its unpacker", EXPORTS, "fail", "unpack_config has no element for nydus"],
    ["nothing", `${EXPORTS}${UNPACK}`, "ok", ""],
  ] as const)("its configuration for containerd 2 lacks %s", async (_name, rest, status, words) => {
    plugin(rest);
    const found = await find(
      CONTAINERD_CHECKS,
      "containerd config",
      await envWith({ containerd: await look(VERSION_2) }),
    );
    expect([found.status, found.found.includes(words)]).toEqual([status, true]);
  });

  test("what containerd itself does not take has failed", async () => {
    plugin();
    const script = '[ "$1" = --version ] && echo containerd x 2.2.1 && exit; echo "bad plugin" >&2; exit 1';
    const found = await find(CONTAINERD_CHECKS, "containerd config", await envWith({ containerd: await look(script) }));
    expect(found).toMatchObject({ status: "fail", found: expect.stringContaining("bad plugin") });
  });

  test("sockets that are not there, or do not answer, have failed", async () => {
    plugin();
    const env = await envWith({ containerd: await look(VERSION_2) });
    for (const name of ["containerd socket", "snapshotter socket"]) {
      expect(await find(CONTAINERD_CHECKS, name, env)).toMatchObject({
        status: "fail",
        found: expect.stringContaining("not there"),
      });
    }
    const servers = ["containerd.sock", "nydus.sock"].map((name) =>
      createServer((socket) => socket.destroy()).listen(join(dir, name)),
    );
    try {
      for (const name of ["containerd socket", "snapshotter socket"]) {
        expect(await find(CONTAINERD_CHECKS, name, env)).toMatchObject({
          status: "fail",
          found: expect.stringContaining("does not answer"),
        });
        expect(await find(CONTAINERD_CHECKS, name, { ...env, uid: 1000 })).toMatchObject({ status: "skip" });
      }
      expect(await find(CONTAINERD_CHECKS, "snapshotter plugin", env)).toMatchObject({ status: "skip" });
    } finally {
      for (const server of servers) server.close();
    }
  });

  test("who answers is asked what it has", async () => {
    plugin(`${EXPORTS}${UNPACK}`);
    let plugins: Message[] = [{ type: "io.containerd.snapshotter.v1", id: "nydus" }];
    let filters: unknown;
    const introspect = async (request: Message): Promise<Message> => {
      filters = request["filters"];
      return { plugins };
    };
    const containerd = await serveGrpc(join(dir, "containerd.sock"), [
      { service: VERSION_SERVICE, handlers: { Version: async () => ({ version: "v2.2.1", revision: "" }) } },
      { service: INTROSPECTION_SERVICE, handlers: { Plugins: introspect } },
    ]);
    const list = async function* (): AsyncGenerator<Message> {
      yield { info: [{ name: "a" }, { name: "b" }] };
      yield { info: [{ name: "c" }] };
    };
    const snapshotter = await serveGrpc(join(dir, "nydus.sock"), [
      { service: SNAPSHOTS_SERVICE, handlers: { List: list } },
    ]);
    try {
      const env = await envWith({ containerd: await look(VERSION_2) });
      expect(await find(CONTAINERD_CHECKS, "containerd socket", env)).toMatchObject({
        status: "ok",
        found: expect.stringContaining("v2.2.1"),
      });
      expect(await find(CONTAINERD_CHECKS, "snapshotter socket", env)).toMatchObject({
        status: "ok",
        found: expect.stringContaining("3 snapshots"),
      });
      expect(await find(CONTAINERD_CHECKS, "snapshotter plugin", env)).toMatchObject({ status: "ok" });
      expect(filters).toEqual(["type==io.containerd.snapshotter.v1,id==nydus"]);
      plugins = [
        { type: "io.containerd.snapshotter.v1", id: "nydus", initErr: { code: 2, message: "no such socket" } },
      ];
      expect(await find(CONTAINERD_CHECKS, "snapshotter plugin", env)).toMatchObject({
        status: "fail",
        found: expect.stringContaining("no such socket"),
      });
      plugins = [];
      expect(await find(CONTAINERD_CHECKS, "snapshotter plugin", env)).toMatchObject({
        status: "fail",
        advice: "systemctl restart containerd",
      });
    } finally {
      await containerd.close();
      await snapshotter.close();
    }
  });
});

/** Mounts that a test has made, or left. */
function mountsBelow(path: string): string[] {
  return readMountInfo()
    .map(({ mountpoint }) => mountpoint)
    .filter((one) => one.startsWith(path));
}

describe("the test mount", () => {
  test.skipIf(!canMount)("is read, overlaid and gone", async () => {
    mkdirSync(join(dir, "root"));
    const env = await envWith({ kernelRelease: release() });
    expect(await find(MOUNT_CHECKS, "test mount", env)).toMatchObject({
      status: "ok",
      found: expect.stringContaining("overlaid"),
    });
    expect(readdirSync(join(dir, "root"))).toEqual([]);
    expect(mountsBelow(dir)).toEqual([]);
  });

  test.skipIf(!canMount)("fails where the state directory is on overlayfs, and leaves nothing", async () => {
    for (const name of ["l", "u", "w", "root"]) mkdirSync(join(dir, name));
    const options = `lowerdir=${dir}/l,upperdir=${dir}/u,workdir=${dir}/w`;
    spawnSync("mount", ["-t", "overlay", "none", "-o", options, join(dir, "root")]);
    try {
      const found = await find(MOUNT_CHECKS, "test mount", await envWith());
      expect(found).toMatchObject({ status: "fail", found: expect.stringContaining("state directory on overlayfs") });
      expect(readdirSync(join(dir, "root"))).toEqual([]);
      expect(mountsBelow(join(dir, "root"))).toEqual([join(dir, "root")]);
    } finally {
      spawnSync("umount", [join(dir, "root")]);
    }
  });
});

describe("nydus doctor", () => {
  test.skipIf(!canMount)("ends with status 0 when nothing has failed", () => {
    const [found, status] = doctor([], { PATH: "/nowhere", HOME: "/nonexistent" });
    expect([...found.values()].filter((one) => one.status === "fail")).toEqual([]);
    expect(found.get("containerd")?.status).toBe("warn");
    expect(status).toBe(0);
    expect(readdirSync(dir)).toEqual([]);
  });

  test.skipIf(!canUnshare)("ends with status 6 where there is no /dev/fuse, and says what to do", () => {
    const [found, status] = doctor(["unshare", "-m", "sh", "-c", 'mount -t tmpfs none /dev && exec "$0" "$@"']);
    expect(found.get("fuse device")).toMatchObject({
      status: "fail",
      advice: expect.stringContaining("modprobe fuse"),
    });
    // By EROFS nothing is missing: images that only FUSE can show are.
    expect(found.get("test mount")?.status).toBe(canMountErofs() ? "ok" : "fail");
    expect(status).toBe(6);
  });

  test.skipIf(!canUnshare)("knows another device from /dev/fuse", () => {
    const [found] = doctor(["unshare", "-m", "sh", "-c", 'mount --bind /dev/null /dev/fuse && exec "$0" "$@"']);
    expect(found.get("fuse device")).toMatchObject({ status: "fail", found: "/dev/fuse is another file" });
  });

  test.skipIf(!isRoot || Bun.which("setpriv") === null)("works without root, and says what it has skipped", () => {
    chmodSync(dir, 0o755);
    const [found] = doctor(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"], { HOME: "/nonexistent" });
    expect(found.get("overlayfs")?.status).toMatch(/ok|skip/);
    expect(found.get("state directory")).toMatchObject({ status: "fail", found: `${dir} cannot be written to` });
    expect(found.get("fusermount3")?.status).not.toBe("skip");
    expect(readdirSync(dir)).toEqual([]);
  });

  test("prints a line a check", () => {
    const words = [MAIN, "--root", join(dir, "root"), "doctor", "--config", join(dir, "none.toml")];
    const { stdout } = spawnSync(process.execPath, words, {
      encoding: "utf8",
      env: { ...process.env, PATH: "/nowhere" },
    });
    const lines = stdout.trimEnd().split("\n");
    expect(lines).toHaveLength(allChecks([]).length + 1);
    for (const line of lines) expect(line).toMatch(/^(ok {4}|warn {2}|fail {2}|skip {2})\S.{19}\S/);
  });

  test("its help says the status that it ends with", () => {
    const { stdout } = spawnSync(process.execPath, [MAIN, "doctor", "--help"], { encoding: "utf8" });
    expect(stdout).toContain("status 6");
    expect(readFileSync(join(import.meta.dir, "..", "..", "..", "..", "README.md"), "utf8")).toContain("| 6 |");
  });
});
