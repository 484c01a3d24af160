import { stat } from "node:fs/promises";
import { asNydusError, NydusError } from "../../base/errors.ts";
import type { Descriptor } from "../../format/oci/manifest.ts";
import { type FileSource, openFileSource } from "../store/file-source.ts";
import { checkSmall, verifyContent } from "../store/verify.ts";
import { type StorePaths, storedBlobPath } from "./paths.ts";

/** What names a blob. */
export type BlobName = Pick<Descriptor, "digest" | "size">;

/** Whether the store holds a blob, whole: blobs appear there complete and verified. @throws EINVAL, EPERM, EIO */
export async function hasStored(paths: StorePaths, blob: BlobName): Promise<boolean> {
  const path = storedBlobPath(paths, blob.digest);
  try {
    const found = await stat(path);
    return found.isFile() && found.size === blob.size;
  } catch (error) {
    if (asNydusError(error).code === "ENOENT") return false;
    throw asNydusError(error, { digest: blob.digest, path });
  }
}

/** Opens a blob of the store. @throws ENOENT; EUCLEAN another size */
export async function openStored(paths: StorePaths, blob: BlobName): Promise<FileSource> {
  try {
    return await openFileSource(storedBlobPath(paths, blob.digest), blob.size);
  } catch (error) {
    const failure = asNydusError(error, { digest: blob.digest });
    if (failure.code !== "ENOENT") throw failure;
    throw new NydusError("ENOENT", "Cannot open blob: the image store does not hold it", { digest: blob.digest });
  }
}

/** Small content of the store, verified. @throws ENOENT; EBADMSG; EUCLEAN above the limit */
export async function readStored(paths: StorePaths, blob: BlobName, limitBytes?: number): Promise<Uint8Array> {
  checkSmall(blob, limitBytes);
  const source = await openStored(paths, blob);
  try {
    return verifyContent(blob, await source.readAt({ start: 0, end: source.sizeBytes }));
  } finally {
    await source.close();
  }
}
