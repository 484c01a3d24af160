import type { Digest } from "../../base/digest.ts";
import { asNydusError, inPlace } from "../../base/errors.ts";
import { childLabels, distributionSource } from "../../format/containerd/image-labels.ts";
import { LABELS, type LabelFields } from "../../format/containerd/labels.ts";
import { type Descriptor, type Manifest, parseManifestOrIndex } from "../../format/oci/manifest.ts";
import { mediaKind } from "../../format/oci/media-type.ts";
import type { Reference } from "../../format/oci/reference.ts";
import { throwIfAborted } from "../store/abort.ts";
import type { BlobSink, ImageTarget, StoreContext } from "../store/store.ts";
import { verifyContent } from "../store/verify.ts";
import { Containerd } from "./connection.ts";
import { addLabels, labelsOf } from "./content-labels.ts";
import { ContentSink } from "./content-sink.ts";
import { blobSize } from "./content-source.ts";
import { putImage } from "./images.ts";
import { ContainerdLease } from "./lease.ts";
import { DEFAULT_CONTAINERD } from "./place.ts";

/** A place for an image in containerd: `containerd:REF`. @param reference the image's full name there */
export function openContainerdTarget(reference: string, name: string, context: StoreContext): ContainerdTarget {
  return new ContainerdTarget(new Containerd(context.containerd ?? DEFAULT_CONTAINERD), reference, { name, context });
}

/**
 * An image on its way into containerd, all of it under a lease: if it does not come to its name, containerd collects
 * what was written. Disposing gives the lease back.
 */
export class ContainerdTarget implements ImageTarget {
  readonly name: string;
  /** The connection; what is made over it belongs to the lease. */
  readonly containerd: Containerd;
  /** The image's full name in containerd. */
  readonly imageName: string;
  readonly #lease: ContainerdLease;
  readonly #signal: AbortSignal | undefined;
  readonly #origin: Reference | undefined;
  readonly #manifests: Manifest[] = [];

  constructor(
    containerd: Containerd,
    reference: string,
    { name, context }: { readonly name: string; readonly context: StoreContext },
  ) {
    this.name = name;
    this.containerd = containerd;
    this.imageName = reference;
    this.#lease = new ContainerdLease(containerd);
    this.#signal = context.signal;
    this.#origin = context.origin;
  }

  /** A blob that is there is kept by the lease before it is told of, lest it goes before the image has its name. */
  async hasBlob({ digest, size }: Pick<Descriptor, "digest" | "size">): Promise<boolean> {
    throwIfAborted(this.#signal);
    await this.#lease.addContent(digest);
    if ((await blobSize(this.containerd, digest)) !== size) return false;
    await this.#label(digest, {});
    return true;
  }

  async newBlob(): Promise<BlobSink> {
    return await this.#newSink({});
  }

  async #newSink(labels: LabelFields): Promise<BlobSink> {
    throwIfAborted(this.#signal);
    await this.#lease.hold();
    return await ContentSink.open(this.containerd, {
      signal: this.#signal,
      labels: () => ({ ...labels, ...this.#sourceLabels({}) }),
      onExisting: async (digest) => {
        await this.#lease.addContent(digest);
        await this.#label(digest, labels);
      },
    });
  }

  async putBytes(descriptor: Descriptor, bytes: Uint8Array): Promise<void> {
    verifyContent(descriptor, bytes);
    const labels = this.#childLabels(descriptor, bytes);
    if (await this.hasBlob(descriptor)) {
      await this.#label(descriptor.digest, labels);
      return;
    }
    await using sink = await this.#newSink(labels);
    await sink.write(bytes);
    await sink.commit(descriptor.digest, bytes.length);
  }

  /** LabelFields by which a manifest or an index keeps its children. */
  #childLabels({ mediaType, digest }: Descriptor, bytes: Uint8Array): LabelFields {
    const kind = mediaKind(mediaType);
    if (kind !== "manifest" && kind !== "index") return {};
    const content = inPlace({ digest }, () => parseManifestOrIndex(bytes, mediaType));
    if (content.kind === "manifest") this.#manifests.push(content.manifest);
    return childLabels(content);
  }

  /** The label of the repository that the image comes from. */
  #sourceLabels(before: LabelFields): LabelFields {
    const label = this.#origin === undefined ? undefined : distributionSource(this.#origin, before);
    return label === undefined ? {} : Object.fromEntries([label]);
  }

  async #label(digest: Digest, labels: LabelFields): Promise<void> {
    const source = this.#origin === undefined ? {} : this.#sourceLabels(await this.#labelsOf(digest));
    await addLabels(this.containerd, digest, { ...labels, ...source }, this.#signal);
  }

  #labelsOf(digest: Digest): Promise<LabelFields> {
    return labelsOf(this.containerd, digest, this.#signal);
  }

  async commit(root: Descriptor, bytes: Uint8Array): Promise<void> {
    await this.putBytes(root, bytes);
    for (const manifest of this.#manifests) await this.#labelOwnDiffIds(manifest);
    throwIfAborted(this.#signal);
    await putImage(this.containerd, { name: this.imageName, target: root }, this.#signal);
    this.#lease.done();
  }

  /**
   * Nydus blobs are their own uncompressed form, and say so. Of other layers containerd notes it when they are
   * unpacked: a config's word would be believed for every image that has the layer.
   */
  async #labelOwnDiffIds({ layers }: Manifest): Promise<void> {
    for (const { mediaType, digest } of layers) {
      if (mediaKind(mediaType) !== "nydusBlob") continue;
      try {
        if ((await this.#labelsOf(digest))[LABELS.uncompressed] !== undefined) continue;
        await addLabels(this.containerd, digest, { [LABELS.uncompressed]: digest }, this.#signal);
      } catch (error) {
        // The image is copied without its blobs.
        if (asNydusError(error).code !== "ENOENT") throw error;
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.#lease[Symbol.asyncDispose]();
    } finally {
      this.containerd[Symbol.dispose]();
    }
  }
}
