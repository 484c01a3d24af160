import { parseDigest } from "../../base/digest.ts";
import { NydusError } from "../../base/errors.ts";
import type { Descriptor } from "../../format/oci/manifest.ts";
import { mediaKind } from "../../format/oci/media-type.ts";
import type { ByteSource } from "../store/source.ts";
import type { ImageSource, StoreContext } from "../store/store.ts";
import { checkSmall, SMALL_CONTENT_BYTES, verifyContent } from "../store/verify.ts";
import { Containerd } from "./connection.ts";
import { blobSize, openBlobOf } from "./content-source.ts";
import { findImage } from "./images.ts";
import { DEFAULT_CONTAINERD } from "./place.ts";

/** An image of containerd's: `containerd:REF`. Nothing is asked before something is read. */
export function openContainerdSource(reference: string, name: string, context: StoreContext): ImageSource {
  return new ContainerdSource(new Containerd(context.containerd ?? DEFAULT_CONTAINERD), reference, {
    name,
    signal: context.signal,
  });
}

/** An image as it is read over a connection, which is closed with it. */
export class ContainerdSource implements ImageSource {
  readonly name: string;
  readonly #containerd: Containerd;
  readonly #reference: string;
  readonly #signal: AbortSignal | undefined;

  constructor(
    containerd: Containerd,
    reference: string,
    options: { readonly name: string; readonly signal: AbortSignal | undefined },
  ) {
    this.name = options.name;
    this.#containerd = containerd;
    this.#reference = reference;
    this.#signal = options.signal;
  }

  async root(): Promise<{ readonly descriptor: Descriptor; readonly bytes: Uint8Array }> {
    const { target } = await findImage(this.#containerd, this.#reference, this.#signal);
    return { descriptor: target, bytes: await this.readBlob(target) };
  }

  async readBlob(descriptor: Descriptor, limitBytes = SMALL_CONTENT_BYTES): Promise<Uint8Array> {
    checkSmall(descriptor, limitBytes);
    await this.#refuseMissing(descriptor);
    const source = await openBlobOf(this.#containerd, { digest: descriptor.digest, sizeBytes: descriptor.size });
    const options = this.#signal === undefined ? {} : { signal: this.#signal };
    return verifyContent(descriptor, await source.readAt({ start: 0, end: source.sizeBytes }, options));
  }

  /** Containerd keeps of an index only the platforms that were pulled. */
  async #refuseMissing({ mediaType, digest, platform }: Descriptor): Promise<void> {
    const kind = mediaKind(mediaType);
    if (kind !== "manifest" && kind !== "index") return;
    if ((await blobSize(this.#containerd, digest)) !== undefined) return;
    const which = platform === undefined ? "a manifest" : `the manifest for ${platform.os}/${platform.architecture}`;
    const message = `Cannot read image ${this.name}: containerd has not got ${which}; pull it for this platform`;
    throw new NydusError("ENOENT", message, { digest });
  }

  async openBlob(descriptor: Pick<Descriptor, "digest" | "size">): Promise<ByteSource> {
    const digest = parseDigest(descriptor.digest);
    return await openBlobOf(this.#containerd, { digest, sizeBytes: descriptor.size });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#containerd[Symbol.dispose]();
  }
}
