import type { Digest } from "../../base/digest.ts";
import { NydusError } from "../../base/errors.ts";
import { type Descriptor, type Manifest, parseManifestOrIndex } from "../../format/oci/manifest.ts";
import { hasStored, readStored } from "./blobs.ts";
import type { ImageRecord } from "./image-records.ts";
import type { StorePaths } from "./paths.ts";

/** A manifest that the store holds. */
export interface StoredManifest {
  /** As its index names it; of an image without index the record's. */
  readonly descriptor: Descriptor;
  readonly manifest: Manifest;
}

/** What the store holds of an image. */
export interface StoredImage {
  /** Of the images of an index those whose manifests are there. */
  readonly manifests: readonly StoredManifest[];
  /** Manifests that are there and cannot be read. */
  readonly damaged: readonly Digest[];
}

/** Reads an image's manifests as far as the store has them. @throws EPERM, EIO */
export async function readStoredImage(paths: StorePaths, record: ImageRecord): Promise<StoredImage> {
  const manifests: StoredManifest[] = [];
  const damaged: Digest[] = [];
  const read = async (descriptor: Descriptor): Promise<void> => {
    if (!(await hasStored(paths, descriptor))) return;
    try {
      const bytes = await readStored(paths, descriptor);
      const parsed = parseManifestOrIndex(bytes, descriptor.mediaType);
      if (parsed.kind === "manifest") {
        manifests.push({ descriptor, manifest: parsed.manifest });
      } else if (descriptor === record.root) {
        for (const child of parsed.index.manifests) await read(child);
      }
    } catch (error) {
      if (!isDamage(error)) throw error;
      damaged.push(descriptor.digest);
    }
  };
  await read(record.root);
  return { manifests, damaged };
}

function isDamage(error: unknown): boolean {
  return error instanceof NydusError && ["EBADMSG", "EUCLEAN", "ENOTSUP", "ENOENT"].includes(error.code);
}

/** Every digest that an image needs to stay: of its documents, its configs and its layers, there or not. */
export function digestsOf(record: ImageRecord, image: StoredImage): Set<Digest> {
  const digests = new Set<Digest>([record.root.digest, ...image.damaged]);
  for (const { descriptor, manifest } of image.manifests) {
    digests.add(descriptor.digest);
    for (const { digest } of [manifest.config, ...manifest.layers]) digests.add(digest);
  }
  return digests;
}
