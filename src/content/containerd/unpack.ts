import { randomBytes } from "node:crypto";
import { type Digest, isDigest } from "../../base/digest.ts";
import { asNydusError, inPlace, NydusError } from "../../base/errors.ts";
import { DIFF_SERVICE } from "../../format/containerd/diff-schema.ts";
import { chainIds, snapshotLabels } from "../../format/containerd/image-labels.ts";
import { LABELS, type LabelFields } from "../../format/containerd/labels.ts";
import { SNAPSHOTS_SERVICE } from "../../format/containerd/snapshots-schema.ts";
import type { Descriptor, Manifest } from "../../format/oci/manifest.ts";
import { mediaKind } from "../../format/oci/media-type.ts";
import type { Message } from "../../os/grpc.ts";
import { sha256Digest } from "../store/verify.ts";
import type { Containerd } from "./connection.ts";
import { addLabels } from "./content-labels.ts";

/** A snapshot of our name may have become another client's between two calls; then the next try finds it. */
const PREPARE_TRIES = 3;
/** How long a snapshotter may take to answer, and containerd to unpack a layer. */
const SNAPSHOT_TIMEOUT_MS = 5 * 60_000;
const APPLY_TIMEOUT_MS = 60 * 60_000;
const REMOVE_TIMEOUT_MS = 30_000;

/** An image of containerd's that is to become snapshots. */
export interface UnpackedImage {
  /** The image's name: where snapshotters may fetch its data from. */
  readonly name: string;
  readonly manifest: Manifest;
  readonly manifestDigest: Digest;
  /** Of the image's config, as many as layers. */
  readonly diffIds: readonly Digest[];
}

/** Where it is unpacked to. */
export interface UnpackOptions {
  readonly snapshotter: string;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Makes an image's snapshots as containerd does when it pulls: each layer is prepared with the labels of a pull, and
 * unpacked by containerd unless the snapshotter says that it needs no unpacking. The config keeps the last snapshot.
 * Whoever calls holds a lease.
 * @returns the name of the last snapshot, in which containers start
 * @throws EUCLEAN layers and diff ids do not match; EBADMSG a layer is not what the config says; ENOTSUP the snapshotter
 *   does not take Nydus blobs; as {@link Containerd.call}
 */
export async function unpackImage(
  containerd: Containerd,
  image: UnpackedImage,
  options: UnpackOptions,
): Promise<Digest> {
  const { manifest, diffIds } = image;
  const chain = chainIds(diffIds, (text) => sha256Digest(new TextEncoder().encode(text)));
  const top = chain.at(-1);
  if (top === undefined || diffIds.length !== manifest.layers.length) {
    const found = `${manifest.layers.length} layers and ${diffIds.length} diff ids`;
    throw new NydusError("EUCLEAN", `Cannot unpack image ${image.name}: it has ${found}`);
  }
  for (const [index, layer] of manifest.layers.entries()) {
    const [chainId, diffId] = [chain[index] as Digest, diffIds[index] as Digest];
    const labels = snapshotLabels({ image: image.name, ...image, index, chainId });
    const step: LayerStep = { layer, diffId, chainId, parent: chain[index - 1] ?? "", labels };
    await inPlace({ digest: layer.digest }, () => unpackLayer(containerd, step, options));
  }
  const keeps = { [`${LABELS.gcSnapshot}${options.snapshotter}`]: top };
  await addLabels(containerd, manifest.config.digest, keeps, options.signal);
  return top;
}

interface LayerStep {
  readonly layer: Descriptor;
  readonly diffId: Digest;
  readonly chainId: Digest;
  /** Chain id of the snapshot below, or "". */
  readonly parent: string;
  readonly labels: LabelFields;
}

async function unpackLayer(containerd: Containerd, step: LayerStep, options: UnpackOptions): Promise<void> {
  const prepared = await prepareLayer(containerd, step, options);
  if (prepared === undefined) return;
  const { snapshotter, signal } = options;
  const { key, mounts } = prepared;
  try {
    await applyLayer(containerd, step, mounts, signal);
    const request = { snapshotter, name: step.chainId, key, labels: step.labels };
    await containerd.call(SNAPSHOTS_SERVICE, "Commit", request, { signal, timeoutMs: SNAPSHOT_TIMEOUT_MS });
  } catch (error) {
    await removeSnapshot(containerd, snapshotter, key);
    // Another client was faster.
    if (asNydusError(error).code !== "EEXIST") throw error;
  }
  await addLabels(containerd, step.layer.digest, { [LABELS.uncompressed]: step.diffId }, signal);
}

interface PreparedLayer {
  readonly key: string;
  readonly mounts: readonly Message[];
}

/** @returns undefined when the snapshot is there and needs no unpacking */
async function prepareLayer(
  containerd: Containerd,
  { chainId, parent, labels }: LayerStep,
  { snapshotter, signal }: UnpackOptions,
): Promise<PreparedLayer | undefined> {
  const options = { signal, timeoutMs: SNAPSHOT_TIMEOUT_MS };
  for (let tries = 1; ; tries++) {
    const key = `extract-${process.hrtime.bigint() % 1_000_000_000n}-${randomBytes(3).toString("base64url")} ${chainId}`;
    try {
      const request = { snapshotter, key, parent, labels };
      const { mounts } = await containerd.call(SNAPSHOTS_SERVICE, "Prepare", request, options);
      return { key, mounts: (mounts ?? []) as Message[] };
    } catch (error) {
      if (asNydusError(error).code !== "EEXIST" || tries >= PREPARE_TRIES) throw error;
    }
    if (await isThere(containerd, snapshotter, chainId)) return undefined;
  }
}

async function isThere(containerd: Containerd, snapshotter: string, key: string): Promise<boolean> {
  try {
    await containerd.call(SNAPSHOTS_SERVICE, "Stat", { snapshotter, key });
    return true;
  } catch (error) {
    if (asNydusError(error).code === "ENOENT") return false;
    throw error;
  }
}

async function applyLayer(
  containerd: Containerd,
  { layer, diffId }: LayerStep,
  mounts: readonly Message[],
  signal: AbortSignal | undefined,
): Promise<void> {
  if (mediaKind(layer.mediaType) === "nydusBlob") {
    throw new NydusError("ENOTSUP", "Cannot unpack layer: it is a Nydus blob, which this snapshotter does not take");
  }
  const { mediaType, digest, size, annotations = {} } = layer;
  const request = { diff: { mediaType, digest, size, annotations }, mounts };
  const { applied } = await containerd.call(DIFF_SERVICE, "Apply", request, { signal, timeoutMs: APPLY_TIMEOUT_MS });
  const found: unknown = (applied as Message | null)?.["digest"];
  if (found === diffId) return;
  const shown = typeof found === "string" && isDigest(found) ? found : "none";
  throw new NydusError("EBADMSG", `Cannot unpack layer: its diff id is ${shown}, the config has ${diffId}`);
}

/** What cannot be removed goes with the lease. */
async function removeSnapshot(containerd: Containerd, snapshotter: string, key: string): Promise<void> {
  const options = { timeoutMs: REMOVE_TIMEOUT_MS };
  await containerd.call(SNAPSHOTS_SERVICE, "Remove", { snapshotter, key }, options).catch(() => undefined);
}
