import { closeSync, writeSync } from "node:fs";
import { asNydusError, ERROR_CODES, type ErrorCode, type ErrorPlace, NydusError } from "../../base/errors.ts";

/** Names the descriptor on which a background process tells the one that started it how the start went. */
export const READY_FD_VARIABLE = "NYDUS_READY_FD";

/** How a start went, one JSON line. */
type Readiness<T> =
  | { readonly ok: true; readonly value: T }
  | { readonly ok: false; readonly code: ErrorCode; readonly message: string; readonly at: ErrorPlace };

/** The way back to the process that waits for our start; does nothing when there is none. */
export interface ReadinessReporter {
  /** Only the first call of either says something. */
  ready(value: unknown): void;
  failed(error: unknown): void;
}

/** Takes the descriptor out of the environment, so that no child of ours inherits the duty. */
export function readinessReporter(environment: NodeJS.ProcessEnv = process.env): ReadinessReporter {
  const named = environment[READY_FD_VARIABLE];
  delete environment[READY_FD_VARIABLE];
  let fd = named !== undefined && /^[0-9]{1,4}$/.test(named) ? Number(named) : undefined;
  const send = (message: Readiness<unknown>): void => {
    if (fd === undefined) return;
    const open = fd;
    fd = undefined;
    try {
      writeSync(open, `${JSON.stringify(message)}\n`);
      closeSync(open);
    } catch {
      // who started us is gone: there is nobody to tell
    }
  };
  return {
    ready: (value) => send({ ok: true, value }),
    failed: (error) => {
      const { code, message, at } = asNydusError(error);
      send({ ok: false, code, message, at });
    },
  };
}

/**
 * What a background process said about its start.
 * @throws the error that it reported; EFAULT when it said nothing that makes sense
 */
export function parseReadiness<T>(line: string): T {
  let message: Readiness<T>;
  try {
    message = JSON.parse(line) as Readiness<T>;
  } catch (error) {
    throw new NydusError("EFAULT", "Cannot start in the background: the process ended at once", {}, { cause: error });
  }
  if (message.ok) return message.value;
  const code = Object.hasOwn(ERROR_CODES, message.code) ? message.code : "EFAULT";
  throw new NydusError(code, String(message.message), message.at);
}
