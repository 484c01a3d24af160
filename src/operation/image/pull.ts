import type { Digest } from "../../base/digest.ts";
import { originName, storeName } from "../../content/local/image-records.ts";
import { openLocalTarget } from "../../content/local/local-target.ts";
import { openSource } from "../../content/store/open-store.ts";
import type { StoreContext } from "../../content/store/store.ts";
import { formatReference, parseReference } from "../../format/oci/reference.ts";
import { parseImageName } from "../../format/oci/transport.ts";
import { loadCodecs } from "../../os/codecs.ts";
import { type CopiedLayer, type CopyOptions, copyImage } from "./copy.ts";

/** A pull as a user asks for it. */
export interface PullRequest extends CopyOptions, StoreContext {
  /** Where the image is: a name as containers-transports(5) has them. */
  readonly image: string;
  /** What it is to be called in the store; by default what it is called where it is. */
  readonly as?: string | undefined;
  readonly signal: AbortSignal;
}

/** What a pull has brought. */
export interface PullSummary {
  /** In the store. */
  readonly name: string;
  readonly digest: Digest;
  readonly mediaType: string;
  readonly blobs: readonly CopiedLayer[];
  readonly fetchedBytes: number;
  /** Bytes of blobs, or of their beginnings, that were there before. */
  readonly reusedBytes: number;
}

/**
 * Brings an image into the store of the state directory.
 * @throws as `openSource` and `copyImage`; ENOSPC, EPERM; what came of blobs until a connection broke stays
 */
export async function pullImage(request: PullRequest): Promise<PullSummary> {
  const { root, signal } = request;
  const image = parseImageName(request.image);
  const name = request.as === undefined ? storeName(image) : formatReference(parseReference(request.as));
  await using source = await openSource(image, request);
  await using target = await openLocalTarget({ root, name, from: originName(image) });
  const codecs = await loadCodecs();
  const { root: top, blobs } = await copyImage({ source, target, codecs, signal }, request);
  const sum = (of: (blob: CopiedLayer) => number): number => blobs.reduce((total, blob) => total + of(blob), 0);
  return {
    name,
    digest: top.digest,
    mediaType: top.mediaType,
    blobs,
    fetchedBytes: sum((blob) => blob.fetchedBytes),
    reusedBytes: sum((blob) => Math.max(0, blob.sizeBytes - blob.fetchedBytes)),
  };
}
