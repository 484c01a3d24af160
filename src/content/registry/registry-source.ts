import type { ByteRange } from "../../base/bytes.ts";
import { parseDigest } from "../../base/digest.ts";
import { asNydusError, inPlace, NydusError } from "../../base/errors.ts";
import type { Descriptor } from "../../format/oci/manifest.ts";
import { mediaKind } from "../../format/oci/media-type.ts";
import { manifestKey, type Reference } from "../../format/oci/reference.ts";
import { isPassing } from "../http/failure.ts";
import { throwIfAborted } from "../store/abort.ts";
import { checkRange } from "../store/file-source.ts";
import type { ByteSource, ReadOptions, StreamingSource } from "../store/source.ts";
import type { ImageSource, StoreContext } from "../store/store.ts";
import { checkSmall, SMALL_CONTENT_BYTES, verifyContent } from "../store/verify.ts";
import { type OpenedAccess, Registry, type RemoteBlob } from "./registry.ts";
import { openAccess } from "./registry-options.ts";

/** A stream goes on after so many breaks in all, and so many in a row that brought nothing. */
const STREAM_LIMITS = { breaks: 32, fruitless: 4 } as const;

/** An image of a registry: `docker://HOST/REPO[:TAG][@DIGEST]`. Nothing is asked before something is read. */
export function openRegistrySource(reference: Reference, name: string, context: StoreContext): ImageSource {
  return new RegistrySource(reference, name, context);
}

class RegistrySource implements ImageSource {
  readonly name: string;
  readonly #access: OpenedAccess;
  readonly #registry: Registry;
  readonly #reference: Reference;
  readonly #signal: AbortSignal | undefined;

  constructor(reference: Reference, name: string, context: StoreContext) {
    this.name = name;
    this.#reference = reference;
    this.#signal = context.signal;
    this.#access = openAccess(context.registry);
    this.#registry = new Registry(this.#access, reference);
  }

  root(): Promise<{ readonly descriptor: Descriptor; readonly bytes: Uint8Array }> {
    return this.#registry.getManifest(manifestKey(this.#reference), this.#signal);
  }

  async readBlob(descriptor: Descriptor, limitBytes = SMALL_CONTENT_BYTES): Promise<Uint8Array> {
    checkSmall(descriptor, limitBytes);
    const kind = mediaKind(descriptor.mediaType);
    if (kind === "manifest" || kind === "index") {
      const { bytes } = await this.#registry.getManifest(descriptor.digest, this.#signal);
      return verifyContent(descriptor, bytes);
    }
    const source = await this.openBlob(descriptor);
    const options = this.#signal === undefined ? {} : { signal: this.#signal };
    return verifyContent(descriptor, await source.readAt({ start: 0, end: descriptor.size }, options));
  }

  async openBlob(descriptor: Pick<Descriptor, "digest" | "size">): Promise<ByteSource> {
    parseDigest(descriptor.digest);
    return new RegistryBlob(this.#registry, descriptor);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#access[Symbol.asyncDispose]();
  }
}

/** How a {@link RegistryBlob} is known. */
export interface RegistryBlobOptions {
  /** Whether `size` is all that the blob has; false: it has so many bytes at least, and no more are read. */
  readonly isWholeSize?: boolean;
}

/** A blob in a registry. Its size is the descriptor's; whether it is there shows when it is read. */
export class RegistryBlob implements StreamingSource {
  readonly sizeBytes: number;
  readonly #registry: Registry;
  readonly #blob: RemoteBlob;
  /** Where the last bytes came from: asking there again saves the registry's redirect. */
  #via: URL | undefined;
  #closed = false;

  constructor(registry: Registry, blob: Pick<Descriptor, "digest" | "size">, options: RegistryBlobOptions = {}) {
    this.sizeBytes = blob.size;
    this.#registry = registry;
    this.#blob = options.isWholeSize === false ? { digest: blob.digest } : blob;
  }

  async readAt(range: ByteRange, { signal }: ReadOptions = {}): Promise<Uint8Array> {
    const { digest } = this.#blob;
    return await inPlace({ digest, offset: range.start, length: range.end - range.start }, async () => {
      if (this.#closed) throw new NydusError("EINVAL", "Cannot read: the source is closed");
      checkRange(range, this.sizeBytes);
      throwIfAborted(signal);
      if (range.start === range.end) return new Uint8Array(0);
      const { bytes, url } = await this.#registry.readBlob({ blob: this.#blob, range, via: this.#via, signal });
      this.#via = url;
      return bytes;
    });
  }

  /** The bytes from `start` on by one request; where the connection breaks, by another one from there on. */
  async *stream(signal?: AbortSignal, start = 0): AsyncGenerator<Uint8Array> {
    let at = start;
    let fruitless = 0;
    for (let breaks = 0; at < this.sizeBytes; breaks++) {
      const before = at;
      try {
        for await (const piece of this.#from(at, signal)) {
          at += piece.length;
          yield piece;
        }
      } catch (error) {
        throwIfAborted(signal);
        if (!isPassing(error)) throw asNydusError(error, { digest: this.#blob.digest, offset: at });
      }
      fruitless = at === before ? fruitless + 1 : 0;
      if (at < this.sizeBytes && (fruitless >= STREAM_LIMITS.fruitless || breaks >= STREAM_LIMITS.breaks)) {
        const message = `Cannot read blob: the connection broke ${breaks + 1} times`;
        throw new NydusError("EIO", message, { digest: this.#blob.digest, offset: at });
      }
    }
  }

  /** @throws EUCLEAN when more comes than the blob has */
  async *#from(start: number, signal: AbortSignal | undefined): AsyncGenerator<Uint8Array> {
    const end = this.sizeBytes;
    let at = start;
    for await (const piece of await this.#registry.openBlob({ blob: this.#blob, range: { start, end }, signal })) {
      at += piece.length;
      if (at > end) throw new NydusError("EUCLEAN", `Cannot read blob: more than its ${end} bytes came`);
      yield piece;
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
  }
}
