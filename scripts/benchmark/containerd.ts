import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { writeContainerdConfig } from "../../test/kit/containerd-config.ts";
import {
  endContainers,
  fifoDirs,
  killProcessesOf,
  processesOf,
  removeFifos,
  unmountBelow,
  unusedFifosSince,
} from "../../test/kit/leftovers.ts";
import { type Containerd, findContainerds, missingPeers, NERDCTL } from "../../test/kit/peers.ts";
import { Missing } from "./benchmark.ts";
import type { Lab } from "./lab.ts";
import { type Finished, runningFrom, Server } from "./process.ts";

/** A snapshotter of containerd, as one side of a benchmark has it. */
export interface Snapshotter {
  /** As containerd knows it: one of its own, or the one behind {@link socketOf}. */
  readonly name: "nydus" | "overlayfs";
  /** The command that serves it below a directory, which is made; undefined for containerd's own. */
  readonly command?: ((dir: string) => readonly string[]) | undefined;
  /** The command that ends what it has started and leaves behind by design, after it has ended itself. */
  readonly end?: ((dir: string) => readonly string[]) | undefined;
  /** A program that runs for nothing else here, whatever its processes call themselves. */
  readonly program?: string | undefined;
}

/** Files of this process id and number, so that containers of different hosts never meet. */
let hosts = 0;

/** Where a snapshotter below a directory listens. */
export function socketOf(dir: string): string {
  return join(dir, "snapshotter.sock");
}

/** Where containerd below a directory listens. */
export function containerdSocketOf(dir: string): string {
  return join(dir, "containerd.sock");
}

/** The newest containerd that there is, of those that know version 3 of its configuration. */
export function findContainerd(): Containerd | undefined {
  return findContainerds().findLast(({ configVersion }) => configVersion === 3);
}

/** The containerd that benchmarks run with. @throws Missing */
export function needContainerd(): Containerd {
  const missing = missingPeers();
  const found = findContainerd();
  if (missing.length > 0) throw new Missing(`there is no ${missing.join(", ")} (scripts/peers builds the programs)`);
  if (found === undefined) throw new Missing("there is no containerd 2 (scripts/peers builds it)");
  return found;
}

/** A containerd with one snapshotter, both new and empty. Disposing leaves nothing of it, its containers included. */
export class ContainerdHost implements AsyncDisposable {
  readonly dir: string;
  readonly #lab: Lab;
  readonly #snapshotter: Snapshotter;
  readonly #namespace: string;
  readonly #containerd: Containerd;
  readonly #fifosBefore = fifoDirs();
  readonly #servers: Server[] = [];

  private constructor(lab: Lab, snapshotter: Snapshotter) {
    const number = hosts++;
    this.#lab = lab;
    this.#snapshotter = snapshotter;
    this.#namespace = `nydus-bench-${process.pid}-${number}`;
    this.#containerd = needContainerd();
    this.dir = join(lab.options.dir, `c${number}`); // short: names of sockets are below it
    mkdirSync(this.dir);
  }

  static async start(lab: Lab, snapshotter: Snapshotter): Promise<ContainerdHost> {
    const host = lab.own(new ContainerdHost(lab, snapshotter));
    await host.#start();
    return host;
  }

  async #start(): Promise<void> {
    const { dir } = this;
    writeContainerdConfig(dir, this.#containerd);
    const command = this.#snapshotter.command?.(dir);
    if (command !== undefined) await this.#serve("the snapshotter", command, () => existsSync(socketOf(dir)));
    const containerd = [this.#containerd.binary, "--config", join(dir, "config.toml"), "--log-level", "error"];
    await this.#serve("containerd", containerd, () => this.#answers());
  }

  async #serve(what: string, command: readonly string[], isReady: () => boolean | Promise<boolean>): Promise<void> {
    const server = new Server(command, this.#env());
    this.#servers.push(server);
    await server.untilReady(what, isReady);
  }

  #answers(): boolean {
    return spawnSync(this.#containerd.ctr, ["snapshots", "ls"], { env: this.#env() }).status === 0;
  }

  /** Runs nerdctl, which must succeed. */
  async nerdctl(...args: string[]): Promise<Finished> {
    return await this.#lab.run([NERDCTL, ...args], this.#env());
  }

  /** The processes that serve snapshots and mounts: what there is here besides containerd, its shims and clients. */
  servingPids(): number[] {
    const { program } = this.#snapshotter;
    const isServing = (pid: number): boolean => !/\/(containerd|containerd-shim-runc-v2|nerdctl)$/.test(programOf(pid));
    const found = [...processesOf(this.dir).filter(isServing), ...(program === undefined ? [] : runningFrom(program))];
    return [...new Set(found)];
  }

  #env(): Record<string, string> {
    return {
      ...(process.env as Record<string, string>),
      PATH: this.#containerd.path,
      CONTAINERD_ADDRESS: containerdSocketOf(this.dir),
      CONTAINERD_NAMESPACE: this.#namespace,
      CONTAINERD_SNAPSHOTTER: this.#snapshotter.name,
      NERDCTL_TOML: join(this.dir, "nerdctl.toml"),
      DOCKER_CONFIG: join(this.dir, "docker"),
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!existsSync(this.dir)) return;
    for (const server of this.#servers.reverse()) await server[Symbol.asyncDispose]();
    const end = this.#snapshotter.end?.(this.dir);
    if (end !== undefined) spawnSync(end[0] as string, end.slice(1)); // what has ended already cannot be told to
    await killProcessesOf(this.dir);
    await endContainers(this.#namespace);
    await unmountBelow(this.dir);
    removeFifos(unusedFifosSince(this.#fifosBefore));
    rmSync(this.dir, { recursive: true, force: true });
  }
}

function programOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0")[0] ?? "";
  } catch {
    return ""; // gone already
  }
}
