import { copyFileSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** An image of the golden set as a snapshotter has it: its bootstrap layer unpacked, its blobs elsewhere. */
export interface UnpackedImage {
  readonly dir: string;
  /** Blobs by their ids. */
  readonly blobs: ReadonlyMap<string, Buffer>;
}

/**
 * Unpacks a variant of the golden set, as containerd unpacks a bootstrap layer.
 * @param rafs directory of the variant: `merged.boot` and `blobs`
 * @param name of the bootstrap in the layer
 */
export function unpackImage(rafs: string, dir: string, name = "image/image.boot"): UnpackedImage {
  mkdirSync(join(dir, name, ".."), { recursive: true });
  copyFileSync(join(rafs, "merged.boot"), join(dir, name));
  const ids = readdirSync(join(rafs, "blobs")).filter((one) => /^[0-9a-f]{64}$/.test(one));
  return { dir, blobs: new Map(ids.map((id) => [id, readFileSync(join(rafs, "blobs", id))])) };
}
