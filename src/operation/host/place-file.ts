import { randomBytes } from "node:crypto";
import { chmod, chown, lstat, mkdir, open, readFile, realpath, rename, rm, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { asNydusError, NydusError } from "../../base/errors.ts";
import { syncDirectory } from "../../content/store/file-io.ts";

/** A file of the host that is to be made, changed or removed. */
export interface FileChange {
  /** Symlinks resolved. */
  readonly path: string;
  /** Undefined: there is none. */
  readonly before: string | undefined;
  /** Undefined: it is to be removed. */
  readonly after: string | undefined;
  /** Of a new file. */
  readonly mode: number;
  /** Whether what is there is kept under another name. */
  readonly keepsBackup: boolean;
}

/** Follows symlinks; a path that is not there is itself. @throws EPERM, EIO */
export async function resolveFile(path: string): Promise<string> {
  try {
    return await realpath(path);
  } catch (error) {
    const failure = asNydusError(error, { path });
    if (failure.code !== "ENOENT" || (await isDangling(path))) throw failure;
    return path;
  }
}

async function isDangling(path: string): Promise<boolean> {
  return await lstat(path).then(
    (found) => found.isSymbolicLink(),
    () => false,
  );
}

/** Text of a file; undefined when there is none. @throws EUCLEAN it is not UTF-8; EINVAL no file; EPERM, EIO */
export async function readText(path: string): Promise<string | undefined> {
  let bytes: Uint8Array;
  try {
    if (!(await stat(path)).isFile()) throw new NydusError("EINVAL", "Cannot read: it is not a regular file");
    bytes = await readFile(path);
  } catch (error) {
    const failure = asNydusError(error, { path });
    if (failure.code === "ENOENT") return undefined;
    throw failure;
  }
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (error) {
    throw new NydusError("EUCLEAN", "Cannot read: it is not UTF-8", { path }, { cause: error });
  }
}

/** A changed file that lies beside the one whose place it is to take. Disposing removes it unless it was placed. */
export class StagedChange implements AsyncDisposable {
  readonly change: FileChange;
  /** Of the new content; undefined when the file is to be removed. */
  readonly stagedPath: string | undefined;

  private constructor(change: FileChange, stagedPath: string | undefined) {
    this.change = change;
    this.stagedPath = stagedPath;
  }

  /** Writes the new content, with mode and owner of the old. @throws ENOENT no such directory; EPERM, ENOSPC, EIO */
  static async write(change: FileChange): Promise<StagedChange> {
    const { path, after, before, mode } = change;
    if (after === undefined) return new StagedChange(change, undefined);
    const stagedPath = join(dirname(path), `.nydus-${process.pid}-${randomBytes(8).toString("hex")}.tmp`);
    const staged = new StagedChange(change, stagedPath);
    try {
      const owner = before === undefined ? undefined : await stat(path);
      if (owner === undefined) await mkdir(dirname(path), { recursive: true });
      await writeNew(stagedPath, after, 0o600);
      if (owner !== undefined) await chown(stagedPath, owner.uid, owner.gid);
      await chmod(stagedPath, owner === undefined ? mode : owner.mode & 0o7777);
    } catch (error) {
      await staged[Symbol.asyncDispose]();
      throw asNydusError(error, { path });
    }
    return staged;
  }

  /**
   * Keeps what is there, if it is to be kept, and puts the change in place. A crash leaves the old file or the new one.
   * @param now for the backup's name
   * @returns path of the backup
   * @throws EBUSY the file was changed meanwhile; EPERM, ENOSPC, EIO
   */
  async place(now: Date): Promise<string | undefined> {
    const { path, before, keepsBackup } = this.change;
    if ((await readText(path)) !== before) {
      throw new NydusError("EBUSY", "Cannot change: someone else has changed it just now", { path });
    }
    try {
      const backup = before !== undefined && keepsBackup ? await backUp(path, before, now) : undefined;
      if (this.stagedPath === undefined) await rm(path);
      else await rename(this.stagedPath, path);
      await syncDirectory(dirname(path));
      return backup;
    } catch (error) {
      throw asNydusError(error, { path });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.stagedPath !== undefined) await rm(this.stagedPath, { force: true });
  }
}

/** Writes a file that must not be there, and waits until it is on the disk. */
async function writeNew(path: string, text: string, mode: number): Promise<void> {
  const file = await open(path, "wx", mode);
  try {
    await file.writeFile(text);
    await file.sync();
  } finally {
    await file.close();
  }
}

/** Backups within one second are told apart by a number. */
const MAX_BACKUPS = 100;

async function backUp(path: string, text: string, now: Date): Promise<string> {
  const { uid, gid, mode } = await stat(path);
  const stamp = now.toISOString().replace(/[-:]|\.\d+/g, "");
  for (let i = 0; i < MAX_BACKUPS; i++) {
    const backup = `${path}.nydus-backup-${stamp}${i === 0 ? "" : `-${i}`}`;
    try {
      await writeNew(backup, text, 0o600);
    } catch (error) {
      if ((error as { code?: unknown }).code === "EEXIST") continue;
      throw error;
    }
    await chown(backup, uid, gid);
    await chmod(backup, mode & 0o7777);
    await syncDirectory(dirname(backup));
    return backup;
  }
  throw new NydusError("EEXIST", `Cannot back up: ${MAX_BACKUPS} backups of this second are there`, { path });
}
