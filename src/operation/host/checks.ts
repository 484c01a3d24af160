import { withDeadline } from "../../base/async.ts";
import { asNydusError, formatError } from "../../base/errors.ts";
import type { TomlTable } from "./containerd-config.ts";
import type { ContainerdProgram } from "./containerd-program.ts";

/** What a check says; one that was skipped says why. */
export type CheckStatus = "ok" | "warn" | "fail" | "skip";

/** What a check has found. */
export interface Finding {
  readonly status: CheckStatus;
  readonly found: string;
  /** What to change, where something is to be changed. */
  readonly advice?: string;
}

/** The machine and the settings that checks look at. */
export interface DoctorEnv {
  /** Directory of all state. */
  readonly root: string;
  readonly uid: number;
  readonly kernelRelease: string;
  readonly now: Date;
  readonly variables: Readonly<Record<string, string | undefined>>;
  /** Text of a small file; undefined when it cannot be read. */
  readText(path: string): string | undefined;
  readonly containerd: ContainerdFacts;
  readonly signal: AbortSignal;
}

/** What is known of containerd before any check. */
export interface ContainerdFacts {
  /** Of its socket. */
  readonly address: string;
  readonly program: ContainerdProgram | undefined;
  readonly configPath: string;
  /** As containerd understands it, where it could be asked, else as the file is; undefined when there is no file. */
  readonly config: TomlTable | undefined;
  /** Why there is no configuration to be looked at. */
  readonly problem: string | undefined;
}

/** One row of the table of checks. */
export interface Check {
  readonly name: string;
  run(env: DoctorEnv): Promise<Finding>;
}

/** A check and what it has found. */
export interface CheckResult extends Finding {
  readonly name: string;
}

/** How long a check may take. */
const CHECK_TIMEOUT_MS = 30_000;

/** Everything is as it should be. */
export function ok(found: string): Finding {
  return { status: "ok", found };
}

/** It works, but not well, or not for everyone. */
export function warn(found: string, advice: string): Finding {
  return { status: "warn", found, advice };
}

/** Something does not work. */
export function fail(found: string, advice: string): Finding {
  return { status: "fail", found, advice };
}

/** Nothing was looked at. */
export function skip(why: string): Finding {
  return { status: "skip", found: why };
}

/** Runs checks one after the other. One that throws, or takes too long, has failed. @throws the signal's reason */
export async function* runChecks(checks: readonly Check[], env: DoctorEnv): AsyncGenerator<CheckResult> {
  for (const { name, run } of checks) {
    env.signal.throwIfAborted();
    try {
      const work = (signal: AbortSignal): Promise<Finding> => run({ ...env, signal });
      yield { name, ...(await withDeadline(CHECK_TIMEOUT_MS, `check ${name}`, work, env.signal)) };
    } catch (error) {
      env.signal.throwIfAborted();
      yield { name, ...fail(formatError(asNydusError(error)), "see the message") };
    }
  }
}
