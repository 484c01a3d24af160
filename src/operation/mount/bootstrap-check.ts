import { createHash } from "node:crypto";
import { mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { NydusError } from "../../base/errors.ts";
import { StagedFile } from "../../content/store/staged-file.ts";
import { checkForDriver, KERNEL_CHECK_VERSION } from "../../format/rafs/kernel-safe.ts";

/** Where results are kept below the state directory: a file a bootstrap that has passed, named by its digest. */
const DIR = "checked";
const PASSED = `passed ${KERNEL_CHECK_VERSION}\n`;

/**
 * Refuses a bootstrap that the kernel's driver must not be handed. The result is kept, so that the next mount of the
 * same bytes is quick.
 * @param bytes those of the file that is to be mounted
 * @param root directory of all state; nothing is kept unless given
 * @throws EUCLEAN, ENOTSUP
 */
export async function checkForKernel(bytes: Uint8Array, root: string | undefined): Promise<void> {
  const path = root === undefined ? undefined : join(root, DIR, createHash("sha256").update(bytes).digest("hex"));
  if (path !== undefined && (await hasPassed(path))) return;
  const [finding] = checkForDriver(bytes).findings;
  if (finding !== undefined) {
    const { message, offset } = finding;
    const at = offset === undefined ? {} : { offset };
    throw new NydusError("EUCLEAN", `Cannot hand bootstrap to the kernel: ${message}`, at);
  }
  if (path !== undefined) await keep(path);
}

async function hasPassed(path: string): Promise<boolean> {
  try {
    return (await readFile(path, "utf8")) === PASSED;
  } catch {
    return false;
  }
}

/** What cannot be kept is checked again. */
async function keep(path: string): Promise<void> {
  const dir = join(path, "..");
  try {
    await mkdir(dir, { recursive: true, mode: 0o700 });
    await using file = await StagedFile.create(dir);
    await file.write(new TextEncoder().encode(PASSED));
    await file.placeAs(path);
  } catch {
    // a read-only or full state directory
  }
}
