import { readdirSync, readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { processStart } from "../../src/os/process.ts";
import type { DaemonHome } from "./daemon.ts";
import { processesOf } from "./leftovers.ts";
import type { SyntheticImage } from "./synthetic-image.ts";

const POLL_MS = 10;
const LIMIT_MS = 20_000;

/** Runs something with variables in the environment, which processes that are started meanwhile get. */
export async function withEnvironment<T>(
  variables: Readonly<Record<string, string>>,
  work: () => Promise<T>,
): Promise<T> {
  const before = Object.keys(variables).map((name) => [name, process.env[name]] as const);
  Object.assign(process.env, variables);
  try {
    return await work();
  } finally {
    for (const [name, value] of before) {
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
    }
  }
}

/** Waits for something. @throws when it has not come for 20 s */
export async function until<T>(
  what: string,
  look: () => T | undefined | false | Promise<T | undefined | false>,
): Promise<T> {
  for (let waited = 0; waited < LIMIT_MS; waited += POLL_MS) {
    const found = await look();
    if (found !== undefined && found !== false) return found;
    await Bun.sleep(POLL_MS);
  }
  throw new Error(`it does not come: ${what}`);
}

/** A mount as `nydus mounts` lists it. */
export interface ListedMount {
  readonly mountpoint: string;
  readonly pid: number;
  readonly state: string;
  readonly holder?: { readonly pid: number };
}

/** What `nydus mounts` lists, by the order of mount points. */
export async function listMounts(home: DaemonHome): Promise<ListedMount[]> {
  return JSON.parse(await home.ok("mounts", "--json")) as ListedMount[];
}

/** The states that `nydus mounts` lists, once they are no longer on their way. */
export function settledStates(home: DaemonHome): Promise<string[]> {
  return until("the end of recovery", async () => {
    const states = (await listMounts(home)).map(({ state }) => state);
    return !states.includes("recovering") && states;
  });
}

/** Kills the daemon and waits until another one serves all mounts. @returns the pids of both */
export async function killDaemon(home: DaemonHome): Promise<{ readonly killed: number; readonly next: number }> {
  const killed = await home.pid();
  process.kill(killed, "SIGKILL");
  const next = await until("a successor", async () => {
    const [mount] = (await listMounts(home)).filter(({ state }) => state === "serving");
    return mount !== undefined && mount.pid !== killed && mount.pid;
  });
  return { killed, next };
}

/** Reads a file of an image by the thread pool, so that a read that waits holds nobody up. */
export async function fileResult(image: SyntheticImage, mountpoint: string, file: number): Promise<string> {
  try {
    const bytes = await readFile(join(mountpoint, image.pathOf(file)));
    return bytes.equals(image.contentOf(file)) ? "right" : "wrong";
  } catch (error) {
    return (error as { code?: string }).code ?? String(error);
  }
}

/** An image that is mounted. */
export interface MountedImage {
  readonly image: SyntheticImage;
  readonly at: string;
}

/** Of each image: small enough to be read often, of several fetches. */
export const FILES = { files: 60, fileBytes: 40_000 } as const;

/** Makes an image of some files and mounts it. */
export async function mountImage(
  home: DaemonHome,
  name: string,
  { seed, flags }: { readonly seed: number; readonly flags: readonly string[] },
): Promise<MountedImage> {
  const image = home.image(name, { ...FILES, seed });
  const at = home.mountpoint(name);
  await home.mount(image, at, ...flags);
  return { image, at };
}

/** What {@link fileResult} says of all files, read at once: each result once. */
export async function allResults(image: SyntheticImage, at: string): Promise<Set<string>> {
  return new Set(await Promise.all(Array.from({ length: image.files }, (_, file) => fileResult(image, at, file))));
}

/** The holders among the processes of a state directory: their environment says what they are. */
export function holdersOf(daemon: number): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      try {
        if (!readFileSync(`/proc/${pid}/environ`, "latin1").includes("NYDUS_PROCESS_ROLE=holder")) return false;
        return parentOf(pid) === daemon || parentOf(daemon) === pid;
      } catch {
        return false; // gone
      }
    });
}

function parentOf(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
  return Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]);
}

export function isAlive(pid: number): boolean {
  return processStart(pid) !== undefined;
}

/** Waits until no process names the directory. */
export function untilNothingRuns(home: DaemonHome): Promise<boolean> {
  return until("the end of all processes", () => processesOf(home.dir).length === 0);
}
