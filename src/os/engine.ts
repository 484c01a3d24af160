import { accessSync, constants } from "node:fs";
import { runtime } from "./runtime.ts";

/** Where Bun keeps the files of an executable that it has compiled. */
const COMPILED_PREFIX = "/$bunfs/";

/**
 * How the engine is set up for work that is over in seconds, by the only means there is, the environment: its best
 * compiler takes a twentieth of a conversion's processor time, and what it makes is used for the rest of a second.
 * Code that runs ten times as long as is usual gets it still.
 */
const SHORT_WORK_OPTIONS: Readonly<Record<string, string>> = {
  BUN_JSC_thresholdForFTLOptimizeAfterWarmUp: "1000000",
  BUN_JSC_thresholdForFTLOptimizeSoon: "1000000",
};

/**
 * Starts this program anew, in this process, with the engine set up for short work; takes some 5 ms. In the program
 * that is started so, and where that cannot be done, it does nothing. Call it before anything else is.
 * @param moduleUrl `import.meta.url` of the caller, which tells the executable from sources and bundles
 */
export function restartForShortWork(moduleUrl: string): void {
  const { env, execPath, argv0, argv } = process;
  if (runtime() !== "bun" || !new URL(moduleUrl).pathname.startsWith(COMPILED_PREFIX)) return;
  const names = Object.keys(SHORT_WORK_OPTIONS);
  if (names.some((name) => env[name] !== undefined)) {
    for (const name of names) delete env[name]; // not for the programs that this one starts
    return;
  }
  if (process.execve === undefined || !isExecutable(execPath)) return; // execve that fails ends the process
  process.execve(execPath, [argv0, ...argv.slice(2)], { ...env, ...SHORT_WORK_OPTIONS });
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
