import { readFileSync } from "node:fs";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { hexOf } from "../../src/base/digest.ts";
import { type Descriptor, parseIndex, parseManifest } from "../../src/format/oci/manifest.ts";
import { ANNOTATION } from "../../src/format/oci/media-type.ts";

/** The bytes of a blob of the golden layout. */
export function goldenBlob(golden: string, descriptor: Pick<Descriptor, "digest">): Uint8Array {
  return readFileSync(join(golden, "images", "blobs", "sha256", hexOf(descriptor.digest)));
}

/** The descriptor of a golden image by its ref. */
export function goldenImage(golden: string, ref: string): Descriptor {
  const { manifests } = parseIndex(readFileSync(join(golden, "images", "index.json")));
  const found = manifests.find(({ annotations }) => annotations?.[ANNOTATION.refName] === ref);
  if (found === undefined) throw new Error(`no golden image ${ref}`);
  return found;
}

/** The tars of a golden image with gzip layers, the bottom layer first. */
export function goldenLayers(golden: string, ref: string): readonly Uint8Array[] {
  const descriptor = goldenImage(golden, ref);
  const manifest = parseManifest(goldenBlob(golden, descriptor), descriptor.mediaType);
  return manifest.layers.map((layer) => gunzipSync(goldenBlob(golden, layer)));
}
