import type { ImageSource } from "../../content/store/store.ts";
import {
  type Descriptor,
  type Manifest,
  type Platform,
  parseManifest,
  parseManifestOrIndex,
} from "../../format/oci/manifest.ts";
import { isNydusManifest, selectPlatform } from "../../format/oci/platform.ts";

/** An image's manifest, and what it was read as. */
export interface FoundManifest {
  readonly descriptor: Descriptor;
  readonly manifest: Manifest;
}

/**
 * The manifest of an image: the top one, or of an index the one for a platform.
 * @throws ENOENT no such platform; EUCLEAN, EBADMSG damaged
 */
export async function readManifestOf(source: ImageSource, platform: Platform): Promise<FoundManifest> {
  const root = await source.root();
  const parsed = parseManifestOrIndex(root.bytes, root.descriptor.mediaType);
  if (parsed.kind === "manifest") return { descriptor: root.descriptor, manifest: parsed.manifest };
  const descriptor = selectPlatform(parsed.index.manifests, platform);
  return { descriptor, manifest: parseManifest(await source.readBlob(descriptor), descriptor.mediaType) };
}

/** A manifest as its bytes, which are not parsed yet. */
export interface ManifestBytes {
  readonly descriptor: Descriptor;
  readonly bytes: Uint8Array;
}

/**
 * The manifest that runs: the top one, or of an index the Nydus one for a platform before a plain one.
 * @throws ENOENT no such platform; EUCLEAN, EBADMSG damaged
 */
export async function chooseManifest(source: ImageSource, platform: Platform): Promise<ManifestBytes> {
  const top = await source.root();
  const parsed = parseManifestOrIndex(top.bytes, top.descriptor.mediaType);
  if (parsed.kind === "manifest") return top;
  const descriptor = selectPlatform(parsed.index.manifests, platform, isNydusManifest);
  return { descriptor, bytes: await source.readBlob(descriptor) };
}
