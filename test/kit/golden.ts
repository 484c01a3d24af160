import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = join(dirname(fileURLToPath(import.meta.url)), "..", "..");
const EXTRACTED = join(ROOT, "node_modules", ".cache", "nydus-golden");

/** The carried golden set (4 MB; chunks of 4 and 64 KiB), extracted once beside the dependencies. Read it, never write it. */
export function smallGolden(): string {
  if (existsSync(EXTRACTED)) return EXTRACTED;
  mkdirSync(dirname(EXTRACTED), { recursive: true });
  const staging = mkdtempSync(`${EXTRACTED}-`);
  const archive = join(ROOT, "test", "golden", "small.tar.zst");
  const tar = spawnSync("tar", ["--zstd", "-xf", archive, "-C", staging], { encoding: "utf8" });
  if (tar.status !== 0) throw new Error(`tar cannot extract ${archive}: ${tar.stderr}`);
  try {
    renameSync(staging, EXTRACTED);
  } catch (error) {
    rmSync(staging, { recursive: true, force: true });
    if (!existsSync(EXTRACTED)) throw error; // else another test process was first
  }
  return EXTRACTED;
}

/** The full golden set where it lies beside the checkout, else undefined: its tests are then reported as skipped. */
export function fullGolden(): string | undefined {
  const dir = join(ROOT, "..", "shared", "golden");
  return existsSync(join(dir, "tree.jsonl")) ? dir : undefined;
}
