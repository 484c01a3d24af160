import { hexOf, isDigest } from "../../base/digest.ts";
import { LABELS, type Labels } from "../../format/containerd/labels.ts";
import type { Snapshot } from "./snapshot.ts";

/**
 * What a snapshot's layer is: `bootstrap` layers hold the metadata of a Nydus image and stand for the whole of it,
 * `blob` layers are data that such a bootstrap names, all others are `plain`.
 */
export type LayerKind = "plain" | "blob" | "bootstrap";

/** The kind that labels make of a layer; only that a label is there counts, as for the peers. */
export function layerKind(labels: Labels): LayerKind {
  if (labels.has(LABELS.nydusBootstrap)) return "bootstrap";
  return labels.has(LABELS.nydusBlob) ? "blob" : "plain";
}

/** Whether a snapshot is made to unpack a layer into it, and not to run something in it. */
export function isUnpacking(labels: Labels): boolean {
  return labels.has(LABELS.snapshotRef);
}

/**
 * Ids of the blobs that a blob layer may stand for: itself, and the OCI layer that it refers to.
 * @returns 64 hex digits each; none when the labels do not say
 */
export function blobIdsOf(labels: Labels): readonly string[] {
  return [LABELS.layerDigest, LABELS.nydusRef]
    .map((name) => labels.get(name) ?? "")
    .filter(isDigest)
    .map(hexOf);
}

/** A chain of parents, as what is to be mounted of it. */
export interface ChainParts {
  /** Those with files of their own, the nearest first. */
  readonly layers: readonly Snapshot[];
  /** The bootstrap that stands for all below `layers`. */
  readonly image: Snapshot | undefined;
  /** A blob that no bootstrap stands for: the chain has not all of its files. */
  readonly strayBlob: Snapshot | undefined;
}

/** Splits a chain of committed snapshots, the nearest parent first. */
export function splitChain(chain: readonly Snapshot[]): ChainParts {
  const kinds = chain.map(({ labels }) => layerKind(labels));
  const bootstrapAt = kinds.indexOf("bootstrap");
  const layers = bootstrapAt < 0 ? chain : chain.slice(0, bootstrapAt);
  return { layers, image: chain[bootstrapAt], strayBlob: layers.find((_, at) => kinds[at] === "blob") };
}
