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
} as const;

/** Labels by name. */
export type Labels = ReadonlyMap<string, string>;
