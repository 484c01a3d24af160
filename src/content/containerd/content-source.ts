import { withDeadline } from "../../base/async.ts";
import type { ByteRange } from "../../base/bytes.ts";
import { type Digest, parseDigest } from "../../base/digest.ts";
import { asNydusError, inPlace, NydusError } from "../../base/errors.ts";
import { CONTENT_SERVICE } from "../../format/containerd/content-schema.ts";
import type { Message } from "../../os/grpc.ts";
import { throwIfAborted } from "../store/abort.ts";
import { checkRange } from "../store/file-source.ts";
import type { ByteSource, ReadOptions, StreamingSource } from "../store/source.ts";
import { Containerd } from "./connection.ts";
import type { ContainerdPlace } from "./place.ts";

/** A blob of containerd's content store. */
export interface ContainerdBlobName extends ContainerdPlace {
  readonly digest: Digest;
  /** As the image says; undefined: whatever it has. */
  readonly sizeBytes?: number | undefined;
}

/**
 * Opens a blob of containerd's content store, over a connection of its own; what is read is not verified.
 * @throws ENOENT the namespace has no such blob; EUCLEAN another size; EIO, EPERM no containerd there
 */
export async function openContainerdBlob(options: ContainerdBlobName): Promise<ByteSource> {
  const connection = new Containerd(options);
  try {
    return await openBlobOf(connection, options, () => connection[Symbol.dispose]());
  } catch (error) {
    connection[Symbol.dispose]();
    throw error;
  }
}

/**
 * Opens a blob over a connection that there is.
 * @param release called once when the blob is closed
 * @throws as {@link openContainerdBlob}
 */
export async function openBlobOf(
  containerd: Containerd,
  { digest: text, sizeBytes }: Pick<ContainerdBlobName, "digest" | "sizeBytes">,
  release: () => void = () => undefined,
): Promise<StreamingSource> {
  const digest = parseDigest(text);
  const found = await blobSize(containerd, digest);
  if (found === undefined) {
    const { namespace } = containerd.place;
    throw new NydusError("ENOENT", `Cannot open blob: containerd's namespace ${namespace} does not hold it`, {
      digest,
    });
  }
  if (sizeBytes !== undefined && found !== sizeBytes) {
    throw new NydusError("EUCLEAN", `Cannot open blob: it has ${found} bytes, ${sizeBytes} wanted`, { digest });
  }
  return new ContainerdBlob(containerd, { digest, sizeBytes: found }, release);
}

/** Bytes of a blob that the namespace has. @returns undefined when it has no such blob */
export async function blobSize(containerd: Containerd, digest: Digest): Promise<number | undefined> {
  try {
    const { info } = await containerd.call(CONTENT_SERVICE, "Info", { digest });
    return Number(info?.size);
  } catch (error) {
    const known = asNydusError(error, { digest });
    if (known.code === "ENOENT") return undefined;
    throw known;
  }
}

class ContainerdBlob implements StreamingSource {
  readonly sizeBytes: number;
  readonly #containerd: Containerd;
  readonly #digest: Digest;
  readonly #release: () => void;
  #closed = false;

  constructor(
    containerd: Containerd,
    blob: { readonly digest: Digest; readonly sizeBytes: number },
    release: () => void,
  ) {
    this.sizeBytes = blob.sizeBytes;
    this.#containerd = containerd;
    this.#digest = blob.digest;
    this.#release = release;
  }

  async readAt(range: ByteRange, { signal }: ReadOptions = {}): Promise<Uint8Array> {
    const { start, end } = range;
    return await inPlace({ digest: this.#digest, offset: start, length: end - start }, async () => {
      const bytes = new Uint8Array(checkedLength(range, this.sizeBytes));
      let at = 0;
      for await (const piece of this.#pieces(range, signal)) {
        bytes.set(piece, at);
        at += piece.length;
      }
      return bytes;
    });
  }

  async *stream(signal?: AbortSignal, start = 0): AsyncGenerator<Uint8Array> {
    yield* this.#pieces({ start, end: this.sizeBytes }, signal);
  }

  /** The bytes of a range, in order, all of them. @throws EIO when fewer or others come */
  async *#pieces(range: ByteRange, signal: AbortSignal | undefined): AsyncGenerator<Uint8Array> {
    if (this.#closed) throw new NydusError("EINVAL", "Cannot read: the source is closed");
    checkRange(range, this.sizeBytes);
    throwIfAborted(signal);
    const { start, end } = range;
    // A size of 0 would mean: to the end.
    if (start === end) return;
    const request = { digest: this.#digest, offset: start, size: end - start };
    let at = start;
    // The answers are in order; the offset that each has is counted from 0 or from `start`, as containerd's release has it.
    for await (const { data } of steady(this.#containerd.stream(CONTENT_SERVICE, "Read", request, { signal }))) {
      const piece = data as Uint8Array;
      if (piece.length > end - at) throw strangeAnswer(at, end);
      at += piece.length;
      yield piece;
    }
    if (at < end) throw strangeAnswer(at, end);
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#release();
  }
}

/** How long containerd may take to send the next piece. */
const READ_TIMEOUT_MS = 60_000;

/** The messages of a stream, none of which is waited for without end. @throws ETIMEDOUT */
async function* steady(messages: AsyncGenerator<Message>): AsyncGenerator<Message> {
  let isStuck = false;
  try {
    for (;;) {
      isStuck = true;
      const next = await withDeadline(READ_TIMEOUT_MS, "read blob from containerd", () => messages.next());
      isStuck = false;
      if (next.done) return;
      yield next.value;
    }
  } finally {
    // A generator that waits can only be left when its wait ends.
    const left = messages.return(undefined);
    if (isStuck) left.catch(() => undefined);
    else await left;
  }
}

function checkedLength(range: ByteRange, sizeBytes: number): number {
  checkRange(range, sizeBytes);
  return range.end - range.start;
}

function strangeAnswer(at: number, end: number): NydusError {
  return new NydusError("EIO", `Cannot read blob: containerd sent something else than bytes ${at} to ${end}`);
}
