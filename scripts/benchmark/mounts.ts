import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Lab } from "./lab.ts";
import { runCommand, runningFrom, Server, waitUntil } from "./process.ts";

/** A mounted image. */
export interface Mounted extends AsyncDisposable {
  readonly mountpoint: string;
  /** Processes that serve it: all of them that there are now. */
  pids(): readonly number[];
}

/** How this program is to show an image to the kernel. */
export type Engine = "fuse" | "erofs";

/** What is mounted: an image by name, or a bootstrap and a directory of blobs. */
export type Mountable = readonly [name: string] | readonly ["--bootstrap", string, "--blob-dir", string];

/** Whether something is mounted on a directory. */
export function isMounted(mountpoint: string): boolean {
  const shown = mountpoint.replaceAll(" ", "\\040"); // as the kernel writes it
  return readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .some((line) => line.split(" ")[4] === shown);
}

/** Takes a mount away whatever its server does. */
async function detach(mountpoint: string): Promise<void> {
  if (isMounted(mountpoint)) await runCommand(["umount", "-l", mountpoint]);
}

/** Mounts by this program, with all state in a directory of its own. */
export class OurMounts implements AsyncDisposable {
  readonly #lab: Lab;
  readonly #engine: Engine;
  readonly #dir: string;
  readonly #mountpoints = new Set<string>();

  constructor(lab: Lab, engine: Engine) {
    this.#lab = lab;
    this.#engine = engine;
    this.#dir = lab.scratch();
  }

  get #program(): string[] {
    return [this.#lab.nydus, "--root", join(this.#dir, "state")];
  }

  /** Processes that serve the mounts, those that only watch over them too: nothing else runs the lab's copy. */
  pids(): readonly number[] {
    return runningFrom(this.#lab.nydus);
  }

  /** Where the cache is, in files named `<blob id>.data`. */
  get cacheDir(): string {
    return join(this.#dir, "state", "cache");
  }

  /** @returns the mount point */
  async mount(what: Mountable): Promise<string> {
    const mountpoint = join(this.#dir, `mnt-${this.#mountpoints.size}`);
    mkdirSync(mountpoint, { recursive: true });
    this.#mountpoints.add(mountpoint);
    await this.#lab.run([...this.#program, "mount", "--quiet", "--engine", this.#engine, ...what, mountpoint]);
    return mountpoint;
  }

  /** Unmounts everything and ends the daemon; the state directory stays. */
  async end(): Promise<void> {
    for (const mountpoint of this.#mountpoints) {
      if (!isMounted(mountpoint)) continue;
      await runCommand([...this.#program, "umount", mountpoint]).catch(() => detach(mountpoint));
    }
    // The daemon would wait for mounts to come; one that has ended already cannot be stopped.
    await runCommand([...this.#program, "daemon", "stop"]).catch(() => undefined);
    await waitUntil("the end of the mounts", () => this.pids().length === 0);
    this.#mountpoints.clear();
  }

  /** Unmounts; may be called again. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.end();
    rmSync(this.#dir, { recursive: true, force: true });
  }
}

/** Mounts what {@link Mountable} names by this program, with nothing cached. */
export async function mountOurs(lab: Lab, engine: Engine, what: Mountable): Promise<Mounted> {
  const mounts = lab.own(new OurMounts(lab, engine));
  const mountpoint = await mounts.mount(what);
  return { mountpoint, pids: () => mounts.pids(), [Symbol.asyncDispose]: () => mounts[Symbol.asyncDispose]() };
}

/** Where nydusd finds blobs. */
export type NydusdBackend =
  | { readonly type: "localfs"; readonly config: { readonly dir: string } }
  | {
      readonly type: "registry";
      readonly config: { readonly scheme: "http"; readonly host: string; readonly repo: string };
    };

/** nydusd's configuration, as for a container: chunks are checked only when they are fetched. */
export function nydusdConfig(backend: NydusdBackend, cacheDir: string): string {
  return JSON.stringify({
    device: { backend, cache: { type: "blobcache", config: { work_dir: cacheDir } } },
    mode: "direct",
    digest_validate: false,
    enable_xattr: true,
  });
}

/** nydusd's arguments that every mount has: it may not raise limits here. */
export const NYDUSD_FLAGS = ["--log-level", "warn", "--rlimit-nofile", "0"] as const;

/** Mounts by nydusd, with nothing cached. */
export async function mountNydusd(lab: Lab, bootstrap: string, backend: NydusdBackend): Promise<Mounted> {
  const { nydusd } = lab.peers;
  const dir = lab.scratch();
  const [mountpoint, cache, config] = ["mnt", "cache", "nydusd.json"].map((name) => join(dir, name)) as [
    string,
    string,
    string,
  ];
  mkdirSync(mountpoint);
  mkdirSync(cache);
  writeFileSync(config, nydusdConfig(backend, cache));
  const command = [nydusd, ...NYDUSD_FLAGS, "--config", config, "--bootstrap", bootstrap, "--mountpoint", mountpoint];
  const server = new Server(command);
  const mounted = lab.own({
    mountpoint,
    pids: () => [server.pid],
    [Symbol.asyncDispose]: async () => {
      await server[Symbol.asyncDispose]();
      await detach(mountpoint);
      rmSync(dir, { recursive: true, force: true });
    },
  });
  await server.untilReady("nydusd's mount", () => isMounted(mountpoint));
  return mounted;
}
