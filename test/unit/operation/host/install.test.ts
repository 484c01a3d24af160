import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { spawnSync } from "node:child_process";
import {
  chmodSync,
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { parseConfig, valueAt } from "../../../../src/operation/host/containerd-config.ts";
import { applyPlan, diffOf } from "../../../../src/operation/host/host-plan.ts";
import { type InstallRequest, planInstall } from "../../../../src/operation/host/install.ts";
import { UNIT_NAME } from "../../../../src/operation/host/systemd-unit.ts";
import { planUninstall } from "../../../../src/operation/host/uninstall.ts";
import { findContainerds } from "../../../kit/peers.ts";

const SOCKET = "/run/nydus.sock";
const NOW = new Date("2026-08-01T10:20:30.456Z");
const STAMP = "nydus-backup-20260801T102030Z";
const VERSION_2 = { major: 2, minor: 2 };
const isRoot = process.getuid?.() === 0;
const MAIN = join(import.meta.dir, "..", "..", "..", "..", "src", "cli", "main.ts");

let dir: string;
let configPath: string;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "nydus-install-"));
  configPath = join(dir, "config.toml");
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

/** Without a containerd on PATH unless one is given. */
function request(more: Partial<InstallRequest> = {}): InstallRequest {
  return {
    ...{ configPath, address: SOCKET, cri: false, platform: "linux/amd64", root: "/var/lib/nydus" },
    ...{ unitDir: undefined, command: ["/usr/bin/nydus", "snapshotter"], searchPath: "", containerd: VERSION_2 },
    ...more,
  };
}

async function install(more: Partial<InstallRequest> = {}): ReturnType<typeof applyPlan> {
  return await applyPlan(await planInstall(request(more)), NOW);
}

async function uninstall(more: Partial<Parameters<typeof planUninstall>[0]> = {}): ReturnType<typeof applyPlan> {
  const rest = { unitDir: undefined, searchPath: "", root: join(dir, "root"), force: false };
  return await applyPlan(await planUninstall({ configPath, ...rest, ...more }), NOW);
}

function config(): ReturnType<typeof parseConfig> {
  return parseConfig(readFileSync(configPath, "utf8"));
}

