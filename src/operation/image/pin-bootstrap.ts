import { randomBytes } from "node:crypto";
import { constants, statSync } from "node:fs";
import { copyFile, mkdir, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { asNydusError, NydusError } from "../../base/errors.ts";
import { type MappedFile, mapFile } from "../../os/mmap.ts";
import { processStart } from "../../os/process.ts";

const PREFIX = ".pinned-";

/**
 * Maps a copy of a bootstrap that nobody else can reach: the file's owner may cut it, which would end a process that
 * maps it (SIGBUS). The copy has no name and goes with the mapping.
 * @param root directory of all state: the copy's space is taken there
 * @throws ENOENT, EPERM, EIO the file; EINVAL not a regular one; ENOSPC
 */
export async function pinBootstrap(path: string, root: string): Promise<MappedFile> {
  const dir = join(root, "bootstraps");
  const copy = join(dir, `${PREFIX}${process.pid}-${randomBytes(8).toString("hex")}`);
  try {
    if (!statSync(path).isFile()) throw new NydusError("EINVAL", "Cannot open bootstrap: not a regular file", { path });
    await mkdir(dir, { recursive: true, mode: 0o700 });
    await removeAbandoned(dir);
    await copyFile(path, copy, constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE);
    return mapFile(copy);
  } catch (error) {
    throw asNydusError(error, { path });
  } finally {
    await rm(copy, { force: true });
  }
}

/** Removes the copies of processes that died between copying and mapping. */
async function removeAbandoned(dir: string): Promise<void> {
  for (const name of await readdir(dir)) {
    const pid = name.startsWith(PREFIX) ? Number(name.slice(PREFIX.length).split("-")[0]) : Number.NaN;
    if (Number.isInteger(pid) && processStart(pid) === undefined) await rm(join(dir, name), { force: true });
  }
}
