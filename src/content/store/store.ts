import type { Digest } from "../../base/digest.ts";
import type { Descriptor } from "../../format/oci/manifest.ts";
import type { ByteSource } from "./source.ts";

/** A place that images are read from: one image of an `oci:` directory, an archive, a registry. */
export interface ImageSource extends AsyncDisposable {
  /** What the user named, for messages: `oci:/dir:ref`. */
  readonly name: string;
  /** The top manifest or index: its descriptor and verified bytes (at most 4 MiB). @throws ENOENT no such image */
  root(): Promise<{ readonly descriptor: Descriptor; readonly bytes: Uint8Array }>;
  /** Small verified content (manifest, config), at most `limitBytes`. @throws EBADMSG on another digest or size */
  readBlob(descriptor: Descriptor, limitBytes?: number): Promise<Uint8Array>;
  /** Ranged access, unverified: chunk digests or the consumer's hash verify it. @throws ENOENT no such blob */
  openBlob(descriptor: Pick<Descriptor, "digest" | "size">): Promise<ByteSource>;
}

/** A blob on its way into a target: hidden until committed. Disposing without commit removes it. */
export interface BlobSink extends AsyncDisposable {
  /** Appends; keeps no reference to `data`. @throws ENOSPC */
  write(data: Uint8Array): Promise<void>;
  /** Makes the blob visible under `digest`, which the writer has computed over all that it wrote. */
  commit(digest: Digest, sizeBytes: number): Promise<void>;
}

/** A place that images are written to. Nothing of an image is visible under its name before `commit`. */
export interface ImageTarget extends AsyncDisposable {
  readonly name: string;
  /** Whether the target holds a blob already, so that it need not be sent. */
  hasBlob(descriptor: Pick<Descriptor, "digest" | "size">): Promise<boolean>;
  newBlob(): Promise<BlobSink>;
  /** A manifest or a config: small, whole. */
  putBytes(descriptor: Descriptor, bytes: Uint8Array): Promise<void>;
  /** Gives the image its name: the last step, atomic. */
  commit(root: Descriptor, bytes: Uint8Array): Promise<void>;
}

/** What stores need besides the image's name. */
export interface StoreContext {
  /** Directory of all state; temporary files go under it. */
  readonly root: string;
  /** Ends what is under way. */
  readonly signal?: AbortSignal | undefined;
}
