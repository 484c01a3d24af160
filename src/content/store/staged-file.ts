import { randomBytes } from "node:crypto";
import { rename, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { type Digest, parseDigest } from "../../base/digest.ts";
import { asNydusError, NydusError } from "../../base/errors.ts";
import { closeFile, openFile, syncData, syncDirectory, writeFully } from "./file-io.ts";

/**
 * A file that is written under a temporary name and gets its own when it is complete and on the disk.
 * Disposing it before that removes it.
 */
export class StagedFile implements AsyncDisposable {
  readonly path: string;
  readonly fd: number;
  #sizeBytes = 0;
  #open = true;
  #placed = false;

  private constructor(path: string, fd: number) {
    this.path = path;
    this.fd = fd;
  }

  /** @param dir on the file system that the file is to stay on @param mode permissions @throws ENOSPC, ENOENT, EPERM */
  static async create(dir: string, mode?: number): Promise<StagedFile> {
    const path = join(dir, `.nydus-${process.pid}-${randomBytes(8).toString("hex")}.tmp`);
    return new StagedFile(path, await openFile(path, "wx+", mode));
  }

  /** Bytes appended so far. */
  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  /** Appends. @throws ENOSPC */
  async write(data: Uint8Array): Promise<void> {
    if (!this.#open) throw new NydusError("EINVAL", "Cannot write: the file is closed", { path: this.path });
    const at = this.#sizeBytes;
    this.#sizeBytes += data.length;
    await writeFully(this.fd, data, at, this.path);
  }

  /** Makes the content durable and gives the file its name, replacing what has it. The directory is not synced. */
  async placeAs(path: string): Promise<void> {
    await syncData(this.fd, this.path);
    await this.#close();
    try {
      await rename(this.path, path);
    } catch (error) {
      throw asNydusError(error, { path });
    }
    this.#placed = true;
  }

  async #close(): Promise<void> {
    if (!this.#open) return;
    this.#open = false;
    await closeFile(this.fd);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#close();
    if (!this.#placed) await rm(this.path, { force: true });
  }
}

/** Writes a small state file so that a crash leaves the old or the new one: temporary, fsync, rename, fsync. */
export async function replaceFile(path: string, data: Uint8Array, mode?: number): Promise<void> {
  await using file = await StagedFile.create(dirname(path), mode);
  await file.write(data);
  await file.placeAs(join(dirname(path), basename(path)));
  await syncDirectory(dirname(path));
}

/** Checks a blob before it gets its name. @throws EINVAL a digest that is none; EFAULT the writer counted otherwise */
export function checkWritten(file: StagedFile, digest: Digest, sizeBytes: number): void {
  parseDigest(digest);
  if (file.sizeBytes === sizeBytes) return;
  throw new NydusError("EFAULT", `Cannot commit blob: ${file.sizeBytes} bytes written, ${sizeBytes} wanted`, {
    digest,
  });
}
