import { spawn, spawnSync } from "node:child_process";
import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type CommandResult, run } from "./shell.ts";

const BINARY = "containerd";
const START_MS = 20_000;
const STOP_MS = 5_000;

/** Whether a containerd can be started here. */
export const canRunContainerd =
  process.getuid?.() === 0 &&
  spawnSync(BINARY, ["--version"]).status === 0 &&
  spawnSync("ctr", ["--version"]).status === 0;

/** A containerd of this test's own: its root, state and socket are in a directory that goes with it. */
export interface ContainerdLab extends AsyncDisposable {
  readonly dir: string;
  readonly address: string;
  /** Runs ctr against it. */
  ctr(...args: string[]): Promise<CommandResult>;
  /** Standard output of ctr, which must succeed. */
  ctrOk(...args: string[]): Promise<string>;
}

/** A snapshotter that containerd is to know by a name, behind a socket. */
export interface ProxySnapshotter {
  readonly name: string;
  readonly address: string;
}

const DISABLED = [
  "io.containerd.grpc.v1.cri",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.internal.v1.opt",
  "io.containerd.internal.v1.tracing",
  "io.containerd.tracing.processor.v1.otlp",
];

function configOf(dir: string, snapshotters: readonly ProxySnapshotter[]): string {
  const proxies = snapshotters.map(
    ({ name, address }) => `[proxy_plugins.${name}]\n  type = "snapshot"\n  address = ${JSON.stringify(address)}\n`,
  );
  return `version = 2
root = "${dir}/root"
state = "${dir}/state"
disabled_plugins = ${JSON.stringify(DISABLED)}
[grpc]
  address = "${dir}/containerd.sock"
[ttrpc]
  address = "${dir}/containerd.sock.ttrpc"
[plugins."io.containerd.gc.v1.scheduler"]
  startup_delay = "1s"
${proxies.join("")}`;
}

/** Starts a containerd. @throws when it does not answer */
export async function startContainerd(snapshotters: readonly ProxySnapshotter[] = []): Promise<ContainerdLab> {
  const dir = mkdtempSync(join(tmpdir(), "nydus-containerd-"));
  const address = join(dir, "containerd.sock");
  writeFileSync(join(dir, "config.toml"), configOf(dir, snapshotters));
  const log = openSync(join(dir, "log"), "w");
  const child = spawn(BINARY, ["--config", join(dir, "config.toml"), "--log-level", "warn"], {
    stdio: ["ignore", log, log],
  });
  closeSync(log);
  const exited = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  const ctr = (...args: string[]): Promise<CommandResult> => run("ctr", "--address", address, ...args);
  const dispose = async (): Promise<void> => {
    child.kill("SIGTERM");
    const force = setTimeout(() => child.kill("SIGKILL"), STOP_MS);
    await exited;
    clearTimeout(force);
    unmountBelow(dir);
    rmSync(dir, { recursive: true, force: true });
  };
  const ctrOk = async (...args: string[]): Promise<string> => {
    const { stdout, stderr, status } = await ctr(...args);
    if (status !== 0) throw new Error(`ctr ${args.join(" ")}: status ${status}: ${stderr}`);
    return stdout;
  };
  try {
    await untilAnswering(ctr, address, dir);
  } catch (error) {
    await dispose();
    throw error;
  }
  return { dir, address, ctr, ctrOk, [Symbol.asyncDispose]: dispose };
}

function unmountBelow(dir: string): void {
  const mounts = readFileSync("/proc/self/mounts", "utf8").split("\n");
  const below = mounts.map((line) => line.split(" ")[1] ?? "").filter((path) => path.startsWith(`${dir}/`));
  for (const path of below.reverse()) spawnSync("umount", ["-l", path]);
}

async function untilAnswering(ctr: ContainerdLab["ctr"], address: string, dir: string): Promise<void> {
  for (let waited = 0; waited < START_MS; waited += 100) {
    if (existsSync(address) && (await ctr("version")).status === 0) return;
    await Bun.sleep(100);
  }
  throw new Error(`containerd does not answer: ${readFileSync(join(dir, "log"), "utf8").slice(-2000)}`);
}
