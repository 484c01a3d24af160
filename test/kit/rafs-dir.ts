import { readFileSync } from "node:fs";
import { join } from "node:path";
import { openFileSource } from "../../src/content/store/file-source.ts";
import { openRafs } from "../../src/format/rafs/image.ts";
import type { ReadableImage } from "../../src/operation/image/unit-batches.ts";

/** An image of `merged.boot` and `blobs/<id>`, as nydus-image leaves them; for blobs without batches. */
export async function openRafsDir(dir: string): Promise<ReadableImage & AsyncDisposable> {
  const rafs = openRafs(new Uint8Array(readFileSync(join(dir, "merged.boot"))));
  const blobs = await Promise.all(
    rafs.blobs.map(async ({ id, index }) => ({
      digest: `sha256:${id}`,
      chunks: rafs.chunkMap(index),
      source: await openFileSource(join(dir, "blobs", id)),
    })),
  );
  return {
    rafs,
    blobs,
    [Symbol.asyncDispose]: async () => {
      for (const blob of blobs) await blob.source.close();
    },
  };
}
