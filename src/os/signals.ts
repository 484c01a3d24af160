import { NydusError } from "../base/errors.ts";

/** Signals by which a user or a service manager ends a program. */
const END_SIGNALS = ["SIGTERM", "SIGINT", "SIGHUP"] as const;

/** The signals that this process has got since the watch began; disposing ends the watch. */
export interface SignalWatch extends Disposable {
  /** Aborted (ECANCELED) by the first signal. */
  readonly first: AbortSignal;
  /** Aborted by the second. */
  readonly second: AbortSignal;
}

/** Takes SIGTERM, SIGINT and SIGHUP, which no longer end the process by themselves. */
export function watchSignals(): SignalWatch {
  const [first, second] = [new AbortController(), new AbortController()];
  const onSignal = (name: string): void => {
    const controller = first.signal.aborted ? second : first;
    controller.abort(new NydusError("ECANCELED", `Interrupted by ${name}`));
  };
  for (const signal of END_SIGNALS) process.on(signal, onSignal);
  return {
    first: first.signal,
    second: second.signal,
    [Symbol.dispose]: () => {
      for (const signal of END_SIGNALS) process.off(signal, onSignal);
    },
  };
}
