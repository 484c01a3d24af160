#!/usr/bin/env node
import { basename } from "node:path";
import { NydusError } from "../base/errors.ts";
import { restartForShortWork } from "../os/engine.ts";
import { processRole } from "../os/process-role.ts";
import { threadRole } from "../os/thread.ts";

/** What the threads of this program do: modules that serve their role when they are loaded in its thread. */
const THREAD_ROLES: Readonly<Record<string, () => Promise<unknown>>> = {
  codec: () => import("../os/codec-thread.ts"),
  fuse: () => import("../operation/mount/fuse/thread.ts"),
  erofs: () => import("../operation/mount/erofs/thread.ts"),
};

/** The same of processes that it starts for itself. */
const PROCESS_ROLES: Readonly<Record<string, () => Promise<unknown>>> = {
  holder: () => import("../operation/mount/holder/process.ts"),
  "bootstrap-check": () => import("../operation/mount/erofs/bootstrap-check-process.ts"),
};

type Program = typeof import("./program.ts")["runProgram"];

const runNydus = (): Promise<Program> => import("./program.ts").then((program) => program.runProgram);

/** Names that the executable may be started under, by symlinks; each is a command line of its own. */
const PROGRAMS: ReadonlyMap<string, () => Promise<Program>> = new Map([
  ["nydus", runNydus],
  ["nydus-image", () => import("./nydus-image/program.ts").then((program) => program.runNydusImage)],
]);

const SIGNALS = { SIGINT: 2, SIGTERM: 15, SIGHUP: 1 } as const;

/** Aborts on the first signal; a second one ends the program at once. */
function listenToSignals(): { readonly signal: AbortSignal; readonly release: () => void } {
  const controller = new AbortController();
  const listeners = Object.entries(SIGNALS).map(([name, number]) => {
    const listener = (): void => {
      if (controller.signal.aborted) process.exit(128 + number);
      controller.abort(new NydusError("ECANCELED", `Interrupted by ${name}`));
    };
    process.on(name, listener);
    return [name, listener] as const;
  });
  const release = (): void => {
    for (const [name, listener] of listeners) process.off(name, listener);
  };
  return { signal: controller.signal, release };
}

/** Commands, by any of the names, that compute for seconds. A file of such a name costs a start, no more. */
const SHORT_WORK = ["convert", "create"];

async function main(): Promise<void> {
  if (process.argv.some((word) => SHORT_WORK.includes(word))) {
    restartForShortWork(import.meta.url);
    // They load on the other core while this thread loads the command.
    void import("../os/codec-threads.ts").then(({ startCodecThreads }) => startCodecThreads());
  }
  const run = await (PROGRAMS.get(basename(process.argv0)) ?? runNydus)();
  // Sockets kept for reuse and idle threads must not hold the program back.
  process.exit(await run(process.argv.slice(2), listenToSignals()));
}

const thread = threadRole();
const work = PROCESS_ROLES[processRole() ?? ""];
if (thread !== undefined) await THREAD_ROLES[thread]?.();
else if (work !== undefined) await work();
else await main();
