import type { ByteRange } from "../../base/bytes.ts";
import { NydusError } from "../../base/errors.ts";
import { throwIfAborted } from "./abort.ts";
import { closeFile, fileSize, openFile, readFully } from "./file-io.ts";
import type { LentFile, ReadOptions, StreamingSource } from "./source.ts";

/** Bytes a step of {@link FileSource.stream}. */
const STREAM_PIECE_BYTES = 1 << 20;

/** Where in an open file the source lies. */
export interface FileSlice {
  readonly fd: number;
  readonly path: string;
  /** First byte in the file. */
  readonly start: number;
  readonly sizeBytes: number;
  /** Called once by `close`. */
  readonly release: () => Promise<void>;
}

/** A file, or part of one, as a source. */
export class FileSource implements StreamingSource {
  readonly sizeBytes: number;
  readonly #slice: FileSlice;
  #closed = false;
  #lent = 0;
  #onReturned: () => void = () => undefined;

  constructor(slice: FileSlice) {
    this.sizeBytes = slice.sizeBytes;
    this.#slice = slice;
  }

  async readAt(range: ByteRange, options: ReadOptions = {}): Promise<Uint8Array> {
    const { fd, path, start } = this.#slice;
    if (this.#closed) throw new NydusError("EINVAL", "Cannot read: the source is closed", { path });
    checkRange(range, this.sizeBytes, path);
    throwIfAborted(options.signal);
    return readFully(fd, { start: start + range.start, end: start + range.end }, path);
  }

  async *stream(signal?: AbortSignal, start = 0): AsyncGenerator<Uint8Array> {
    for (let at = start; at < this.sizeBytes; at += STREAM_PIECE_BYTES) {
      const end = Math.min(this.sizeBytes, at + STREAM_PIECE_BYTES);
      yield await this.readAt({ start: at, end }, signal === undefined ? {} : { signal });
    }
  }

  lendFile(): LentFile | undefined {
    if (this.#closed) return undefined;
    this.#lent++;
    let out = true;
    const giveBack = (): void => {
      if (out && --this.#lent === 0) this.#onReturned();
      out = false;
    };
    return { fd: this.#slice.fd, start: this.#slice.start, [Symbol.dispose]: giveBack };
  }

  /** Waits for those who have its file. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#lent > 0) {
      await new Promise<void>((resolve) => {
        this.#onReturned = resolve;
      });
    }
    await this.#slice.release();
  }
}

/**
 * Opens a whole file as a source.
 * @param wantedBytes its size as the image says; undefined: whatever it has
 * @throws ENOENT; EUCLEAN another size
 */
export async function openFileSource(path: string, wantedBytes?: number): Promise<FileSource> {
  const fd = await openFile(path, "r");
  try {
    const sizeBytes = await fileSize(fd, path);
    if (wantedBytes !== undefined && sizeBytes !== wantedBytes) {
      throw new NydusError("EUCLEAN", `Cannot open blob: it has ${sizeBytes} bytes, ${wantedBytes} wanted`, { path });
    }
    return new FileSource({ fd, path, start: 0, sizeBytes, release: () => closeFile(fd) });
  } catch (error) {
    await closeFile(fd);
    throw error;
  }
}

/** @throws EINVAL unless 0 <= start <= end <= sizeBytes, all whole numbers */
export function checkRange(range: ByteRange, sizeBytes: number, path?: string): void {
  const { start, end } = range;
  if (Number.isSafeInteger(start) && Number.isSafeInteger(end) && start >= 0 && start <= end && end <= sizeBytes)
    return;
  const message = `Cannot read bytes ${start} to ${end}: the source has ${sizeBytes}`;
  throw new NydusError("EINVAL", message, path === undefined ? {} : { path });
}
