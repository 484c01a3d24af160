import type { ImageSource, ImageTarget } from "../../content/store/store.ts";
import type { Codecs } from "../../format/codec/codecs.ts";
import type { Descriptor } from "../../format/oci/manifest.ts";
import { verifiedLayerBytes } from "../build/layer-bytes.ts";

/** Copies one blob as it is, verified on its way; what the target has is not sent again. */
export async function copyBlob(
  context: { source: ImageSource; target: ImageTarget; codecs: Codecs; signal: AbortSignal },
  descriptor: Descriptor,
): Promise<void> {
  const { source, target, codecs, signal } = context;
  if (await target.hasBlob(descriptor)) return;
  const blob = await source.openBlob(descriptor);
  try {
    await using sink = await target.newBlob();
    const watch = { hasher: codecs.sha256(), signal, onBytes: () => undefined };
    for await (const piece of verifiedLayerBytes(blob, descriptor, watch)) await sink.write(piece);
    await sink.commit(descriptor.digest, descriptor.size);
  } finally {
    await blob.close();
  }
}
