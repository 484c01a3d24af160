import { ANNOTATION } from "../oci/media-type.ts";

/** Labels that containerd, the peers and this program put on layers and snapshots. They are data, and never trusted. */
export const LABELS = {
  /** The chain id that a snapshot is to be committed as: it may be answered as existing already. */
  snapshotRef: "containerd.io/snapshot.ref",
  /** Image name that a layer was pulled by. */
  imageRef: "containerd.io/snapshot/cri.image-ref",
  /** Digest of the layer in its manifest. */
  layerDigest: "containerd.io/snapshot/cri.layer-digest",
  /** On a layer that is a Nydus blob: nothing of it is unpacked. */
  nydusBlob: ANNOTATION.nydusBlob,
  /** On the layer that holds the bootstrap, the last one of its image. */
  nydusBootstrap: ANNOTATION.nydusBootstrap,
  /** On a blob layer of an image that refers to OCI layers: the digest of the one that its data is in. */
  nydusRef: ANNOTATION.nydusRef,
  /** `CONTAINER ID:HOST ID:SIZE` of user ids, comma-separated. */
  uidMapping: "containerd.io/snapshot/uidmapping",
  gidMapping: "containerd.io/snapshot/gidmapping",
  /** Digests of a layer and of all those above it, comma-separated. */
  imageLayers: "containerd.io/snapshot/cri.image-layers",
  manifestDigest: "containerd.io/snapshot/cri.manifest-digest",
  // What containerd itself acts upon (containerd docs/garbage-collection.md, pkg/labels).
  gcExpire: "containerd.io/gc.expire",
  /** The start of a name. */
  gcContent: "containerd.io/gc.ref.content.",
  /** The start of a name, which the snapshotter's ends. */
  gcSnapshot: "containerd.io/gc.ref.snapshot.",
  uncompressed: ANNOTATION.uncompressed,
  /** The start of a name, which a registry's ends. */
  distributionSource: "containerd.io/distribution.source.",
} as const;

/** Labels by name, as others have sent them. */
export type Labels = ReadonlyMap<string, string>;

/** Labels that this program sends, by name. */
export type LabelFields = Readonly<Record<string, string>>;
