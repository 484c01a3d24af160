import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { closeSync, existsSync, mkdirSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { writeContainerdConfig } from "./containerd-config.ts";
import {
  endContainers,
  fifoDirs,
  killProcessesOf,
  processesOf,
  removeFifos,
  unmountBelow,
  unusedFifosSince,
} from "./leftovers.ts";
import { type Containerd, NERDCTL } from "./peers.ts";
import { PROGRAM } from "./program.ts";
import type { CommandResult } from "./shell.ts";

const START_MS = 30_000;
const STOP_MS = 15_000;
const POLL_MS = 20;
const COMMAND_MS = 120_000;
const LIST_HEADING = /^(REF|KEY|DIGEST|CONTAINER) /;
const LOG_TAIL = 2_000;

/** A command that did not do what it should, with what the servers logged last. */
export class CommandError extends Error {}

/**
 * A containerd with `nydus snapshotter` beside it, both with directories and sockets of their own, and ctr and nerdctl
 * that talk to it. Closing it leaves no process, mount, cgroup or directory behind, whatever state it is in.
 */
export class ContainerdHost implements AsyncDisposable {
  readonly dir = mkdtempSync(join(tmpdir(), "nydus-containerd-"));
  /** Nobody else's, so that what is left in places that all containerds share can be told. */
  readonly namespace = `nydus-test-${randomBytes(4).toString("hex")}`;
  readonly address = join(this.dir, "containerd.sock");
  readonly snapshotterAddress = join(this.dir, "snapshotter.sock");
  /** State directory of the snapshotter and of its mount daemon. */
  readonly root = join(this.dir, "nydus");
  readonly containerd: Containerd;
  readonly #fifosBefore = fifoDirs();
  readonly #servers = new Map<"containerd" | "snapshotter", ChildProcess>();

  private constructor(containerd: Containerd) {
    this.containerd = containerd;
  }

  /** Starts a snapshotter and a containerd that knows it. */
  static async start(containerd: Containerd): Promise<ContainerdHost> {
    const host = new ContainerdHost(containerd);
    try {
      mkdirSync(host.root, { recursive: true });
      writeContainerdConfig(host.dir, containerd);
      await host.startSnapshotter();
      await host.startContainerd();
    } catch (error) {
      await host[Symbol.asyncDispose]();
      throw error;
    }
    return host;
  }

  async startContainerd(): Promise<void> {
    await this.#start("containerd", this.address, [this.containerd.binary, "--config", join(this.dir, "config.toml")]);
    await this.#until("containerd", async () => (await this.ctr("version")).status === 0);
  }

  async startSnapshotter(): Promise<void> {
    const options = ["--address", this.snapshotterAddress, "--root", this.root];
    await this.#start("snapshotter", this.snapshotterAddress, [PROGRAM, "snapshotter", ...options]);
  }

  /** Ends a server by a signal and waits for it. @returns its exit status; null after SIGKILL */
  async stop(name: "containerd" | "snapshotter", signal: NodeJS.Signals = "SIGTERM"): Promise<number | null> {
    const server = this.#servers.get(name);
    if (server === undefined) throw new Error(`${name} has not been started`);
    this.#servers.delete(name);
    return await endProcess(server, signal);
  }

  /** Ends the snapshotter and starts it again. containerd, whose calls fail for a while, is waited for. */
  async restartSnapshotter(signal: NodeJS.Signals = "SIGTERM"): Promise<void> {
    await this.stop("snapshotter", signal);
    await this.startSnapshotter();
    await this.#until("snapshotter", async () => (await this.ctr("snapshots", "ls")).status === 0);
  }

  async #start(name: "containerd" | "snapshotter", socket: string, command: readonly string[]): Promise<void> {
    rmSync(socket, { force: true });
    const [program = "", ...args] = command;
    const log = openSync(join(this.dir, `${name}.log`), "a");
    this.#servers.set(name, spawn(program, args, { stdio: ["ignore", log, log], env: this.#env() }));
    closeSync(log);
    await this.#until(name, () => answers(socket));
  }

  async #until(name: "containerd" | "snapshotter", holds: () => Promise<boolean>): Promise<void> {
    for (let waited = 0; waited < START_MS; waited += POLL_MS) {
      if (await holds()) return;
      if (this.#servers.get(name)?.exitCode !== null) break;
      await Bun.sleep(POLL_MS);
    }
    throw new CommandError(`${name} does not start: ${this.log(name)}`);
  }

  /** The end of a server's log. */
  log(name: "containerd" | "snapshotter"): string {
    const path = join(this.dir, `${name}.log`);
    return existsSync(path) ? readFileSync(path, "utf8").slice(-LOG_TAIL) : "";
  }

  nerdctl(...args: string[]): Promise<CommandResult> {
    return this.#run([NERDCTL, ...args]);
  }

  ctr(...args: string[]): Promise<CommandResult> {
    return this.#run([this.containerd.ctr, ...args]);
  }

  /** Our own program, with containerd's address and namespace in its environment. */
  nydus(...args: string[]): Promise<CommandResult> {
    return this.#run([PROGRAM, ...args]);
  }

  /** Standard output of a command that must succeed, without the newline at its end. */
  async ok(program: "nerdctl" | "ctr" | "nydus", ...args: string[]): Promise<string> {
    const { stdout, stderr, status } = await this[program](...args);
    if (status === 0) return stdout.trimEnd();
    const what = `${program} ${args.join(" ")}: status ${status}: ${stderr}`;
    throw new CommandError(`${what}\nsnapshotter: ${this.log("snapshotter")}\ncontainerd: ${this.log("containerd")}`);
  }

  /** The lines of one of ctr's lists, its headings left out. */
  async listed(...command: string[]): Promise<string[]> {
    const lines = (await this.ok("ctr", ...command)).split("\n");
    return lines.filter((line) => line.trim() !== "" && !LIST_HEADING.test(line));
  }

  async #run(command: string[]): Promise<CommandResult> {
    // nerdctl run hands SIGTERM on to its container.
    const limit = { timeout: COMMAND_MS, killSignal: "SIGKILL" } as const;
    const options = { stdin: "ignore", stdout: "pipe", stderr: "pipe", ...limit } as const;
    const child = Bun.spawn(command, { ...options, env: this.#env() });
    const [stdout, stderr] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
    return { stdout, stderr, status: await child.exited };
  }

  #env(): Record<string, string> {
    return {
      ...(process.env as Record<string, string>),
      PATH: this.containerd.path,
      CONTAINERD_ADDRESS: this.address,
      CONTAINERD_NAMESPACE: this.namespace,
      CONTAINERD_SNAPSHOTTER: "nydus",
      NERDCTL_TOML: join(this.dir, "nerdctl.toml"),
      DOCKER_CONFIG: join(this.dir, "docker"),
    };
  }

  /** Where the host sees a running container's root file system, without what is mounted inside. */
  rootfsOf(containerId: string): string {
    return join(this.#tasksDir(), containerId, "rootfs");
  }

  #tasksDir(): string {
    return join(this.dir, "state", "io.containerd.runtime.v2.task", this.namespace);
  }

  /** Processes of this host: servers, shims, mount daemons. */
  processes(): number[] {
    return processesOf(this.dir);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const shimSockets = this.#shimSockets();
    for (const name of [...this.#servers.keys()]) await this.stop(name, "SIGKILL");
    await killProcessesOf(this.dir);
    await endContainers(this.namespace);
    await unmountBelow(this.dir);
    for (const socket of shimSockets) rmSync(socket, { force: true });
    removeFifos(unusedFifosSince(this.#fifosBefore));
    rmSync(this.dir, { recursive: true, force: true });
  }

  /**
   * Ends what runs of containers that containerd does not know: it has died while it started them. They hold their image
   * as any container does, and nobody else will ever end them.
   */
  async endLost(): Promise<void> {
    for (const pid of this.processes()) if (isShim(pid)) process.kill(pid, "SIGKILL");
    await endContainers(this.namespace);
  }

  /** Sockets of shims that are alive; a shim that is killed leaves its own behind. */
  #shimSockets(): string[] {
    const bundles = existsSync(this.#tasksDir()) ? readdirSync(this.#tasksDir()) : [];
    return bundles.flatMap((id) =>
      ["address", "bootstrap.json"].flatMap((name) => {
        const path = join(this.#tasksDir(), id, name);
        const address = existsSync(path) ? /unix:\/\/([^"\s]+)/.exec(readFileSync(path, "utf8"))?.[1] : undefined;
        return address === undefined ? [] : [address];
      }),
    );
  }
}

/** Whether something listens: there is a moment when a socket has its name and no listener yet. */
function answers(socketPath: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(socketPath, () => resolve(true));
    socket.on("connect", () => socket.destroy()).on("error", () => resolve(false));
  });
}

async function endProcess(server: ChildProcess, signal: NodeJS.Signals): Promise<number | null> {
  if (server.exitCode !== null || server.signalCode !== null) return server.exitCode;
  const exited = new Promise<void>((resolve) => server.once("exit", () => resolve()));
  server.kill(signal);
  const timer = setTimeout(() => server.kill("SIGKILL"), STOP_MS);
  await exited;
  clearTimeout(timer);
  return server.exitCode;
}

function isShim(pid: number): boolean {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").includes("containerd-shim");
  } catch {
    return false; // it has just ended
  }
}
