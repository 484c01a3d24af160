#!/usr/bin/env node
import { NydusError } from "../base/errors.ts";
import { threadRole } from "../os/thread.ts";

/** What the threads of this program do: modules that serve their role when they are loaded in its thread. */
const THREAD_ROLES: Readonly<Record<string, () => Promise<unknown>>> = {
  codec: () => import("../os/codec-thread.ts"),
  fuse: () => import("../operation/mount/fuse-thread.ts"),
};

/** Names that the executable may be started under; each is a command line of its own. */
const PROGRAMS = { nydus: () => import("./program.ts").then((program) => program.runProgram) } as const;

const SIGNALS = { SIGINT: 2, SIGTERM: 15, SIGHUP: 1 } as const;

/** Aborts on the first signal; a second one ends the program at once. */
function signalled(): AbortSignal {
  const controller = new AbortController();
  for (const [name, number] of Object.entries(SIGNALS)) {
    process.on(name, () => {
      if (controller.signal.aborted) process.exit(128 + number);
      controller.abort(new NydusError("ECANCELED", `Interrupted by ${name}`));
    });
  }
  return controller.signal;
}

async function main(): Promise<void> {
  const run = await PROGRAMS.nydus();
  // Sockets kept for reuse and idle threads must not hold the program back.
  process.exit(await run(process.argv.slice(2), signalled()));
}

const role = threadRole();
if (role === undefined) await main();
else await THREAD_ROLES[role]?.();
