import { asNydusError, NydusError } from "../../base/errors.ts";

/** Why a signal is aborted, as a NydusError: its reason if that is one, else ECANCELED. */
export function abortError(signal: AbortSignal): NydusError {
  const reason: unknown = signal.reason;
  return reason instanceof NydusError ? reason : asNydusError(new DOMException("Interrupted", "AbortError"));
}

/** @throws {@link abortError} when the signal is aborted */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw abortError(signal);
}

/** What `work` gives, unless the signal is aborted before: then {@link abortError}, whether `work` noticed or not. */
export async function orAborted<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return work;
  work.catch(() => undefined); // its failure after the abort is nobody's
  let onAbort = (): void => undefined;
  const aborted = new Promise<never>((_, reject) => {
    onAbort = () => reject(abortError(signal));
    signal.addEventListener("abort", onAbort, { once: true });
    if (signal.aborted) onAbort();
  });
  try {
    return await Promise.race([work, aborted]);
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}