/** A program called containerd that answers as the script says. */
function fakeContainerd(script: string): string {
  const bin = join(dir, "bin");
  mkdirSync(bin, { recursive: true });
  writeFileSync(join(bin, "containerd"), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  return bin;
}

describe("planInstall() and applyPlan()", () => {
  test("a configuration that is not there is made, of the newest version, and goes again", async () => {
    configPath = join(dir, "etc", "containerd", "config.toml");
    expect(await install()).toEqual([{ path: configPath, action: "created", backup: undefined }]);
    expect(config()["version"]).toBe(3);
    expect(statSync(configPath).mode & 0o777).toBe(0o644);
    await uninstall();
    expect(readdirSync(dirname(configPath))).toEqual([]);
  });

  test("one that was made, and written into since, stays without what was installed", async () => {
    await install();
    writeFileSync(configPath, `${readFileSync(configPath, "utf8")}[debug]\n  level = "info"\n`);
    await uninstall();
    expect(JSON.parse(JSON.stringify(config()))).toEqual({ version: 3, debug: { level: "info" } });
  });

  test("the old file is kept beside it, with its mode, and a second run changes nothing", async () => {
    writeFileSync(configPath, "version = 2\n", { mode: 0o640 });
    chmodSync(configPath, 0o640);
    const [change] = await install();
    expect(change).toEqual({ path: configPath, action: "changed", backup: `${configPath}.${STAMP}` });
    expect(readFileSync(`${configPath}.${STAMP}`, "utf8")).toBe("version = 2\n");
    expect(statSync(`${configPath}.${STAMP}`).mode & 0o777).toBe(0o640);
    expect(statSync(configPath).mode & 0o777).toBe(0o640);
    expect(await install()).toEqual([]);
    expect(readdirSync(dir).sort()).toEqual(["config.toml", `config.toml.${STAMP}`]);
  });

  test("no backup is ever written over", async () => {
    writeFileSync(configPath, "version = 2\n");
    writeFileSync(`${configPath}.${STAMP}`, "precious");
    const [change] = await install();
    expect(change?.backup).toBe(`${configPath}.${STAMP}-1`);
    expect(readFileSync(`${configPath}.${STAMP}`, "utf8")).toBe("precious");
  });

  test.skipIf(!isRoot)("the owner stays", async () => {
    writeFileSync(configPath, "version = 2\n");
    chownSync(configPath, 1234, 2345);
    const [change] = await install();
    for (const path of [configPath, change?.backup as string]) {
      expect([statSync(path).uid, statSync(path).gid]).toEqual([1234, 2345]);
    }
  });

  test("behind a symlink the file itself is changed", async () => {
    const real = join(dir, "real.toml");
    writeFileSync(real, "version = 2\n");
    symlinkSync("real.toml", configPath);
    expect((await install())[0]?.path).toBe(real);
    expect(lstatSync(configPath).isSymbolicLink()).toBe(true);
  });

  test("a symlink to nowhere is not written through", async () => {
    symlinkSync("nowhere", configPath);
    await expect(planInstall(request())).rejects.toMatchObject({ code: "ENOENT" });
  });

  test("bytes that are no UTF-8 are refused", async () => {
    writeFileSync(configPath, Buffer.from([0x23, 0xff, 0x0a]));
    await expect(planInstall(request())).rejects.toMatchObject({ code: "EUCLEAN", at: { path: configPath } });
  });

  test("a file that was changed after the plan is left alone", async () => {
    writeFileSync(configPath, "version = 2\n");
    const plan = await planInstall(request());
    writeFileSync(configPath, "version = 2\n# mine\n");
    await expect(applyPlan(plan, NOW)).rejects.toMatchObject({ code: "EBUSY" });
    expect(readFileSync(configPath, "utf8")).toBe("version = 2\n# mine\n");
    expect(readdirSync(dir)).toEqual(["config.toml"]);
  });

  test("which containerd it is for must be known", async () => {
    await expect(planInstall(request({ containerd: undefined }))).rejects.toMatchObject({ code: "ENOENT" });
    const searchPath = fakeContainerd('echo "containerd containerd.io v1.7.27 05044ec0"');
    await install({ containerd: undefined, searchPath: `relative:${searchPath}` }).catch(() => undefined);
    const plan = await planInstall(request({ containerd: undefined, searchPath }));
    expect(plan.changes[0]?.after).toStartWith("# Made by 'nydus install containerd'.\nversion = 2\n");
  });

  test("the diff of a plan is one that patch(1) can use", async () => {
    writeFileSync(configPath, "version = 2\n[proxy_plugins.nydus]\n  # mine\n\n[grpc]\n  uid = 0");
    const plan = await planInstall(request({ unitDir: join(dir, "units"), cri: true }));
    const patched = spawnSync("patch", ["-p1", "-d", "/"], { input: diffOf(plan), encoding: "utf8" });
    expect([patched.status, patched.stderr]).toEqual([0, ""]);
    for (const { path, after } of plan.changes) expect(readFileSync(path, "utf8")).toBe(after as string);
  });
});

describe("imports", () => {
  const main = `version = 2\nimports = ["conf.d/*.toml"]\n`;

  function importing(text: string): void {
    mkdirSync(join(dir, "conf.d"));
    writeFileSync(join(dir, "conf.d", "a.toml"), text);
    writeFileSync(configPath, main);
  }

  test("that have the plugin are what is to be changed", async () => {
    importing('[proxy_plugins.nydus]\ntype = "snapshot"\naddress = "/old"\n');
    await expect(planInstall(request())).rejects.toThrow(`--config ${join(dir, "conf.d", "a.toml")}`);
    expect(readFileSync(configPath, "utf8")).toBe(main);
  });

  test("that have a plugin's table go before all of it up to containerd 1", async () => {
    importing('[plugins."io.containerd.grpc.v1.cri"]\n  sandbox_image = "x"\n');
    const containerd = { major: 1, minor: 7 };
    await expect(planInstall(request({ containerd, cri: true }))).rejects.toMatchObject({ code: "EEXIST" });
    expect((await planInstall(request({ containerd }))).changes).toHaveLength(1);
    expect((await planInstall(request({ cri: true }))).changes).toHaveLength(1);
  });

  test("of other things, and of themselves, are no matter", async () => {
    importing(`imports = ["${configPath}", "a.toml", "none.toml"]\n[debug]\nlevel = "info"\n`);
    await install();
    expect(valueAt(config(), ["proxy_plugins", "nydus", "address"])).toBe(SOCKET);
  });
});

describe("the unit", () => {
  const unit = (): string => join(dir, "units", UNIT_NAME);
  const withUnit = { unitDir: "" };
  beforeEach(() => {
    withUnit.unitDir = join(dir, "units");
  });

  test("runs the command, leaves the mount daemon alone and is removed with its link", async () => {
    await install({ ...withUnit, command: ["/opt/my $dir/100%", 'say "x"'] });
    const text = readFileSync(unit(), "utf8");
    expect(text).toContain('\nExecStart="/opt/my $$dir/100%%" "say \\"x\\""\n');
    expect(text).toContain("\nKillMode=process\n");
    expect(text).toContain("\nType=notify\n");
    expect(text).toContain("\nUnsetEnvironment=BUN_OPTIONS BUN_BE_BUN");
    const wants = join(dir, "units", "multi-user.target.wants");
    mkdirSync(wants);
    symlinkSync(unit(), join(wants, UNIT_NAME));
    await uninstall(withUnit);
    expect(readdirSync(wants)).toEqual([]);
    expect(existsSync(unit())).toBe(false);
  });

  test("tells the snapshotter where containerd is, if that is another place", async () => {
    writeFileSync(configPath, `version = 2\n[grpc]\n  address = "/run/k3s/containerd.sock"\n`);
    const plan = await planInstall(request(withUnit));
    const command = ["/usr/bin/nydus", "snapshotter", "--containerd-address", "/run/k3s/containerd.sock"];
    expect(plan.command).toEqual(command);
    expect(plan.changes[0]?.after).toContain(`\nExecStart=${command.join(" ")}\n`);
    writeFileSync(configPath, `version = 2\n[grpc]\n  address = "/run/containerd/containerd.sock"\n`);
    expect((await planInstall(request(withUnit))).command).toEqual(command.slice(0, 2));
  });

  test.skipIf(Bun.which("systemd-analyze") === null)("is what systemd understands", async () => {
    await install({ ...withUnit, command: ["/bin/true", "snapshotter"] });
    const { status, stderr } = spawnSync("systemd-analyze", ["verify", unit()], { encoding: "utf8" });
    const ours = stderr.split("\n").filter((line) => line.includes(UNIT_NAME));
    expect([status, ours]).toEqual([0, []]);
  });

  test("of somebody else is not replaced, nor removed", async () => {
    mkdirSync(withUnit.unitDir);
    writeFileSync(unit(), "[Service]\nExecStart=/other\n");
    await expect(planInstall(request(withUnit))).rejects.toMatchObject({ code: "EEXIST", at: { path: unit() } });
    await uninstall(withUnit);
    expect(readFileSync(unit(), "utf8")).toBe("[Service]\nExecStart=/other\n");
  });

  test("that was changed is kept as a backup by install, and stays at uninstall", async () => {
    await install(withUnit);
    writeFileSync(unit(), readFileSync(unit(), "utf8").replace("RestartSec=1", "RestartSec=7"));
    const rest = { configPath, searchPath: "", root: dir, force: false };
    const plan = await planUninstall({ ...rest, ...withUnit });
    expect(plan.changes.map(({ path }) => path)).toEqual([configPath]);
    expect(plan.notes).toEqual([`${unit()} was changed since it was installed: it stays`]);
    expect((await install(withUnit))[0]?.backup).toBe(`${unit()}.${STAMP}`);
    expect(readFileSync(unit(), "utf8")).toContain("RestartSec=1\n");
  });

  test("is written only if the configuration can be, too", async () => {
    writeFileSync(configPath, "version = 2\n[proxy_plugins.nydus]\naddress = '/other'\n");
    await expect(planInstall(request(withUnit))).rejects.toMatchObject({ code: "EEXIST" });
    writeFileSync(configPath, "version = 2\n");
    const searchPath = fakeContainerd(
      '[ "$1" = --version ] && echo containerd x 2.2.1 || { echo "no way: $2" >&2; exit 1; }',
    );
    await expect(install({ ...withUnit, searchPath })).rejects.toMatchObject({ code: "EUCLEAN" });
    expect(readdirSync(withUnit.unitDir)).toEqual([]);
    expect(readFileSync(configPath, "utf8")).toBe("version = 2\n");
    expect(readdirSync(dir).sort()).toEqual(["bin", "config.toml", "units"]);
  });
});

describe("planUninstall()", () => {
  test("finds nothing to do where nothing was installed", async () => {
    expect(await uninstall()).toEqual([]);
    writeFileSync(configPath, "version = 2\n");
    expect(await uninstall()).toEqual([]);
  });

  test.skipIf(!isRoot || !existsSync("/proc/self/mountinfo"))(
    "refuses while a container's root is mounted",
    async () => {
      writeFileSync(configPath, "version = 2\n");
      await install();
      const root = join(dir, "state");
      for (const name of ["l", "u", "w", "m"]) mkdirSync(join(root, name), { recursive: true });
      spawnSync("mount", ["-t", "tmpfs", "none", root]);
      for (const name of ["l", "u", "w", "m"]) mkdirSync(join(root, name), { recursive: true });
      const options = `lowerdir=${root}/l,upperdir=${root}/u,workdir=${root}/w`;
      const mounted = spawnSync("mount", ["-t", "overlay", "none", "-o", options, join(root, "m")], {
        encoding: "utf8",
      });
      try {
        expect([mounted.status, mounted.stderr]).toEqual([0, ""]);
        await expect(uninstall({ root })).rejects.toMatchObject({ code: "EBUSY" });
        await uninstall({ root, force: true });
        expect(readFileSync(configPath, "utf8")).toBe("version = 2\n");
      } finally {
        spawnSync("umount", [join(root, "m")]);
        spawnSync("umount", [root]);
      }
    },
  );
});

const CONTAINERDS = findContainerds();

test("containerd is there for these tests", () => {
  if (CONTAINERDS.length === 0) console.log("no containerd: its own opinion is not asked");
});

describe.each(CONTAINERDS.map((one) => [one.name, one] as const))("%s", (_, { binary }) => {
  const major = /containerd 1\./.test(_) ? 1 : 2;
  const searchPath = dirname(binary);
  const dump = (): ReturnType<typeof parseConfig> => {
    const { stdout, stderr, status } = spawnSync(binary, ["-c", configPath, "config", "dump"], { encoding: "utf8" });
    expect([status, status === 0 ? "" : stderr]).toEqual([0, ""]);
    return parseConfig(stdout);
  };
  const defaults = (): string => spawnSync(binary, ["config", "default"], { encoding: "utf8" }).stdout;

  test("takes its default configuration with the plugin, as asked for, and without it as before", async () => {
    writeFileSync(configPath, defaults());
    const before = dump();
    await install({ containerd: undefined, searchPath, cri: true });
    const after = dump();
    expect(valueAt(after, ["proxy_plugins", "nydus", "address"])).toBe(SOCKET);
    const cri = ["plugins", "io.containerd.grpc.v1.cri", "containerd"];
    const images = ["plugins", "io.containerd.cri.v1.images"];
    const transfer = ["plugins", "io.containerd.transfer.v1.local", "unpack_config"];
    const exported = ["proxy_plugins", "nydus", "exports", "enable_remote_snapshot_annotations"];
    if (major === 1) expect(valueAt(after, [...cri, "snapshotter"])).toBe("nydus");
    else {
      expect(valueAt(after, [...images, "snapshotter"])).toBe("nydus");
      expect(valueAt(after, exported)).toBe("true");
      const unpackers = valueAt(after, transfer) as { snapshotter: string }[];
      expect(unpackers.map(({ snapshotter }) => snapshotter)).toEqual(["overlayfs", "nydus"]);
    }
    await uninstall({ searchPath });
    expect(dump()).toEqual(before);
    expect(readFileSync(configPath, "utf8")).toBe(defaults());
  });

  test.each([
    ["docker's, of version 1", 'disabled_plugins = ["io.containerd.grpc.v1.cri"]\r\n'],
    [
      "dotted keys and quotes",
      "version = 2\ngrpc.address = '/x'\n['proxy_plugins'.\"stargz\"]\ntype = 'snapshot'\naddress = '/s'",
    ],
    ["nothing", ""],
  ])("takes a configuration of %s", async (_name, text) => {
    writeFileSync(configPath, text);
    await install({ containerd: undefined, searchPath });
    expect(valueAt(dump(), ["proxy_plugins", "nydus", "type"])).toBe("snapshot");
    await uninstall({ searchPath });
    expect(readFileSync(configPath, "utf8")).toBe(text);
  });

  test("is believed when it does not take the file that was there", async () => {
    const text = 'version = 2\n[grpc]\n  uid = "root"\n';
    writeFileSync(configPath, text);
    await expect(install({ containerd: undefined, searchPath })).rejects.toMatchObject({ code: "EUCLEAN" });
    expect(readFileSync(configPath, "utf8")).toBe(text);
    expect(readdirSync(dir)).toEqual(["config.toml"]);
  });
});

const canTrace = Bun.which("strace") !== null && spawnSync("strace", ["-o", "/dev/null", "true"]).status === 0;

test.skipIf(!canTrace)(
  "killed between backup and rename, the old file is whole and the next run does it all",
  async () => {
    const text = "version = 2\n# mine\n";
    writeFileSync(configPath, text);
    const command = [process.execPath, MAIN, "install", "containerd", "--config", configPath, "--skip-unit"];
    const kill = ["-f", "-o", "/dev/null", "-e", "trace=rename,renameat,renameat2"];
    const inject = ["-e", "inject=rename,renameat,renameat2:signal=SIGKILL"];
    const env = { ...process.env, PATH: "/nowhere" };
    const strace = Bun.which("strace") as string;
    const args = [...kill, ...inject, ...command, "--containerd-version", "2.2"];
    const killed = spawnSync(strace, args, { env, encoding: "utf8" });
    expect(killed.signal ?? killed.status).not.toBe(0);
    const backups = readdirSync(dir).filter((name) => name.includes("nydus-backup"));
    expect(backups).toHaveLength(1);
    expect(readFileSync(join(dir, backups[0] as string), "utf8")).toBe(text);
    expect(readFileSync(configPath, "utf8")).toBe(text);
    await install();
    await uninstall();
    expect(readFileSync(configPath, "utf8")).toBe(text);
  },
  30_000,
);
