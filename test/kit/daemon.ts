import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { processStart } from "../../src/os/process.ts";
import { DaemonClient } from "../../src/service/daemon/client.ts";
import { PROGRAM } from "./program.ts";
import { type CommandResult, run } from "./shell.ts";
import { makeSyntheticImage, type SyntheticImage, type SyntheticOptions } from "./synthetic-image.ts";

/** A state directory of its own with images and mount points, and the executable that works on it. */
export class DaemonHome implements AsyncDisposable {
  readonly dir: string;
  readonly root: string;
  readonly #env: Readonly<Record<string, string>>;

  /**
   * @param idle as NYDUS_DAEMON_IDLE
   * @param parent where its directory is made
   * @param env other variables of the executable
   */
  constructor(idle = "60s", parent = tmpdir(), env: Readonly<Record<string, string>> = {}) {
    this.dir = mkdtempSync(join(parent, "nydus-daemon-"));
    this.root = join(this.dir, "root");
    this.#env = { ...env, NYDUS_DAEMON_IDLE: idle };
  }

  image(name: string, options: SyntheticOptions): SyntheticImage {
    const dir = join(this.dir, name);
    mkdirSync(dir);
    return makeSyntheticImage(dir, options);
  }

  /** An empty directory. */
  mountpoint(name: string): string {
    const path = join(this.dir, "mnt", name);
    mkdirSync(path, { recursive: true });
    return path;
  }

  command(...args: string[]): string[] {
    return [PROGRAM, "--root", this.root, ...args];
  }

  async nydus(...args: string[]): Promise<CommandResult> {
    const settings = Object.entries(this.#env).map(([name, value]) => `${name}=${value}`);
    return await run("env", ...settings, ...this.command(...args));
  }

  /** Standard output of the executable, which must succeed. */
  async ok(...args: string[]): Promise<string> {
    const { stdout, stderr, status } = await this.nydus(...args);
    if (status !== 0) throw new Error(`nydus ${args.join(" ")}: status ${status}: ${stderr}`);
    return stdout;
  }

  async mount(image: SyntheticImage, mountpoint: string, ...flags: string[]): Promise<void> {
    await this.ok("mount", ...flags, "--bootstrap", image.bootstrapPath, "--blob-dir", image.blobDir, mountpoint);
  }

  client(): DaemonClient {
    return new DaemonClient(this.root);
  }

  async pid(): Promise<number> {
    return (JSON.parse(await this.ok("daemon", "status", "--json")) as { pid: number }).pid;
  }

  get socket(): string {
    return join(this.root, "daemon.sock");
  }

  /** Unmounts and ends whatever a test left. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (existsSync(this.socket)) {
      await this.nydus("daemon", "stop");
      await this.nydus("daemon", "stop");
    }
    if (existsSync(join(this.dir, "mnt"))) {
      for (const name of readdirSync(join(this.dir, "mnt"))) await run("umount", "-l", join(this.dir, "mnt", name));
    }
    rmSync(this.dir, { recursive: true, force: true });
  }
}

/** Waits until a process is gone. */
export async function untilGone(pid: number): Promise<void> {
  while (processStart(pid) !== undefined) await Bun.sleep(10);
}

/** A field of /proc/PID/status, KiB. */
export function memoryOf(pid: number, field: "VmRSS" | "RssAnon"): number {
  return Number(new RegExp(`^${field}:\\s*(\\d+)`, "m").exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]);
}

/** The files, by path, that a process has open for mounts, sorted: not what the runtime has for itself. */
export function descriptorsOf(pid: number): string[] {
  return readdirSync(`/proc/${pid}/fd`)
    .flatMap((fd) => {
      try {
        const target = readlinkSync(`/proc/${pid}/fd/${fd}`);
        return target === "/dev/fuse" || /\/(blobs|cache|bootstraps)\//.test(target) ? [target] : [];
      } catch {
        return []; // closed since
      }
    })
    .sort();
}
