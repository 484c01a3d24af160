import { constants } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { asNydusError, type ErrorPlace, NydusError } from "../../../base/errors.ts";
import { canLock, tryLock } from "../../../os/file-lock.ts";

/** Not O_TRUNC: what an earlier mount left stays until this one is made. A pipe that nobody reads is refused at once. */
const OPEN_FLAGS = constants.O_WRONLY | constants.O_CREAT | constants.O_NONBLOCK;
/** A trace says what somebody has read. */
const FILE_MODE = 0o600;

/** The file that a trace is written to. */
export class TraceFile implements AsyncDisposable {
  readonly #handle: FileHandle;
  readonly #place: ErrorPlace;
  #offset = 0;

  private constructor(handle: FileHandle, path: string) {
    this.#handle = handle;
    this.#place = { path };
  }

  /**
   * @param path absolute
   * @throws EPERM, ENOENT, ENOSPC, EIO as open(2); EINVAL no regular file; EBUSY another mount writes its trace there
   */
  static async open(path: string): Promise<TraceFile> {
    const handle = await open(path, OPEN_FLAGS, FILE_MODE).catch((error: unknown) => {
      throw traceFailure(error, { path });
    });
    try {
      if (!(await handle.stat()).isFile()) throw new NydusError("EINVAL", "no regular file");
      if (canLock() && !tryLock(handle.fd, path)) throw new NydusError("EBUSY", "another mount writes there");
    } catch (error) {
      await handle.close();
      throw traceFailure(error, { path });
    }
    return new TraceFile(handle, path);
  }

  /** Takes away what an earlier trace left. @throws EIO */
  async clear(): Promise<void> {
    try {
      await this.#handle.truncate(0);
    } catch (error) {
      throw traceFailure(error, this.#place);
    }
  }

  /** @throws ENOSPC, EIO; some of the text may be in the file */
  async append(text: string): Promise<void> {
    const bytes = Buffer.from(text);
    try {
      for (let at = 0; at < bytes.length; ) {
        const { bytesWritten } = await this.#handle.write(bytes, at, bytes.length - at, this.#offset);
        at += bytesWritten;
        this.#offset += bytesWritten;
      }
    } catch (error) {
      throw traceFailure(error, this.#place);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#handle.close().catch(() => undefined); // the trace says itself what could not be written
  }
}

function traceFailure(error: unknown, place: ErrorPlace): NydusError {
  const { code, message } = asNydusError(error);
  return new NydusError(code, `Cannot write trace: ${message}`, place, { cause: error });
}
