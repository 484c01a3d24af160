import { randomBytes } from "node:crypto";
import { withDeadline } from "../../base/async.ts";
import { type Digest, parseDigest } from "../../base/digest.ts";
import { asNydusError, inPlace, NydusError } from "../../base/errors.ts";
import { CONTENT_SERVICE, WRITE_ACTION } from "../../format/containerd/content-schema.ts";
import type { LabelFields } from "../../format/containerd/labels.ts";
import type { Message } from "../../os/grpc.ts";
import type { BlobSink } from "../store/store.ts";
import type { Containerd, ContainerdDuplex } from "./connection.ts";

/**
 * Bytes of one message, each of which is answered before the next one: HTTP/2 lets 64 KiB be under way at first, and
 * Bun 1.4.5 sometimes does not go on after it has had to wait for more (seen with messages of 128 KiB and more; Node
 * does). What is not answered and what the server has not told to be read yet stay below that.
 */
const PIECE_BYTES = 32 << 10;
/** How long containerd may take to write a piece. */
const WRITE_TIMEOUT_MS = 2 * 60_000;
/** How long containerd may take to sync a blob to the disk. */
const COMMIT_TIMEOUT_MS = 30 * 60_000;
const ABORT_TIMEOUT_MS = 10_000;

/** What a sink does besides writing. */
export interface ContentSinkOptions {
  readonly signal?: AbortSignal | undefined;
  /** LabelFields of the blob, once its digest is known. */
  readonly labels?: (digest: Digest) => LabelFields;
  /** Called with a blob that the namespace had already. */
  readonly onExisting: (digest: Digest) => Promise<void>;
}

/**
 * A blob on its way into containerd's content store. Its ingest has a name of its own, so that no other client's lock
 * is in the way; when both write one blob, the second learns that it is there.
 */
export class ContentSink implements BlobSink {
  readonly #containerd: Containerd;
  readonly #options: ContentSinkOptions;
  readonly #ref = `nydus-${randomBytes(16).toString("hex")}`;
  readonly #call: ContainerdDuplex;
  readonly #buffer = new Uint8Array(PIECE_BYTES);
  #buffered = 0;
  #sentBytes = 0;
  #state: "open" | "committed" | "closed" = "open";

  private constructor(containerd: Containerd, options: ContentSinkOptions) {
    this.#containerd = containerd;
    this.#options = options;
    this.#call = containerd.duplex(CONTENT_SERVICE, "Write", { signal: options.signal });
  }

  /** @throws as {@link Containerd.call} */
  static async open(containerd: Containerd, options: ContentSinkOptions): Promise<ContentSink> {
    const sink = new ContentSink(containerd, options);
    try {
      await sink.#ask({ action: WRITE_ACTION.stat, ref: sink.#ref });
      return sink;
    } catch (error) {
      await sink[Symbol.asyncDispose]();
      throw error;
    }
  }

  async write(data: Uint8Array): Promise<void> {
    if (this.#state !== "open") throw new NydusError("EINVAL", "Cannot write: the blob is closed");
    for (let at = 0; at < data.length; ) {
      const taken = data.subarray(at, at + PIECE_BYTES - this.#buffered);
      this.#buffer.set(taken, this.#buffered);
      this.#buffered += taken.length;
      at += taken.length;
      if (this.#buffered === PIECE_BYTES) await this.#flush();
    }
  }

  async #flush(): Promise<void> {
    if (this.#buffered === 0) return;
    const data = this.#buffer.subarray(0, this.#buffered);
    this.#buffered = 0; // the bytes are sent when the answer is here: the buffer is free again
    await this.#ask({ action: WRITE_ACTION.write, ref: this.#ref, offset: this.#sentBytes, data });
    this.#sentBytes += data.length;
  }

  async #ask(message: Message, timeoutMs = WRITE_TIMEOUT_MS): Promise<Message> {
    const answer = await withDeadline(timeoutMs, "write blob to containerd", async () => {
      await this.#call.send(message);
      return await this.#call.receive();
    });
    if (answer === undefined) throw new NydusError("EIO", "Cannot write blob: containerd ended the call");
    return answer;
  }

  async commit(digest: Digest, sizeBytes: number): Promise<void> {
    parseDigest(digest);
    await inPlace({ digest }, async () => {
      await this.#flush();
      if (this.#sentBytes !== sizeBytes) {
        const found = `${this.#sentBytes} bytes written, ${sizeBytes} wanted`;
        throw new NydusError("EFAULT", `Cannot commit blob: ${found}`);
      }
      const isNew = await this.#commit(digest, sizeBytes);
      this.#state = "committed";
      if (!isNew) await this.#options.onExisting(digest);
    });
  }

  /** @returns false when the namespace had the blob already */
  async #commit(digest: Digest, sizeBytes: number): Promise<boolean> {
    const { labels } = this.#options;
    const place = { ref: this.#ref, offset: sizeBytes, total: sizeBytes, expected: digest };
    try {
      const message = { action: WRITE_ACTION.commit, ...place, labels: labels?.(digest) ?? {} };
      const answer = await this.#ask(message, COMMIT_TIMEOUT_MS);
      if (answer["digest"] === digest) return true;
      throw new NydusError("EBADMSG", `Cannot commit blob: its digest is ${answer["digest"]}`);
    } catch (error) {
      const known = asNydusError(error);
      if (known.code === "EEXIST") return false;
      // What containerd found to differ is the digest: the size has been checked.
      if (known.code === "EBUSY") throw new NydusError("EBADMSG", `Cannot commit blob: ${known.message}`, known.at);
      throw known;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const wasCommitted = this.#state !== "open";
    this.#state = "closed";
    this.#call[Symbol.dispose]();
    if (wasCommitted) return;
    // What cannot be removed now goes with the lease.
    const options = { timeoutMs: ABORT_TIMEOUT_MS };
    await this.#containerd.call(CONTENT_SERVICE, "Abort", { ref: this.#ref }, options).catch(() => undefined);
  }
}
