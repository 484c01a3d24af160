import { closeSync } from "node:fs";
import { mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { NydusError } from "../../../base/errors.ts";
import { StagedFile } from "../../../content/store/staged-file.ts";
import { KERNEL_CHECK_VERSION } from "../../../format/rafs/kernel-safe.ts";
import type { MappedFile } from "../../../os/mmap.ts";
import { duplicate } from "../../../os/quiet-file.ts";
import { sha256OfMapped } from "../../image/bootstrap-digest.ts";
import { checkBytes, checkFile } from "./bootstrap-check-process.ts";

/** Where results are kept below the state directory: a file a bootstrap that has passed, named by its digest. */
const DIR = "checked";
const PASSED = `passed ${KERNEL_CHECK_VERSION}\n`;

/** Up to so many bytes, some 60,000 files, the check takes less than half a second. */
const QUICK_BYTES = 12 << 20;
/** From so many bytes on the check is a process's of its own. */
const LARGE_BYTES = 2 << 20;

/**
 * Refuses a bootstrap that the kernel's driver must not be handed. The result is kept, so that the next mount of the
 * same bytes is quick.
 * @param root directory of all state; nothing is kept unless given
 * @throws EUCLEAN, ENOTSUP
 */
export async function checkForKernel(file: MappedFile, root: string | undefined): Promise<void> {
  const { bytes, fd } = file;
  // Before anything is waited for: who closes the file meanwhile must not have another one checked in its place.
  const copy = bytes.length > LARGE_BYTES && fd !== undefined ? duplicate(fd) : undefined;
  try {
    const path = root === undefined ? undefined : pathOf(file, root);
    if (path !== undefined && (await hasPassed(path))) return;
    const found = copy === undefined ? checkBytes(bytes) : await checkFile(copy);
    if (found !== undefined) {
      const { code, message, offset } = found;
      throw new NydusError(code, message, offset === undefined ? {} : { offset });
    }
    if (path !== undefined) await keep(path);
  } finally {
    if (copy !== undefined) closeSync(copy);
  }
}

/** Whether {@link checkForKernel} takes no time for a bootstrap. */
export async function isCheckQuick(file: MappedFile, root: string | undefined): Promise<boolean> {
  if (file.bytes.length <= QUICK_BYTES) return true;
  return root !== undefined && (await hasPassed(pathOf(file, root)));
}

function pathOf(file: MappedFile, root: string): string {
  return join(root, DIR, sha256OfMapped(file));
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
