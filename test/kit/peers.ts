import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** Where `scripts/peers` puts what it builds. */
export const PEERS_DIR = join(
  dirname(fileURLToPath(import.meta.url)),
  ...["..", "..", "node_modules", ".cache", "nydus-peers", "bin"],
);
const SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/** nerdctl, for every containerd. */
export const NERDCTL = join(PEERS_DIR, "nerdctl");
/** The compiled Go tests of `test/go/containerd`. */
export const CONTAINERD_SUITE = join(PEERS_DIR, "containerd-suite");
/** A static program that images without programs of their own are run with. */
export const BUSYBOX = ["/usr/bin/busybox", "/bin/busybox"].find(existsSync) ?? "/usr/bin/busybox";

/** One containerd that the tests run with. */
export interface Containerd {
  readonly name: string;
  readonly binary: string;
  readonly ctr: string;
  /** PATH of the daemon, which looks for its shim and runc there. */
  readonly path: string;
  /** Of its configuration's format. */
  readonly configVersion: 2 | 3;
}

/** The distribution's containerd and the one that `scripts/peers` builds, as far as they are there. */
export function findContainerds(): Containerd[] {
  const candidates = [
    { dir: "/usr/bin", path: SYSTEM_PATH },
    { dir: PEERS_DIR, path: `${PEERS_DIR}:${SYSTEM_PATH}` },
  ];
  return candidates.flatMap(({ dir, path }) => {
    const version = versionOf(join(dir, "containerd"));
    if (version === undefined) return [];
    const [major = "0"] = version.split(".");
    const configVersion = Number(major) < 2 ? 2 : 3;
    const binaries = { binary: join(dir, "containerd"), ctr: join(dir, "ctr") };
    return [{ name: `containerd ${version}`, ...binaries, path, configVersion }];
  });
}

function versionOf(binary: string): string | undefined {
  const { stdout, status } = spawnSync(binary, ["--version"], { encoding: "utf8" });
  return status === 0 ? /\bv?(\d+\.\d+\.\d+)/.exec(stdout)?.[1] : undefined;
}

/** What is missing for tests with a real containerd; nothing when they can run. */
export function missingPeers(): string[] {
  const needed = [NERDCTL, CONTAINERD_SUITE, join(PEERS_DIR, "containerd"), BUSYBOX];
  const missing = needed.filter((path) => !existsSync(path));
  if (process.getuid?.() !== 0) missing.push("root");
  if (spawnSync("runc", ["--version"]).status !== 0) missing.push("runc");
  return missing;
}
