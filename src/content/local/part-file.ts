import { randomBytes } from "node:crypto";
import { rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { hexOf } from "../../base/digest.ts";
import { asNydusError, NydusError } from "../../base/errors.ts";
import { canLock, tryLock } from "../../os/file-lock.ts";
import { throwIfAborted } from "../store/abort.ts";
import {
  closeFile,
  fileInode,
  fileSize,
  openFile,
  readFully,
  setLength,
  syncData,
  writeFully,
} from "../store/file-io.ts";
import type { ResumedSink } from "../store/store.ts";
import { newSha256 } from "../store/verify.ts";
import type { BlobName } from "./blobs.ts";
import { type StorePaths, storedBlobPath } from "./paths.ts";

/** Bytes hashed and written at once: one such piece is written while the next one comes. */
const PIECE_BYTES = 256 << 10;
/** How often one looks whether another process that brings the same blob has done. */
const WAIT_STEP_MS = 50;

/** How a part file is opened. */
interface PartOptions {
  readonly signal: AbortSignal;
  /** Whether the blob has come meanwhile. */
  readonly isThere: () => Promise<boolean>;
}

interface PartPlace {
  readonly path: string;
  readonly fd: number;
  /** Of the whole blob. */
  readonly target: string;
}

/**
 * A blob on its way into the store: `<hex>.part`, hashed while it is written, gets its name when it is whole and
 * right. What came of it stays for the next one who wants the blob, unless the disk was full or the bytes are wrong.
 * Of two who want it at once, the second waits for the first.
 */
export class PartFile implements ResumedSink {
  readonly #blob: BlobName;
  readonly #place: PartPlace;
  /** Whether what is there when this is left may be gone on with. */
  #isWorthKeeping = canLock();
  #isPlaced = false;
  #hash = newSha256();
  /** Bytes on the disk or on their way there. */
  #sentBytes = 0;
  #piece = new Uint8Array(PIECE_BYTES);
  #spare = new Uint8Array(PIECE_BYTES);
  #fill = 0;
  #writing: Promise<void> = Promise.resolve();

  private constructor(blob: BlobName, place: PartPlace) {
    this.#blob = blob;
    this.#place = place;
  }

  /**
   * Opens what there is of a blob, waiting for another process that has it.
   * @returns undefined when the blob has come meanwhile
   * @throws ENOSPC, EPERM, EIO; ECANCELED
   */
  static async open(paths: StorePaths, blob: BlobName, options: PartOptions): Promise<PartFile | undefined> {
    const target = storedBlobPath(paths, blob.digest);
    // Without locks nobody may go on with another one's file.
    const mark = canLock() ? "" : `.${process.pid}-${randomBytes(8).toString("hex")}`;
    const path = join(paths.ingest, `${hexOf(blob.digest)}${mark}.part`);
    for (;;) {
      throwIfAborted(options.signal);
      if (await options.isThere()) return undefined;
      const part = await PartFile.#take(blob, { path, target }, options);
      if (part !== undefined) return part;
      await sleep(WAIT_STEP_MS, undefined, { signal: options.signal }).catch(() => undefined);
    }
  }

  /** @returns undefined when another one has it, or has just given it the blob's name */
  static async #take(
    blob: BlobName,
    place: Omit<PartPlace, "fd">,
    options: PartOptions,
  ): Promise<PartFile | undefined> {
    const fd = await openOrMake(place.path);
    try {
      if (canLock() && !(tryLock(fd, place.path) && (await isStillAt(fd, place.path)))) {
        await closeFile(fd);
        return undefined;
      }
      const part = new PartFile(blob, { ...place, fd });
      await part.#load(options.signal);
      return part;
    } catch (error) {
      await closeFile(fd);
      throw error;
    }
  }

  get sizeBytes(): number {
    return this.#sentBytes + this.#fill;
  }

  /** Makes the hash anew of what is there. */
  async #load(signal: AbortSignal): Promise<void> {
    const { fd, path } = this.#place;
    const there = await fileSize(fd, path);
    if (there > this.#blob.size) return await this.restart();
    for (let start = 0; start < there; start += PIECE_BYTES) {
      throwIfAborted(signal);
      this.#hash.update(await readFully(fd, { start, end: Math.min(there, start + PIECE_BYTES) }, path));
    }
    this.#sentBytes = there;
  }

  /** Forgets all bytes. */
  async restart(): Promise<void> {
    await this.#writing.catch(() => undefined);
    await setLength(this.#place.fd, 0, this.#place.path);
    [this.#sentBytes, this.#fill, this.#hash, this.#writing] = [0, 0, newSha256(), Promise.resolve()];
  }

  async write(data: Uint8Array): Promise<void> {
    const { digest, size } = this.#blob;
    if (this.sizeBytes + data.length > size) {
      this.#isWorthKeeping = false;
      throw new NydusError("EBADMSG", `Cannot verify blob: more than its ${size} bytes came`, { digest });
    }
    for (let at = 0; at < data.length; ) {
      const count = Math.min(PIECE_BYTES - this.#fill, data.length - at);
      this.#piece.set(data.subarray(at, at + count), this.#fill);
      this.#fill += count;
      at += count;
      if (this.#fill === PIECE_BYTES) await this.#flush();
    }
  }

  /** Sends the piece off once the one before is on its way no more. */
  async #flush(): Promise<void> {
    const piece = this.#piece.subarray(0, this.#fill);
    this.#hash.update(piece);
    await this.#written();
    const { fd, path } = this.#place;
    this.#writing = writeFully(fd, piece, this.#sentBytes, path);
    this.#writing.catch(() => undefined); // awaited with the next piece
    [this.#piece, this.#spare] = [this.#spare, this.#piece];
    this.#sentBytes += piece.length;
    this.#fill = 0;
  }

  async #written(): Promise<void> {
    try {
      await this.#writing;
    } catch (error) {
      // A full disk is in everybody's way: what filled it goes.
      this.#isWorthKeeping = false;
      throw asNydusError(error, { digest: this.#blob.digest });
    }
  }

  async commit(): Promise<void> {
    const { digest, size } = this.#blob;
    const { fd, path, target } = this.#place;
    await this.#flush();
    await this.#written();
    if (this.#sentBytes !== size) {
      throw new NydusError("EIO", `Cannot commit blob: ${this.#sentBytes} bytes came, ${size} wanted`, { digest });
    }
    const found = this.#hash.digest();
    if (found !== digest) {
      await this.restart();
      throw new NydusError("EBADMSG", `Cannot verify blob: its bytes digest to ${found}`, { digest });
    }
    await syncData(fd, path);
    try {
      await rename(path, target);
    } catch (error) {
      throw asNydusError(error, { path: target });
    }
    this.#isPlaced = true;
  }

  /** Ends the lock; what came stays where that is of use. */
  async [Symbol.asyncDispose](): Promise<void> {
    const { fd, path } = this.#place;
    if (!this.#isPlaced) {
      await this.#flush().catch(() => undefined);
      await this.#written().catch(() => undefined);
      if (!this.#isWorthKeeping || this.#sentBytes === 0) await rm(path, { force: true });
    }
    await closeFile(fd);
  }
}

async function openOrMake(path: string): Promise<number> {
  for (;;) {
    for (const flags of ["r+", "wx+"]) {
      try {
        return await openFile(path, flags, 0o600);
      } catch (error) {
        const { code } = asNydusError(error);
        if (code !== (flags === "r+" ? "ENOENT" : "EEXIST")) throw error;
      }
    }
  }
}

/** Whether an open file has its name still: the one who had it before may have given it the blob's. */
async function isStillAt(fd: number, path: string): Promise<boolean> {
  const found = await stat(path, { bigint: true }).catch(() => undefined);
  return found !== undefined && found.ino === (await fileInode(fd, path));
}
