import { spawnSync } from "node:child_process";
import { chmodSync, readFileSync } from "node:fs";
import { join } from "node:path";

const ROOT = join(import.meta.dir, "..");
const ENTRY = join(ROOT, "src", "cli", "main.ts");
const DIST = join(ROOT, "dist");

/** Short hash of the commit that is built, with "-dirty" where files differ from it; "unknown" outside of git. */
function commitName(): string {
  const git = spawnSync("git", ["describe", "--always", "--dirty", "--exclude=*", "--abbrev=7"], {
    cwd: ROOT,
    encoding: "utf8",
  });
  return git.status === 0 ? git.stdout.trim() : "unknown";
}

/** The constants of src/cli/version.ts, known only when building. */
function buildConstants(): Record<string, string> {
  const { version } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")) as { version: string };
  return { NYDUS_VERSION: JSON.stringify(version), NYDUS_COMMIT: JSON.stringify(commitName()) };
}

/**
 * Makes dist/nydus: Bun, the program and the WASM core in one file. It reads neither .env nor bunfig.toml.
 */
async function buildExecutable(define: Record<string, string>): Promise<void> {
  await Bun.build({
    entrypoints: [ENTRY],
    compile: {
      outfile: join(DIST, "nydus"),
      autoloadDotenv: false,
      autoloadBunfig: false,
      autoloadTsconfig: false,
      autoloadPackageJson: false,
    },
    external: ["fuse-native"],
    minify: { whitespace: true, syntax: true, identifiers: false },
    bytecode: true,
    splitting: true, // a command or a thread loads its own modules only
    format: "esm",
    define,
  });
}

/** Makes dist/nydus.mjs, the same sources for Node 24 and Deno 2. */
async function buildBundle(define: Record<string, string>): Promise<void> {
  await Bun.build({
    entrypoints: [ENTRY],
    target: "node",
    outdir: DIST,
    naming: "nydus.mjs",
    external: ["fuse-native"],
    define,
  });
  chmodSync(join(DIST, "nydus.mjs"), 0o755);
}

if (import.meta.main) {
  const define = buildConstants();
  await buildExecutable(define);
  await buildBundle(define);
  console.log("dist/nydus and dist/nydus.mjs are built");
}
