import { readFileSync } from "node:fs";
import { availableParallelism, cpus, loadavg, release, totalmem } from "node:os";
import { join } from "node:path";
import { NERDCTL } from "../../test/kit/peers.ts";
import { findContainerd } from "./containerd.ts";
import type { Peers } from "./lab.ts";
import { findProgram, runCommand } from "./process.ts";
import { PEER_PROGRAM } from "./snapshotters.ts";

/** The machine and everything whose version matters. */
export interface Surroundings {
  readonly cpu: string;
  readonly cores: number;
  readonly memoryGib: number;
  readonly kernel: string;
  readonly system: string;
  /** Runnable threads over the minute before the start. */
  readonly load: number;
  readonly versions: Readonly<Record<string, string>>;
}

const GIB = 1 << 30;
/** Longer than any version of a Go module. */
const VERSION_LIMIT = 100;

function systemName(): string {
  try {
    return /^PRETTY_NAME="?([^"\n]*)"?$/m.exec(readFileSync("/etc/os-release", "utf8"))?.[1] ?? "unknown";
  } catch {
    return "unknown";
  }
}

/** What a program says to its version flag, in one line; undefined when it is not there. */
async function versionOf(program: string, pattern: RegExp): Promise<string | undefined> {
  const path = findProgram(program);
  if (path === undefined) return undefined;
  const { stdout } = await runCommand([path, "--version"]);
  return pattern.exec(stdout)?.[1];
}

/** The version of a module that a Go program was built from, as the linker has written it down; undefined: none. */
export function goModuleVersion(program: string, module: string): string | undefined {
  let text: string;
  try {
    text = readFileSync(program, "latin1");
  } catch {
    return undefined; // it is not there
  }
  const mark = `\t${module}\tv`;
  const at = text.indexOf(mark);
  return at < 0 ? undefined : /^[^\t\n]*/.exec(text.slice(at + mark.length, at + mark.length + VERSION_LIMIT))?.[0];
}

/** The version of the Rust programs, which cargo knows: what they print themselves depends on how they were built. */
async function peersVersion({ nydusImage }: Peers): Promise<string> {
  const crates = join(nydusImage, "..", "..", ".crates.toml");
  try {
    const version = /"nydus-rs ([0-9.]+)/.exec(readFileSync(crates, "utf8"))?.[1];
    if (version !== undefined) return version;
  } catch {
    // installed in another way
  }
  const { stdout } = await runCommand([nydusImage, "--version"]);
  return /Version:\s*(\S+)/.exec(stdout)?.[1] ?? "unknown";
}

/** Looks at the machine and asks the programs. */
export async function describeSurroundings(nydus: string, peers: Peers | undefined): Promise<Surroundings> {
  const ours = (await runCommand([nydus, "--version"])).stdout.trim().replace(/^nydus version /, "");
  const versions: Record<string, string | undefined> = {
    nydus: ours,
    "nydus-image and nydusd": peers && (await peersVersion(peers)),
    Bun: Bun.version,
    skopeo: await versionOf("skopeo", /version (\S+)/),
    fio: await versionOf("fio", /fio-(\S+)/),
    "docker-registry": await versionOf("docker-registry", /distribution (\S+)/),
    containerd: findContainerd()?.name.replace(/^containerd /, ""),
    nerdctl: await versionOf(NERDCTL, /version (\S+)/),
    "nydus-snapshotter": goModuleVersion(PEER_PROGRAM, "github.com/containerd/nydus-snapshotter"),
    runc: await versionOf("runc", /version (\S+)/),
  };
  const found = Object.entries(versions).filter((entry): entry is [string, string] => entry[1] !== undefined);
  return {
    cpu: cpus()[0]?.model.trim() ?? "unknown",
    cores: availableParallelism(),
    memoryGib: Math.round(totalmem() / GIB),
    kernel: release(),
    system: systemName(),
    load: loadavg()[0] ?? 0,
    versions: Object.fromEntries(found),
  };
}
