import type { Digest } from "../../base/digest.ts";
import { parseConfig, patchConfig } from "../../format/oci/config.ts";
import { type Descriptor, type Manifest, serializeManifest } from "../../format/oci/manifest.ts";
import { ANNOTATION, MEDIA_TYPE } from "../../format/oci/media-type.ts";

/** The RAFS version of every image that this program writes. */
const FS_VERSION = "6";

/** The history entry of the bootstrap layer, word for word as nydusify writes it: nydus-snapshotter's tools look for it. */
const BOOTSTRAP_HISTORY = { created_by: "Nydus Converter", comment: "Nydus Bootstrap Layer" } as const;

/** The parts of a converted image, all of them in the target already. */
export interface ConvertedParts {
  /** The blobs in the order of the source's layers: digest and bytes. */
  readonly blobs: readonly { readonly digest: Digest; readonly sizeBytes: number }[];
  readonly bootstrap: { readonly digest: Digest; readonly sizeBytes: number; readonly diffId: Digest };
}

/** Annotations beyond those that every converted image has. */
export interface ExtraAnnotations {
  /** Where the source lay; makes the image's digest depend on it. */
  readonly sourceReference?: string;
  readonly builderVersion?: string;
}

/** The config of a converted image: the source's, byte for byte but for `rootfs` and `history`. */
export function convertedConfig(sourceConfig: Uint8Array, parts: ConvertedParts): Uint8Array {
  const { history = [] } = parseConfig(sourceConfig);
  return patchConfig(sourceConfig, {
    // A blob is its own uncompressed form: its diff id is its digest.
    diffIds: [...parts.blobs.map((blob) => blob.digest), parts.bootstrap.diffId],
    history: [...history, BOOTSTRAP_HISTORY],
  });
}

/** The manifest of a converted image: blob layers in the order of the source, the bootstrap layer last. */
export function convertedManifest(
  source: { readonly manifest: Manifest; readonly digest: Digest },
  config: Descriptor,
  parts: ConvertedParts,
  extra: ExtraAnnotations,
): Uint8Array {
  const blobLayers = parts.blobs.map(
    (blob): Descriptor => ({
      mediaType: MEDIA_TYPE.nydusBlob,
      digest: blob.digest,
      size: blob.sizeBytes,
      annotations: { [ANNOTATION.nydusBlob]: "true" },
    }),
  );
  const bootstrapLayer: Descriptor = {
    mediaType: MEDIA_TYPE.ociLayerGzip,
    digest: parts.bootstrap.digest,
    size: parts.bootstrap.sizeBytes,
    annotations: { [ANNOTATION.nydusBootstrap]: "true", [ANNOTATION.nydusFsVersion]: FS_VERSION },
  };
  return serializeManifest({
    schemaVersion: 2,
    mediaType: MEDIA_TYPE.ociManifest,
    config,
    layers: [...blobLayers, bootstrapLayer],
    annotations: {
      ...source.manifest.annotations,
      [ANNOTATION.nydusFsVersion]: FS_VERSION,
      [ANNOTATION.nydusSourceDigest]: source.digest,
      ...(extra.sourceReference === undefined ? {} : { [ANNOTATION.nydusSourceReference]: extra.sourceReference }),
      ...(extra.builderVersion === undefined ? {} : { [ANNOTATION.nydusBuilderVersion]: extra.builderVersion }),
    },
  });
}
