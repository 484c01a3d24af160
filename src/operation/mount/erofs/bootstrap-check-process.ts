import { writeSync } from "node:fs";
import { setPriority } from "node:os";
import { text } from "node:stream/consumers";
import { asNydusError, type ErrorCode, NydusError } from "../../../base/errors.ts";
import { checkForDriver } from "../../../format/rafs/kernel-safe.ts";
import { mapFile } from "../../../os/mmap.ts";
import { serveProcess, spawnRole } from "../../../os/process-role.ts";

/** The name of this process's work in `main.ts`' table. */
const CHECK_ROLE = "bootstrap-check";

/** Why a bootstrap must not be handed to the kernel, or undefined. */
export type CheckResult = { readonly code: ErrorCode; readonly message: string; readonly offset?: number } | undefined;

/** Descriptors of the process: the file, and where the result goes as JSON. */
const FILE_FD = 0;
const RESULT_FD = 1;
/** As nice(1): readers that wait for the daemon go first. */
const PRIORITY = 10;

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
 * The result for a file, by a process of its own: a large image takes seconds, and much memory that goes with it.
 * @param fd stays open until the result is there
 */
export async function checkFile(fd: number): Promise<CheckResult> {
  const child = spawnRole({ moduleUrl: import.meta.url, role: CHECK_ROLE, fds: [fd, "pipe"] });
  const failed = new Promise<never>((_, reject) => child.once("error", (error) => reject(asNydusError(error))));
  const told = child.stdout === null ? "" : await Promise.race([text(child.stdout), failed]);
  try {
    return (JSON.parse(told) as { readonly found?: CheckResult }).found;
  } catch (error) {
    throw new NydusError("EFAULT", "Cannot check bootstrap: the process has ended", {}, { cause: error });
  }
}

serveProcess(CHECK_ROLE, () => {
  setPriority(PRIORITY);
  using file = mapFile(`/proc/self/fd/${FILE_FD}`);
  writeSync(RESULT_FD, JSON.stringify({ found: checkBytes(file.bytes) }));
});
