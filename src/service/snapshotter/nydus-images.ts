import { lstat } from "node:fs/promises";
import { asNydusError, formatError, inPlace, NydusError } from "../../base/errors.ts";
import { BOOTSTRAP_LIMITS } from "../../operation/image/bootstrap-store.ts";
import { findUnpackedBootstrap } from "../../operation/image/open-bootstrap-dir.ts";
import { sha256OfUnpacked, type UnpackedFile } from "../../operation/image/open-unpacked.ts";
import type { ImageMounts } from "./image-mounts.ts";
import { KeyLock } from "./key-lock.ts";
import { blobIdsOf, layerKind, splitChain } from "./layer-kind.ts";
import type { Metastore } from "./metastore.ts";
import type { Snapshot } from "./snapshot.ts";
import type { Owner, SnapshotDirs } from "./snapshot-dirs.ts";

/** What {@link NydusImages} is made of. */
export interface NydusImagesOptions {
  readonly metastore: Metastore;
  readonly dirs: SnapshotDirs;
  readonly mounts: ImageMounts;
  readonly log: (message: string) => void;
}

/** An image while it is mounted. */
export interface MountedImage {
  readonly mountpoint: string;
  /** Of its root. */
  readonly owner: Owner;
}

/**
 * The images whose bootstraps are snapshots: each is mounted once, in the directory of that snapshot, for all that stand
 * on it. What mounts an image and what removes it wait for each other.
 */
export class NydusImages {
  readonly #options: NydusImagesOptions;
  readonly #lock = new KeyLock<number>();

  constructor(options: NydusImagesOptions) {
    this.#options = options;
  }

  /**
   * Runs `use` while an image is mounted and cannot be removed.
   * @throws ENOENT it has been removed; why it could not be mounted
   */
  async use<T>(image: Snapshot, signal: AbortSignal, use: (mounted: MountedImage) => T): Promise<T> {
    return await this.#lock.run(image.id, async () => {
      const { metastore, dirs, mounts } = this.#options;
      if (!metastore.has(image.id)) throw new NydusError("ENOENT", `Cannot mount image: ${image.key} is gone`);
      const mountpoint = dirs.mountpoint(image.id);
      const { key: name, labels } = image;
      const place = { snapshotId: String(image.id), bootstrapDir: dirs.fsDir(image.id), mountpoint };
      const bootstrapSha256 = dirs.bootstrapDigest(image.id);
      await mounts.mount({ ...place, bootstrapSha256, name, labels }, signal);
      const { uid, gid } = await inPlace({ path: mountpoint }, () => lstat(mountpoint));
      return use({ mountpoint, owner: { uid, gid } });
    });
  }

  /**
   * Keeps the digest of the bootstrap that has been unpacked into a snapshot: who changes it later has it refused.
   * @throws EIO, ENOSPC
   */
  async keepDigest(id: number): Promise<void> {
    const { dirs } = this.#options;
    let file: UnpackedFile;
    try {
      file = findUnpackedBootstrap(dirs.fsDir(id));
    } catch (error) {
      if (["ENOENT", "EUCLEAN"].includes(asNydusError(error).code)) return; // mounting it says so
      throw error;
    }
    using open = file;
    if (open.sizeBytes > BOOTSTRAP_LIMITS.bootstrapBytes) return; // the same
    dirs.keepBootstrapDigest(id, await sha256OfUnpacked(open));
  }

  /**
   * Removes the snapshot of a bootstrap, and what of its image is mounted. An image that is in use stays where it is
   * until {@link discard}.
   * @param remove makes it no snapshot any more, or throws
   */
  async remove(image: Snapshot, remove: () => void): Promise<void> {
    await this.#lock.run(image.id, async () => {
      remove();
      this.#options.dirs.forget(image.id);
      await this.#release(image.id);
    });
  }

  /** Gives up a directory that is no snapshot's, unless it is in use. */
  async discard(id: number): Promise<void> {
    await this.#lock.run(id, async () => {
      if (!this.#options.metastore.has(id)) await this.#release(id);
    });
  }

  async #release(id: number): Promise<void> {
    const { dirs, mounts, log } = this.#options;
    try {
      await mounts.umount(dirs.mountpoint(id));
      if (!dirs.hasMounts(id)) dirs.retire(id);
    } catch (error) {
      log(`snapshot ${id} stays on disk: ${formatError(asNydusError(error))}`);
    }
  }

  /** Mounts again, one by one, what containers stand on; one that fails is for whoever asks for it next. */
  async remount(signal: AbortSignal): Promise<void> {
    for (const image of this.#inUse()) {
      if (signal.aborted) return;
      try {
        await this.use(image, signal, () => undefined);
      } catch (error) {
        if (!signal.aborted) this.#options.log(`${image.key} is not mounted: ${formatError(asNydusError(error))}`);
      }
    }
  }

  #inUse(): Iterable<Snapshot> {
    const { metastore, log } = this.#options;
    const images = new Map<number, Snapshot>();
    for (const { kind, parent, key } of metastore.list()) {
      if (kind === "committed") continue;
      try {
        const { image } = splitChain(metastore.chain(parent));
        if (image !== undefined) images.set(image.id, image);
      } catch (error) {
        log(`${key} cannot be mounted: ${formatError(asNydusError(error))}`);
      }
    }
    return images.values();
  }

  /** Bytes that the caches of a blob layer take. */
  async blobUsageBytes({ labels }: Snapshot): Promise<number> {
    let sum = 0;
    for (const id of blobIdsOf(labels)) sum += await this.#options.mounts.blobUsageBytes(id);
    return sum;
  }

  /** Removes the caches of blobs that no snapshot stands for; none while one does not say which it stands for. */
  async sweep(): Promise<void> {
    const { metastore, mounts, log } = this.#options;
    const blobs = metastore.list().filter(({ labels }) => layerKind(labels) === "blob");
    const ids = blobs.map(({ labels }) => blobIdsOf(labels));
    const unknown = ids.findIndex((found) => found.length === 0);
    if (unknown < 0) await mounts.sweep(new Set(ids.flat()));
    else log(`caches are not swept: ${blobs[unknown]?.key} does not say which blob it stands for`);
  }

  /** Waits for what is under way. Nothing is unmounted. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#lock.idle();
    await this.#options.mounts[Symbol.asyncDispose]();
  }
}
