import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { type CommandResult, run } from "./shell.ts";

/** The executable that is tested: `scripts/build` makes it. */
export const PROGRAM =
  process.env["NYDUS_TEST_PROGRAM"] ?? join(dirname(fileURLToPath(import.meta.url)), "..", "..", "dist", "nydus");

/** Whether it has been built; without it the tests that run it cannot pass and say so. */
export const isBuilt = existsSync(PROGRAM);

/** Runs the executable. */
export function nydus(...args: string[]): Promise<CommandResult> {
  return run(PROGRAM, ...args);
}

/** Standard output of the executable, which must succeed. */
export async function nydusOk(...args: string[]): Promise<string> {
  const { stdout, stderr, status } = await nydus(...args);
  if (status !== 0) throw new Error(`nydus ${args.join(" ")}: status ${status}: ${stderr}`);
  return stdout;
}
