import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = join(dirname(fileURLToPath(import.meta.url)), "..", "..");
/** Where scripts/test puts them. */
const INSTALLED = join(ROOT, "node_modules", ".cache", "nydus-runtimes", "node_modules");
const ARCH = process.arch === "arm64" ? "arm64" : "x64";

/** The program bundled for other runtimes: `scripts/build` makes it. */
export const BUNDLE = join(ROOT, "dist", "nydus.mjs");

/** A runtime that the bundle is made for: its name, and the command line that starts the bundle. */
export interface OtherRuntime {
  readonly name: string;
  /** Undefined where the runtime is missing. */
  readonly command: readonly string[] | undefined;
}

/** The first of the paths that answers `--version` with the wanted major version. */
function findRuntime(paths: readonly (string | null)[], wanted: RegExp): string | undefined {
  for (const path of paths) {
    if (path === null || (path.includes("/") && !existsSync(path))) continue;
    const { status, stdout } = spawnSync(path, ["--version"], { encoding: "utf8" });
    if (status === 0 && wanted.test(stdout)) return path;
  }
  return undefined;
}

/** Node 24 and Deno 2, where scripts/test has put them or in the PATH. */
export function otherRuntimes(): readonly OtherRuntime[] {
  const node = findRuntime([join(INSTALLED, `node-linux-${ARCH}`, "bin", "node"), Bun.which("node")], /^v24\./);
  const deno = findRuntime([join(INSTALLED, "@deno", `linux-${ARCH}-glibc`, "deno"), Bun.which("deno")], /^deno 2\./);
  return [
    { name: "Node 24", command: node === undefined ? undefined : [node, BUNDLE] },
    { name: "Deno 2", command: deno === undefined ? undefined : [deno, "run", "--allow-all", BUNDLE] },
  ];
}
