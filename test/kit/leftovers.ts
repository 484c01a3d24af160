import { existsSync, readdirSync, readFileSync, readlinkSync, rmdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { run } from "./shell.ts";

const CGROUPS = "/sys/fs/cgroup";
const FIFOS = "/run/containerd/fifo";
const SHIM_SOCKETS = "/run/containerd/s";
const RUNC_ROOT = "/run/containerd/runc"; // the shim's default, whatever containerd's state directory
const KILL_ROUNDS = 50;

/** Processes, other than this one, whose command line names a path below `dir`. */
export function processesOf(dir: string): number[] {
  return pids().filter((pid) => pid !== process.pid && commandLine(pid).includes(`${dir}/`));
}

/** Mount points below `dir`, the innermost first. */
export function mountsBelow(dir: string): string[] {
  return readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .map((line) => unescapeOctal(line.split(" ")[4] ?? ""))
    .filter((path) => path.startsWith(`${dir}/`))
    .reverse();
}

/** Kills processes of `dir` until there are none; a dying parent's children may appear meanwhile. */
export async function killProcessesOf(dir: string): Promise<void> {
  for (let round = 0; round < KILL_ROUNDS; round++) {
    const found = processesOf(dir);
    if (found.length === 0) return;
    for (const pid of found) kill(pid);
    await Bun.sleep(20);
  }
  throw new Error(`processes that do not die: ${processesOf(dir).map(commandLine).join("; ")}`);
}

export async function unmountBelow(dir: string): Promise<void> {
  for (const path of mountsBelow(dir)) await run("umount", "-l", path);
}

/** Cgroup directories named `name` at the top of any hierarchy. */
export function cgroupsNamed(name: string): string[] {
  const parents = [CGROUPS, ...children(CGROUPS).map((controller) => join(CGROUPS, controller))];
  return parents.map((parent) => join(parent, name)).filter((path) => existsSync(join(path, "cgroup.procs")));
}

/** Kills what is in the cgroups named `name` and removes them, their children first. */
async function removeCgroups(name: string): Promise<void> {
  for (const path of cgroupsNamed(name)) await removeCgroup(path);
}

async function removeCgroup(path: string): Promise<void> {
  const isGroup = (child: string): boolean => existsSync(join(path, child, "cgroup.procs"));
  for (const child of children(path).filter(isGroup)) await removeCgroup(join(path, child));
  for (let round = 0; round < KILL_ROUNDS && !removed(path); round++) {
    for (const pid of read(join(path, "cgroup.procs")).split("\n").filter(Boolean)) kill(Number(pid));
    await Bun.sleep(20);
  }
}

function removed(path: string): boolean {
  try {
    rmdirSync(path);
  } catch {
    return !existsSync(path);
  }
  return true;
}

/** Ends all containers of a namespace of containerd's, whether it knows them or not. */
export async function endContainers(namespace: string): Promise<void> {
  const root = join(RUNC_ROOT, namespace);
  for (const id of children(root)) await run("runc", "--root", root, "delete", "--force", id);
  rmSync(root, { recursive: true, force: true });
  await removeCgroups(namespace);
}

/** The directories of FIFOs that clients of containerd have made: `nerdctl exec` leaves its own behind. */
export function fifoDirs(): string[] {
  return children(FIFOS);
}

/** Directories of FIFOs that are not in `before` and that no process has open: others' containers have theirs open. */
export function unusedFifosSince(before: readonly string[]): string[] {
  const fresh = fifoDirs().filter((name) => !before.includes(name));
  if (fresh.length === 0) return [];
  const open = new Set(pids().flatMap(openPaths));
  return fresh.filter((name) => !children(join(FIFOS, name)).some((fifo) => open.has(join(FIFOS, name, fifo))));
}

/** Removes directories of FIFOs. */
export function removeFifos(names: readonly string[]): void {
  for (const name of names) rmSync(join(FIFOS, name), { recursive: true, force: true });
}

/** Sockets of shims that nobody listens at any more. */
export function deadShimSockets(): string[] {
  const listening = read("/proc/net/unix");
  return children(SHIM_SOCKETS).filter((name) => !listening.includes(join(SHIM_SOCKETS, name)));
}

function openPaths(pid: number): string[] {
  const dir = `/proc/${pid}/fd`;
  return children(dir).flatMap((fd) => {
    try {
      return [readlinkSync(join(dir, fd))];
    } catch {
      return []; // closed since
    }
  });
}

function pids(): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number);
}

function commandLine(pid: number): string {
  return read(`/proc/${pid}/cmdline`).replaceAll("\0", " ");
}

function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // gone already
  }
}

function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return ""; // gone already
  }
}

function children(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}

/** mountinfo writes blanks, newlines and backslashes as `\ooo`. */
function unescapeOctal(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)));
}
