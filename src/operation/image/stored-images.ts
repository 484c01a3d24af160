import type { Digest } from "../../base/digest.ts";
import { asNydusError } from "../../base/errors.ts";
import { hasStored, readStored } from "../../content/local/blobs.ts";
import { type ImageRecord, listRecords } from "../../content/local/image-records.ts";
import { type StorePaths, storePaths } from "../../content/local/paths.ts";
import { readStoredImage, type StoredManifest } from "../../content/local/stored-image.ts";
import { type ImageConfig, parseConfig } from "../../format/oci/config.ts";
import { ANNOTATION } from "../../format/oci/media-type.ts";
import { formatPlatform, isAttestation } from "../../format/oci/platform.ts";

/** An image of the store for one platform. */
export interface StoredImageReport {
  /** In full: `docker.io/library/alpine:latest`. */
  readonly name: string;
  /** Of the top manifest or index: what the registry calls the image. */
  readonly digest: Digest;
  readonly manifestDigest: Digest;
  readonly platform: string;
  readonly kind: "nydus" | "oci";
  /** `lazy`: some layers are not in the store; a mount fetches what is read of them. */
  readonly state: "complete" | "lazy";
  /** Bytes of the image: manifest, config and layers. */
  readonly sizeBytes: number;
  /** Of these in the store. */
  readonly storedBytes: number;
  /** When the image was made, by its config. */
  readonly createdAt?: string;
  readonly pulledAt: string;
}

/** The images of the store. */
export interface StoredImages {
  readonly images: readonly StoredImageReport[];
  /** Records that cannot be read, and names of images whose manifests cannot be. */
  readonly damaged: readonly string[];
}

/** Lists the images of the store, by name; those of an index one by one. @throws EPERM, EIO */
export async function listStoredImages(root: string): Promise<StoredImages> {
  const paths = storePaths(root);
  const { records, damaged: badRecords } = await listRecords(paths);
  const images: StoredImageReport[] = [];
  const damaged = [...badRecords];
  for (const record of records) {
    const stored = await readStoredImage(paths, record);
    if (stored.manifests.length === 0) damaged.push(record.name);
    for (const one of stored.manifests) {
      if (!isAttestation(one.descriptor)) images.push(await report(paths, record, one));
    }
  }
  return { images, damaged };
}

async function report(paths: StorePaths, record: ImageRecord, stored: StoredManifest): Promise<StoredImageReport> {
  const { descriptor, manifest } = stored;
  const config = await readConfig(paths, stored);
  const platform = descriptor.platform ?? config?.platform;
  const isNydus = manifest.layers.at(-1)?.annotations?.[ANNOTATION.nydusBootstrap] === "true";
  const parts = new Map([manifest.config, ...manifest.layers].map((part) => [part.digest, part]));
  let [sizeBytes, storedBytes] = [descriptor.size, descriptor.size];
  for (const part of parts.values()) {
    sizeBytes += part.size;
    if (await hasStored(paths, part)) storedBytes += part.size;
  }
  return {
    name: record.name,
    digest: record.root.digest,
    manifestDigest: descriptor.digest,
    platform: platform === undefined ? "unknown" : formatPlatform(platform),
    kind: isNydus ? "nydus" : "oci",
    state: storedBytes === sizeBytes ? "complete" : "lazy",
    sizeBytes,
    storedBytes,
    ...(config?.created === undefined ? {} : { createdAt: config.created }),
    pulledAt: record.pulledAt,
  };
}

/** @returns undefined for a config that is not there, or is no image's */
async function readConfig(paths: StorePaths, { manifest }: StoredManifest): Promise<ImageConfig | undefined> {
  try {
    return parseConfig(await readStored(paths, manifest.config));
  } catch (error) {
    if (["EPERM", "EIO"].includes(asNydusError(error).code)) throw error;
    return undefined;
  }
}
