import type { Digest } from "../../base/digest.ts";
import type { Descriptor } from "../../format/oci/manifest.ts";
import type { Reference } from "../../format/oci/reference.ts";
import type { ContainerdPlace } from "../containerd/place.ts";
import type { RegistryOptions } from "../registry/registry-options.ts";
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

/** A blob on its way into a target that keeps what came of it, should the transfer break. It verifies the whole. */
export interface ResumedSink extends AsyncDisposable {
  /** Bytes that the sink holds: those from here on are wanted. */
  readonly sizeBytes: number;
  /** Appends; keeps no reference to `data`. @throws ENOSPC; EBADMSG more than the blob has */
  write(data: Uint8Array): Promise<void>;
  /** Makes the blob visible. @throws EBADMSG another size or digest: what the sink held is gone then */
  commit(): Promise<void>;
}

/** An ability of targets on this machine: a blob goes on where an earlier transfer of it has ended. */
export interface ResumingTarget extends ImageTarget {
  /** @returns undefined when the blob is there, perhaps because another process has brought it meanwhile */
  resumeBlob(descriptor: Pick<Descriptor, "digest" | "size">, signal: AbortSignal): Promise<ResumedSink | undefined>;
}

/** Whether a target goes on with transfers that broke. */
export function canResume(target: ImageTarget): target is ResumingTarget {
  return typeof (target as Partial<ResumingTarget>).resumeBlob === "function";
}

/** What stores need besides the image's name. */
export interface StoreContext {
  /** Directory of all state; temporary files go under it. */
  readonly root: string;
  /** Ends what is under way. */
  readonly signal?: AbortSignal | undefined;
  /** How registries are reached. */
  readonly registry?: RegistryOptions | undefined;
  /** Which containerd is meant, and whose images in it. */
  readonly containerd?: ContainerdPlace | undefined;
  /** Of a target: the registry's image that is copied there as it is. */
  readonly origin?: Reference | undefined;
}
