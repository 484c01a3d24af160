import { mkdtempSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { ContainerdHost } from "./containerd.ts";
import { BUSYBOX } from "./peers.ts";
import { diffTrees, type TreeEntry, treeOf } from "./tree.ts";

/** What runc and nerdctl make in a root file system: mount points, and the files that are mounted on them. */
const MADE_BY_RUNNING = new Set(["/busybox", "/proc", "/sys", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf"]);
/** Directories whose times these change. */
const TOUCHED_BY_RUNNING = new Set(["/", "/etc"]);
/** In a container: what it prints. */
export const OUTPUT_DIR = "/output";
const SECOND = 1_000_000_000n;

/** Arguments of `nerdctl run` for images without programs: no network, and {@link BUSYBOX} as /busybox. */
export const RUN_ARGS = ["--net", "none", "-v", `${BUSYBOX}:/busybox:ro`] as const;

/** Starts a container that does nothing for long. @returns its id */
export async function startSleeper(host: ContainerdHost, image: string, snapshotter = "nydus"): Promise<string> {
  const command = [image, "/busybox", "sleep", "100000"];
  return await host.ok(
    "nerdctl",
    "--snapshotter",
    snapshotter,
    "run",
    "-d",
    "--pull",
    "never",
    ...RUN_ARGS,
    ...command,
  );
}

/**
 * Runs busybox in a new container of an image that is there. What it prints goes to a file: nerdctl 2.0.4 now and then
 * loses the end of what a container in the foreground prints, or waits for ever, with any snapshotter.
 * @returns what it prints @throws Error it fails
 */
export async function runOnce(host: ContainerdHost, image: string, ...command: string[]): Promise<string> {
  const output = new OutputFile(host);
  const flags = ["-d", "--pull", "never", ...RUN_ARGS, "-v", `${output.dir}:${OUTPUT_DIR}`];
  const id = await host.ok("nerdctl", "run", ...flags, image, ...output.command(command));
  const status = await host.ok("nerdctl", "wait", id);
  await host.ok("nerdctl", "rm", id);
  return output.read(Number(status));
}

/** Where a container is told to write what it prints. */
export class OutputFile {
  /** On the host; to be mounted at {@link OUTPUT_DIR}. */
  readonly dir: string;

  constructor({ dir }: ContainerdHost) {
    this.dir = mkdtempSync(join(dir, "output-"));
  }

  /** Runs busybox with a command's arguments and its output in the file. */
  command(args: readonly string[]): string[] {
    const script = `exec /busybox "$@" >${OUTPUT_DIR}/stdout 2>${OUTPUT_DIR}/stderr`;
    return ["/busybox", "sh", "-c", script, "sh", ...args];
  }

  /** What was printed, without the newline at its end. @throws Error the status is not 0 */
  read(status: number): string {
    if (status === 0) return readFileSync(join(this.dir, "stdout"), "utf8").trimEnd();
    throw new Error(`a container ended with status ${status}: ${readFileSync(join(this.dir, "stderr"), "utf8")}`);
  }
}

/** The tree of a running container as the host sees it, without what running it made. */
export async function treeOfContainer(host: ContainerdHost, id: string): Promise<TreeEntry[]> {
  const tree = await treeOf(host.rootfsOf(id));
  return tree.filter(({ path }) => !MADE_BY_RUNNING.has(path));
}

/** Differences of two containers' trees, the times of directories that running them touched aside. */
export function differencesOfContainers(expected: readonly TreeEntry[], actual: readonly TreeEntry[]): string[] {
  return diffTrees(expected, actual, {
    ignore: (field, { path }) => field === "mtime" && TOUCHED_BY_RUNNING.has(path),
  });
}

/**
 * Differences of a container of an image that nydus-image made from the tree that it was made of. nydus-image drops
 * nanoseconds, and gives a hard-linked file the time of its last entry.
 */
export function differencesFromSource(source: readonly TreeEntry[], actual: readonly TreeEntry[]): string[] {
  const isLost = (field: keyof TreeEntry, left: TreeEntry, right: TreeEntry): boolean =>
    field === "mtime" &&
    (TOUCHED_BY_RUNNING.has(left.path) || (left.nlink ?? 1) > 1 || seconds(left.mtime) === seconds(right.mtime));
  return diffTrees(source, actual, { ignore: isLost });
}

function seconds(nanoseconds: string): bigint {
  return BigInt(nanoseconds) / SECOND;
}

/** A command that prints the SHA-256 of every regular file that a container sees in its image. */
export const SUM_FILES = ["find", "/", "-xdev", "-type", "f", "-exec", "/busybox", "sha256sum", "{}", "+"] as const;

/** The digests of what {@link SUM_FILES} prints. */
export function digestsOf(printed: string): string[] {
  return [...printed.matchAll(/^\\?([0-9a-f]{64}) {2}/gm)].map(([, digest = ""]) => digest);
}

/** The digests of what a program in a container of an image reads. */
export async function digestsInside(host: ContainerdHost, image: string): Promise<string[]> {
  return digestsOf(await runOnce(host, image, ...SUM_FILES));
}

/** The files whose digests a container has not seen: the container has files of its own besides. */
export function missingDigests(expected: readonly TreeEntry[], inside: readonly string[]): string[] {
  const left = [...inside];
  return expected.flatMap(({ path, sha256 }) => {
    if (sha256 === undefined) return [];
    const index = left.indexOf(sha256);
    if (index === -1) return [`${path}: ${sha256}`];
    left.splice(index, 1);
    return [];
  });
}
