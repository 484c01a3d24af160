import type { MessagePort } from "node:worker_threads";
import { asNydusError, type ErrorCode, NydusError } from "../../base/errors.ts";
import { checkForDriver } from "../../format/rafs/kernel-safe.ts";
import { mapFile } from "../../os/mmap.ts";
import { serveThread, spawnThread } from "../../os/thread.ts";

/** The name of this thread's work in `main.ts`' table. */
export const CHECK_ROLE = "bootstrap-check";

/** Why a bootstrap must not be handed to the kernel, or undefined. */
export type CheckResult = { readonly code: ErrorCode; readonly message: string; readonly offset?: number } | undefined;

/** The result for bytes. */
export function checkBytes(bytes: Uint8Array): CheckResult {
  try {
    const [finding] = checkForDriver(bytes).findings;
    if (finding === undefined) return undefined;
    const { message, offset } = finding;
    return { code: "EUCLEAN", message: `Cannot hand bootstrap to the kernel: ${message}`, ...(offset && { offset }) };
  } catch (error) {
    const { code, message, at } = asNydusError(error);
    return { code, message, ...(at.offset && { offset: at.offset }) };
  }
}

/**
 * The result for a file, by a thread of its own: a large image takes seconds, and much memory that goes with the thread.
 * @param fd stays open until the result is there
 */
export async function checkFile(fd: number): Promise<CheckResult> {
  const thread = spawnThread(import.meta.url, CHECK_ROLE, { fd });
  try {
    return await new Promise((resolve, reject) => {
      thread.worker.once("message", (result: { readonly found: CheckResult }) => resolve(result.found));
      thread.worker.once("error", (error) => reject(asNydusError(error)));
      thread.worker.once("exit", () =>
        reject(new NydusError("EFAULT", "Cannot check bootstrap: the thread has ended")),
      );
    });
  } finally {
    await thread.close();
  }
}

serveThread(CHECK_ROLE, (data, port: MessagePort) => {
  using file = mapFile(`/proc/self/fd/${(data as { readonly fd: number }).fd}`);
  port.postMessage({ found: checkBytes(file.bytes) });
});
