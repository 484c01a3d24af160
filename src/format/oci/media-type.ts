import { NydusError } from "../../base/errors.ts";
import type { StreamFormat } from "../codec/codecs.ts";

/** The media types that this program writes, by what they are. */
export const MEDIA_TYPE = {
  ociIndex: "application/vnd.oci.image.index.v1+json",
  ociManifest: "application/vnd.oci.image.manifest.v1+json",
  ociConfig: "application/vnd.oci.image.config.v1+json",
  ociLayer: "application/vnd.oci.image.layer.v1.tar",
  ociLayerGzip: "application/vnd.oci.image.layer.v1.tar+gzip",
  ociLayerZstd: "application/vnd.oci.image.layer.v1.tar+zstd",
  ociEmpty: "application/vnd.oci.empty.v1+json",
  dockerList: "application/vnd.docker.distribution.manifest.list.v2+json",
  dockerManifest: "application/vnd.docker.distribution.manifest.v2+json",
  dockerConfig: "application/vnd.docker.container.image.v1+json",
  dockerLayer: "application/vnd.docker.image.rootfs.diff.tar",
  dockerLayerGzip: "application/vnd.docker.image.rootfs.diff.tar.gzip",
  nydusBlob: "application/vnd.oci.image.layer.nydus.blob.v1",
  nydusManifestArtifact: "application/vnd.nydus.image.manifest.v1+json",
  nydusConfig: "application/vnd.nydus.image.config.v1+json",
} as const;

/** Annotation keys that this program reads or writes. */
export const ANNOTATION = {
  refName: "org.opencontainers.image.ref.name",
  dockerReferenceType: "vnd.docker.reference.type",
  containerdImageName: "io.containerd.image.name",
  uncompressed: "containerd.io/uncompressed",
  nydusBlob: "containerd.io/snapshot/nydus-blob",
  nydusBootstrap: "containerd.io/snapshot/nydus-bootstrap",
  nydusFsVersion: "containerd.io/snapshot/nydus-fs-version",
  nydusRef: "containerd.io/snapshot/nydus-ref",
  nydusEncryptedBlob: "containerd.io/snapshot/nydus-encrypted-blob",
  nydusEmptyLayer: "containerd.io/snapshot/nydus-empty-layer",
  nydusSourceDigest: "containerd.io/snapshot/nydus-source-digest",
  nydusSourceReference: "containerd.io/snapshot/nydus-source-reference",
  nydusBuilderVersion: "containerd.io/snapshot/nydus-builder-version",
} as const;

/** The `os.features` value of Nydus manifests in old merged indexes. */
export const NYDUS_OS_FEATURE = "nydus.remoteimage.v1";

/** What a document or blob of a media type is. */
export type MediaKind = "index" | "manifest" | "schema1" | "config" | "layer" | "foreign" | "nydusBlob";

interface MediaRow {
  readonly kind: MediaKind;
  /** Of a layer: how the tar is compressed. */
  readonly format?: StreamFormat;
}

const OCI_FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar";
const DOCKER_FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar";
const SCHEMA1 = "application/vnd.docker.distribution.manifest.v1";

/** The one table of media types (image-spec media-types.md, docker/distribution manifest-v2-2, features 1.1). */
const ROWS: ReadonlyMap<string, MediaRow> = new Map<string, MediaRow>([
  [MEDIA_TYPE.ociIndex, { kind: "index" }],
  [MEDIA_TYPE.dockerList, { kind: "index" }],
  [MEDIA_TYPE.ociManifest, { kind: "manifest" }],
  [MEDIA_TYPE.dockerManifest, { kind: "manifest" }],
  [`${SCHEMA1}+json`, { kind: "schema1" }],
  [`${SCHEMA1}+prettyjws`, { kind: "schema1" }],
  [MEDIA_TYPE.ociConfig, { kind: "config" }],
  [MEDIA_TYPE.dockerConfig, { kind: "config" }],
  [MEDIA_TYPE.nydusConfig, { kind: "config" }],
  [MEDIA_TYPE.ociLayer, { kind: "layer", format: "none" }],
  [MEDIA_TYPE.ociLayerGzip, { kind: "layer", format: "gzip" }],
  [MEDIA_TYPE.ociLayerZstd, { kind: "layer", format: "zstd" }],
  [MEDIA_TYPE.dockerLayer, { kind: "layer", format: "none" }],
  [MEDIA_TYPE.dockerLayerGzip, { kind: "layer", format: "gzip" }],
  [`${MEDIA_TYPE.dockerLayer}.zstd`, { kind: "layer", format: "zstd" }],
  [OCI_FOREIGN, { kind: "foreign", format: "none" }],
  [`${OCI_FOREIGN}+gzip`, { kind: "foreign", format: "gzip" }],
  [`${OCI_FOREIGN}+zstd`, { kind: "foreign", format: "zstd" }],
  [DOCKER_FOREIGN, { kind: "foreign", format: "none" }],
  [`${DOCKER_FOREIGN}.gzip`, { kind: "foreign", format: "gzip" }],
  [MEDIA_TYPE.nydusBlob, { kind: "nydusBlob" }],
]);

/** What a media type stands for, or undefined for one that is not in the table; parameters after ";" are ignored. */
export function mediaKind(mediaType: string): MediaKind | undefined {
  return ROWS.get(essence(mediaType))?.kind;
}

/** A media type without its parameters, as a Content-Type header may have them. */
export function essence(mediaType: string): string {
  return (mediaType.split(";", 1)[0] as string).trim();
}

/**
 * How a layer's tar is compressed.
 * @throws ENOTSUP nondistributable, encrypted, or not a layer of an image
 */
export function layerFormat(mediaType: string): StreamFormat {
  const row = ROWS.get(essence(mediaType));
  if (row?.kind === "layer" && row.format !== undefined) return row.format;
  const shown = JSON.stringify(mediaType.slice(0, 200));
  const why =
    row?.kind === "foreign"
      ? "is nondistributable: its bytes are elsewhere"
      : mediaType.endsWith("+encrypted")
        ? "is encrypted"
        : "is not a tar layer";
  throw new NydusError("ENOTSUP", `Cannot read layer: media type ${shown} ${why}`);
}

/** Accept header for asking a registry for any manifest that this program reads. */
export const MANIFEST_ACCEPT = [
  MEDIA_TYPE.ociIndex,
  MEDIA_TYPE.ociManifest,
  MEDIA_TYPE.dockerList,
  MEDIA_TYPE.dockerManifest,
].join(", ");
