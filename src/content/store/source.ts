import type { ByteRange } from "../../base/bytes.ts";

/** Why bytes are read: what a reader waits for goes before what might be read later. */
export type ReadPurpose = "demand" | "prefetch";

/** Options of one read. */
export interface ReadOptions {
  readonly signal?: AbortSignal;
  readonly why?: ReadPurpose;
}

/** THE read interface: bytes at rest anywhere, local or remote. */
export interface ByteSource {
  /** Bytes. */
  readonly sizeBytes: number;
  /**
   * Exactly the bytes of `range`, never fewer.
   * @throws EINVAL range outside the source; EIO, ETIMEDOUT, EACCES, ENOENT as the place has it
   */
  readAt(range: ByteRange, options?: ReadOptions): Promise<Uint8Array>;
  close(): Promise<void>;
}

/** An ability of sources that can send everything in one go (one request of a registry). */
export interface StreamingSource extends ByteSource {
  /** All bytes in order, or those from `start` on; the consumer verifies them. */
  stream(signal?: AbortSignal, start?: number): AsyncIterable<Uint8Array>;
}

/** Whether a source streams by itself. */
export function canStream(source: ByteSource): source is StreamingSource {
  return typeof (source as Partial<StreamingSource>).stream === "function";
}

/** A file in which a source lies; its descriptor stays open until it is given back by disposing. */
export interface LentFile extends Disposable {
  readonly fd: number;
  /** Where in the file the source's first byte is. */
  readonly start: number;
}

/** An ability of sources that lie in a local file: a thread can read them by itself. */
interface LendingSource extends ByteSource {
  /** @returns undefined when it lies in no file now */
  lendFile(): LentFile | undefined;
}

/** The file in which a source lies, if it lies in one. */
export function lendFile(source: ByteSource): LentFile | undefined {
  const { lendFile: lend } = source as Partial<LendingSource>;
  return typeof lend === "function" ? lend.call(source) : undefined;
}
