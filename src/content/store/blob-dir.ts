import { join } from "node:path";
import { digestOfHex } from "../../base/digest.ts";
import { NydusError } from "../../base/errors.ts";
import { openFileSource } from "./file-source.ts";
import type { ByteSource } from "./source.ts";

/**
 * A blob of a directory whose files are named by their blobs' ids, as nydus-image writes them with `--blob-dir`.
 * @param id 64 hex digits
 * @throws EINVAL an id that is none; ENOENT with the id; EIO
 */
export async function openBlobOfDir(dir: string, id: string): Promise<ByteSource> {
  const digest = digestOfHex(id);
  try {
    return await openFileSource(join(dir, id));
  } catch (error) {
    if (!(error instanceof NydusError)) throw error;
    if (error.code !== "ENOENT") throw error.within({ digest });
    throw new NydusError("ENOENT", "Cannot open blob: the blob directory has no file of its id", { digest, path: dir });
  }
}
