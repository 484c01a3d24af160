import { randomBytes } from "node:crypto";
import { rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { hexOf } from "../../base/digest.ts";
import { asNydusError, NydusError } from "../../base/errors.ts";
import { canLock, tryLock } from "../../os/file-lock.ts";
import { throwIfAborted } from "../store/abort.ts";
import { closeFile, fileSize, openFile, readFully, setLength, syncData, writeFully } from "../store/file-io.ts";
import type { ResumedSink } from "../store/store.ts";
import { newSha256 } from "../store/verify.ts";
import type { BlobName } from "./blobs.ts";
import { type StorePaths, storedBlobPath } from "./paths.ts";

/** Bytes hashed and written at once: one such piece is written while the next one comes. */
const PIECE_BYTES = 1 << 20;
/** How often one looks whether another process that brings the same blob has done. */
const WAIT_STEP_MS = 50;

/**
 * A blob on its way into the store: `<hex>.part`, hashed while it is written, gets its name when it is whole and
 * right. What came of it stays for the next one who wants the blob, unless the disk was full or the bytes are wrong.
 * Of two who want it at once, the second waits for the first.
 */
export class PartFile implements ResumedSink {
  readonly #blob: BlobName;
  readonly #place: { readonly path: string; readonly fd: number; readonly target: string };
  #hash = newSha256();
  /** Bytes taken: on the disk, on their way there, and in `#piece`. */
  #sizeBytes = 0;
  #piece = new Uint8Array(PIECE_BYTES);
  #spare = new Uint8Array(PIECE_BYTES);
  #fill = 0;
  #writing: Promise<void> = Promise.resolve();
  #state: "open" | "useless" | "placed" | "closed" = "open";

  private constructor(blob: BlobName, place: { readonly path: string; readonly fd: number; readonly target: string }) {
    this.#blob = blob;
    this.#place = place;
  }

  /**
   * Opens what there is of a blob, and waits for another process that has it.
   * @param isThere whether the blob has come meanwhile
   * @returns undefined when it has
   */
  static async open(
    paths: StorePaths,
    blob: BlobName,
    options: { readonly signal: AbortSignal; readonly isThere: () => Promise<boolean> },
  ): Promise<PartFile | undefined> {
    const target = storedBlobPath(paths, blob.digest);
    // Without locks nobody may go on with another one's file.
    const mark = canLock() ? "" : `.${process.pid}-${randomBytes(8).toString("hex")}`;
    const path = join(paths.ingest, `${hexOf(blob.digest)}${mark}.part`);
    for (;;) {
      throwIfAborted(options.signal);
      const fd = await openFile(path, "a+", 0o600).then(() => openOrMake(path));
      const part = new PartFile(blob, { path, fd, target });
      try {
        const isMine = !canLock() || tryLock(fd, path);
        if (isMine && (await options.isThere())) {
          part.#state = "useless";
          await part[Symbol.asyncDispose]();
          return undefined;
        }
        if (isMine && (await isSameFile(fd, path))) {
          await part.#load(options.signal);
          return part;
        }
      } catch (error) {
        await part[Symbol.asyncDispose]();
        throw error;
      }
      await closeFile(fd);
      await sleep(WAIT_STEP_MS, undefined, { signal: options.signal }).catch(() => undefined);
    }
  }
}
