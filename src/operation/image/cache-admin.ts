import { join } from "node:path";
import { type Digest, digestOfHex, hexOf } from "../../base/digest.ts";
import { asNydusError, inPlace, NydusError } from "../../base/errors.ts";
import { type CacheReport, type CollectedCaches, collectCaches, listCaches } from "../../content/cache/admin.ts";
import { type VerifiedCache, verifyCache } from "../../content/cache/verify-cache.ts";
import { openCodecPool } from "../../os/codec-threads.ts";
import { listMounts } from "../mount/mount-record.ts";

/** Where caches are below a state directory. */
export function cacheDir(root: string): string {
  return join(root, "cache");
}

/** A cache and the mounts that read through it. */
export interface CacheInfo extends CacheReport {
  readonly mountpoints: readonly string[];
}

/** The caches of a state directory, by digest. @throws EPERM, EIO */
export async function listStoredCaches(root: string): Promise<readonly CacheInfo[]> {
  const mounts = listMounts(root).filter(({ state }) => state !== "dead");
  return (await listCaches(cacheDir(root))).map((report) => ({
    ...report,
    mountpoints: mounts.flatMap(({ blobs, mountpoint }) => (blobs?.includes(hexOf(report.digest)) ? [mountpoint] : [])),
  }));
}

/** A cache that was checked. */
export interface CacheVerification extends VerifiedCache {
  readonly digest: Digest;
}

/**
 * Checks caches, and drops the chunks that are damaged, each cache as it is done.
 * @param wanted first digits of the digests; all caches without any
 * @throws ENOENT no such cache; EIO; ECANCELED
 */
export async function* verifyCaches(
  root: string,
  { wanted, signal }: { readonly wanted: readonly string[]; readonly signal: AbortSignal },
): AsyncGenerator<CacheVerification> {
  const dir = cacheDir(root);
  const chosen = chooseCaches(
    (await listCaches(dir)).map(({ digest }) => hexOf(digest)),
    wanted,
  );
  await using pool = openCodecPool();
  for (const id of chosen) {
    const digest = digestOfHex(id);
    const verified = await inPlace({ digest }, () => verifyCache({ dir, id }, { pool, signal }));
    yield { digest, ...verified };
  }
}

function chooseCaches(ids: readonly string[], wanted: readonly string[]): readonly string[] {
  const prefixes = wanted.map((text) => text.replace(/^sha256:/, ""));
  for (const [i, prefix] of prefixes.entries()) {
    if (prefix.length > 0 && ids.some((id) => id.startsWith(prefix))) continue;
    throw new NydusError("ENOENT", `Cannot verify cache ${wanted[i]}: there is none`);
  }
  return prefixes.length === 0 ? ids : ids.filter((id) => prefixes.some((prefix) => id.startsWith(prefix)));
}

/** Removes caches until they take at most `maxBytes`; see `collectCaches`. */
export async function collectStoredCaches(root: string, maxBytes: number): Promise<CollectedCaches> {
  try {
    return await collectCaches(cacheDir(root), maxBytes);
  } catch (error) {
    throw asNydusError(error, { path: cacheDir(root) });
  }
}
