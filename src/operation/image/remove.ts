import { NydusError } from "../../base/errors.ts";
import { findRecord, type ImageRecord, listRecords, removeRecord } from "../../content/local/image-records.ts";
import { type StorePaths, storePaths } from "../../content/local/paths.ts";
import { digestsOf, readStoredImage } from "../../content/local/stored-image.ts";
import { type Swept, sweepStore } from "../../content/local/sweep.ts";
import { listMounts } from "../mount/mount-record.ts";

/** What removing images has removed. */
export interface RemovedImages {
  readonly images: readonly ImageRecord[];
  readonly swept: readonly Swept[];
}

/**
 * Removes an image's name from the store, and everything that only it needed.
 * @param text its name, or the first digits of its digest
 * @param force also while it is mounted: what the mount uses stays until the mount ends
 * @throws ENOENT no such image; EBUSY it is mounted; EPERM, EIO
 */
export async function removeImage(root: string, text: string, force: boolean): Promise<RemovedImages> {
  const paths = storePaths(root);
  const record = await findRecord(paths, text, true);
  if (record === undefined) {
    throw new NydusError("ENOENT", `Cannot remove image ${text}: it is not in the image store`);
  }
  const mountpoint = (await mountedRecords(root, paths)).get(record.name);
  if (mountpoint !== undefined && !force) {
    throw new NydusError("EBUSY", `Cannot remove image ${record.name}: it is mounted`, { path: mountpoint });
  }
  const only = digestsOf(record, await readStoredImage(paths, record));
  await removeRecord(paths, record.name);
  return { images: [record], swept: await sweepStore(root, { only }) };
}

/**
 * Removes what no image of the store and no living process needs.
 * @param all also the images that are not mounted
 * @throws EUCLEAN a damaged record; EBUSY, EPERM, EIO
 */
export async function pruneStore(root: string, all: boolean): Promise<RemovedImages> {
  const paths = storePaths(root);
  const images: ImageRecord[] = [];
  if (all) {
    const mounted = await mountedRecords(root, paths);
    const { records } = await listRecords(paths);
    images.push(...records.filter(({ name }) => !mounted.has(name)));
    for (const { name } of images) await removeRecord(paths, name);
  }
  return { images, swept: await sweepStore(root) };
}

/** Names of the images that are mounted, or were when their server died, each with a mount point. */
async function mountedRecords(root: string, paths: StorePaths): Promise<ReadonlyMap<string, string>> {
  const mounted = new Map<string, string>();
  for (const { image, mountpoint } of listMounts(root)) {
    const record = await findRecord(paths, image).catch(() => undefined); // a bootstrap's path is no image's name
    if (record !== undefined) mounted.set(record.name, mountpoint);
  }
  return mounted;
}
