import { type ChildProcess, spawn } from "node:child_process";
import { fileURLToPath } from "node:url";

/** Names the work of a process that this program has started for itself. */
const ROLE_VARIABLE = "NYDUS_PROCESS_ROLE";
/** Where a compiled executable keeps its modules. */
const BUNDLE_URL = "file:///$bunfs/";

/** A process of this program for `role`, in a session of its own. */
export interface RoleProcess {
  /** `import.meta.url` of the module that calls {@link serveProcess}; in an executable `main.ts` dispatches. */
  readonly moduleUrl: string;
  readonly role: string;
  /** Descriptors that become its 0, 1 and so on; undefined ones are closed, "pipe" is one of the child's streams. */
  readonly fds: readonly (number | "pipe" | undefined)[];
}

/** Starts a process that outlives signals to this one's group. It is not waited for. */
export function spawnRole({ moduleUrl, role, fds }: RoleProcess): ChildProcess {
  const args = moduleUrl.startsWith(BUNDLE_URL) ? [] : [fileURLToPath(moduleUrl)];
  const child = spawn(process.execPath, args, {
    detached: true,
    cwd: "/",
    stdio: fds.map((fd) => fd ?? "ignore"),
    env: { ...process.env, [ROLE_VARIABLE]: role },
  });
  child.unref();
  return child;
}

/** The role that this process was started for, or undefined. */
export function processRole(): string | undefined {
  return process.env[ROLE_VARIABLE];
}

/** In a process that was started for `role`, does its work and ends it; anywhere else does nothing. */
export function serveProcess(role: string, run: () => void): void {
  if (processRole() !== role) return;
  delete process.env[ROLE_VARIABLE];
  run();
  process.exit(0);
}
