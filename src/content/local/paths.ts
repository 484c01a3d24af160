import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { type Digest, hexOf, parseDigest } from "../../base/digest.ts";
import { asNydusError } from "../../base/errors.ts";

/** Where the image store's parts are below the state directory. */
export interface StorePaths {
  /** The store's directory, which is locked for changes. */
  readonly dir: string;
  /** Whole blobs by their 64 hex digits. */
  readonly blobs: string;
  /** Blobs on their way: `<hex>.part`, and staged files. */
  readonly ingest: string;
  /** One JSON file for each image name. */
  readonly images: string;
  /** What living processes use: one JSON file each. */
  readonly leases: string;
}

/** The parts of the store of a state directory. */
export function storePaths(root: string): StorePaths {
  const dir = join(root, "content");
  return {
    dir,
    blobs: join(dir, "blobs", "sha256"),
    ingest: join(dir, "ingest"),
    images: join(dir, "images"),
    leases: join(dir, "leases"),
  };
}

/** Makes a directory of the store. @throws EPERM, ENOSPC */
export async function makeStoreDir(path: string): Promise<void> {
  try {
    await mkdir(path, { recursive: true, mode: 0o700 });
  } catch (error) {
    throw asNydusError(error, { path });
  }
}

/** File of a blob. @throws EINVAL a digest that is none */
export function storedBlobPath(paths: StorePaths, digest: Digest): string {
  return join(paths.blobs, hexOf(parseDigest(digest)));
}
