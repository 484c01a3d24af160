import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { asNydusError, formatError, NydusError } from "../../base/errors.ts";
import { parseFilters } from "../../format/containerd/filter.ts";
import { rootIdOf } from "../../format/containerd/id-mapping.ts";
import { LABELS, type Labels } from "../../format/containerd/labels.ts";
import type { ContainerdMount } from "../../format/containerd/snapshots-schema.ts";
import { microsNow } from "./clock.ts";
import { diskUsage } from "./disk-usage.ts";
import type { ImageMounts } from "./image-mounts.ts";
import { KeyLock } from "./key-lock.ts";
import { type ChainParts, isUnpacking, layerKind, splitChain } from "./layer-kind.ts";
import { Metastore, requireActive } from "./metastore.ts";
import { type MountedImage, NydusImages } from "./nydus-images.ts";
import { bindMount, stackMounts } from "./overlay-mounts.ts";
import { NO_USAGE, type Snapshot, type Usage } from "./snapshot.ts";
import { type Owner, SnapshotDirs } from "./snapshot-dirs.ts";

/** How long a deletion under way holds up the end. */
const DELETE_GRACE_MS = 2_000;

/** What a {@link Snapshotter} is made of. */
export interface SnapshotterOptions {
  /** Directory of all state; the snapshotter's is below it. */
  readonly root: string;
  readonly mounts: ImageMounts;
  /** Options that overlay mounts want here. */
  readonly overlayOptions: readonly string[];
  readonly log: (message: string) => void;
}

/** What `Prepare` and `View` are asked for. */
export interface CreateRequest {
  readonly key: string;
  /** "" for none. */
  readonly parent: string;
  readonly labels: Labels;
}

/** What `Commit` is asked for. */
export interface CommitRequest {
  readonly key: string;
  readonly name: string;
  /** What a snapshot that was made without a parent is to stand on; "" for nothing. */
  readonly parent: string;
  readonly labels: Labels;
}

/**
 * containerd's snapshots, of any image. Plain layers are what its overlayfs snapshotter makes of them; a Nydus image is
 * mounted where its bootstrap was unpacked, and is the lowest directory of all that stands on it. Calls for one key
 * wait for each other. Errors are those of containerd's storage: ENOENT, EEXIST, EINVAL, and EBUSY for a failed
 * precondition.
 */
export class Snapshotter implements AsyncDisposable {
  readonly #options: SnapshotterOptions;
  readonly #dirs: SnapshotDirs;
  readonly #metastore: Metastore;
  readonly #images: NydusImages;
  readonly #keys = new KeyLock<string>();
  readonly #closing = new AbortController();
  #deleting: Promise<void> = Promise.resolve();
  #remounting: Promise<void> = Promise.resolve();

  /** @throws EBUSY another process serves this directory; EINVAL its path; EPERM, ENOSPC, EIO */
  constructor(options: SnapshotterOptions) {
    const { log, mounts } = options;
    const root = join(options.root, "snapshotter");
    this.#options = options;
    this.#dirs = new SnapshotDirs(root);
    this.#metastore = new Metastore({ root, dirs: this.#dirs, now: microsNow, log });
    this.#images = new NydusImages({ metastore: this.#metastore, dirs: this.#dirs, mounts, log });
  }

  /** Begins, in the background, to mount what containers stand on, and to delete what has been removed. */
  start(): void {
    this.#remounting = this.#images.remount(this.#closing.signal);
    void this.#deleteSoon();
  }

  /**
   * Makes a snapshot to be written to.
   * @throws EEXIST also where the layer needs no unpacking: the snapshot that it is to become is there then
   */
  async prepare(request: CreateRequest, signal: AbortSignal): Promise<ContainerdMount[]> {
    return await this.#keys.run(request.key, async () => {
      if (isUnpacking(request.labels) && layerKind(request.labels) === "blob") return this.#answerBlob(request);
      return await this.#create("active", request, signal);
    });
  }

  /** Makes a snapshot to be read. */
  async view(request: CreateRequest, signal: AbortSignal): Promise<ContainerdMount[]> {
    return await this.#keys.run(request.key, () => this.#create("view", request, signal));
  }

  /** What shows a snapshot that {@link prepare} or {@link view} has made. */
  async mounts(key: string, signal: AbortSignal): Promise<ContainerdMount[]> {
    return await this.#keys.run(key, async () => {
      const snapshot = this.#metastore.get(key);
      if (snapshot.kind === "committed")
        throw new NydusError("EBUSY", `Cannot mount ${JSON.stringify(key)}: committed`);
      const parts = this.#partsFor(snapshot);
      return await this.#withImage(parts, signal, (image) => this.#show(snapshot, parts, image));
    });
  }

  async #create(kind: "active" | "view", request: CreateRequest, signal: AbortSignal): Promise<ContainerdMount[]> {
    const parts = this.#partsFor({ ...request, kind });
    return await this.#withImage(parts, signal, (image) => {
      const owner = this.#ownerFor(request.labels, parts, image);
      const snapshot = this.#metastore.create({ ...request, kind, owner });
      return this.#show(snapshot, parts, image);
    });
  }

  /**
   * What a snapshot stands on.
   * @throws EBUSY a container would miss the files of a Nydus blob
   */
  #partsFor({ key, parent, labels, kind }: Pick<Snapshot, "key" | "parent" | "labels" | "kind">): ChainParts {
    if (kind === "active" && layerKind(labels) === "bootstrap") {
      if (parent !== "") this.#metastore.get(parent);
      return { layers: [], image: undefined, strayBlob: undefined }; // it is unpacked on its own
    }
    const parts = splitChain(this.#metastore.chain(parent));
    if (parts.strayBlob === undefined || isUnpacking(labels)) return parts;
    throw new NydusError(
      "EBUSY",
      `Cannot use ${JSON.stringify(key)}: ${JSON.stringify(parts.strayBlob.key)} is a Nydus blob, and no bootstrap layer stands on it`,
    );
  }

  async #withImage<T>(
    { image }: ChainParts,
    signal: AbortSignal,
    use: (mounted: MountedImage | undefined) => T,
  ): Promise<T> {
    return image === undefined ? use(undefined) : await this.#images.use(image, signal, use);
  }

  /** The owner of the root directory is the parent's, or whom the container's root is mapped to. */
  #ownerFor(labels: Labels, { layers }: ChainParts, image: MountedImage | undefined): Owner | undefined {
    const [uids, gids] = [labels.get(LABELS.uidMapping), labels.get(LABELS.gidMapping)];
    if (uids !== undefined || gids !== undefined) return { uid: rootIdOf(uids ?? ""), gid: rootIdOf(gids ?? "") };
    const [nearest] = layers;
    return nearest === undefined ? image?.owner : this.#dirs.ownerOf(nearest.id);
  }

  #show({ id, kind, labels }: Snapshot, { layers }: ChainParts, image: MountedImage | undefined): ContainerdMount[] {
    const dir = this.#dirs.fsDir(id);
    if (kind === "active" && layerKind(labels) === "bootstrap") return [bindMount(dir, "rw")];
    const below = layers.map((layer) => this.#dirs.fsDir(layer.id));
    const lowers = image === undefined ? below : [...below, image.mountpoint];
    if (kind === "view")
      return stackMounts({ lowers: lowers.length === 0 ? [dir] : lowers }, this.#options.overlayOptions);
    return stackMounts({ upper: { dir, workDir: this.#dirs.workDir(id) }, lowers }, this.#options.overlayOptions);
  }

  /** A blob is never unpacked: its snapshot is committed at once, one for all that name it on the same parent. */
  #answerBlob({ key, parent, labels }: CreateRequest): never {
    const ref = labels.get(LABELS.snapshotRef) as string;
    const same = this.#metastore
      .children(parent)
      .filter((child) => child.kind === "committed" && child.labels.get(LABELS.snapshotRef) === ref);
    if (same.some((child) => layerKind(child.labels) !== "blob")) {
      // Clients look for the answer by these two, and would be given files that another one has unpacked.
      throw new NydusError("EBUSY", `Cannot prepare ${JSON.stringify(ref)}: a layer of that name is no Nydus blob`);
    }
    if (same.length === 0) {
      const name = this.#metastore.find(ref) === undefined ? ref : key;
      this.#metastore.create({ key: name, parent, kind: "committed", labels });
    }
    throw new NydusError("EEXIST", `Cannot prepare ${JSON.stringify(ref)}: it needs no unpacking`);
  }

  /** Makes an active snapshot a parent for others. */
  async commit({ key, name, parent, labels }: CommitRequest): Promise<void> {
    await this.#keys.run(key, async () => {
      const snapshot = this.#metastore.get(key);
      requireActive(snapshot);
      const usage = await diskUsage(this.#dirs.fsDir(snapshot.id));
      if (layerKind(snapshot.labels) === "bootstrap") await this.#images.keepDigest(snapshot.id);
      this.#metastore.commit(key, name, { parent, labels, usage });
    });
  }

  /** Removes a snapshot on which nothing stands; its key is free at once, its space later. */
  async remove(key: string): Promise<void> {
    await this.#keys.run(key, async () => {
      const snapshot = this.#metastore.get(key);
      const remove = (): void => void this.#metastore.remove(key);
      if (layerKind(snapshot.labels) === "bootstrap") await this.#images.remove(snapshot, remove);
      else {
        remove();
        this.#dirs.retire(snapshot.id);
      }
    });
    void this.#deleteSoon();
  }

  /** @throws ENOENT */
  stat(key: string): Snapshot {
    return this.#metastore.get(key);
  }

  /**
   * Changes labels, which are all that can be changed.
   * @param paths `labels`, or `labels.NAME` each; none means all labels
   * @throws EINVAL another path
   */
  update(key: string, labels: Labels, paths: readonly string[]): Snapshot {
    return this.#metastore.relabel(key, (before) => {
      let after = paths.length === 0 ? labels : before;
      for (const path of paths) after = updated(after, labels, path);
      return after;
    });
  }

  /** Those that match one of the filters. @throws EINVAL a filter */
  list(filters: readonly string[]): Snapshot[] {
    const matches = parseFilters(filters);
    return this.#metastore.list().filter((snapshot) => matches((path) => fieldOf(snapshot, path)));
  }

  /** What a snapshot takes by itself; of a Nydus blob, what is cached of it. */
  async usage(key: string): Promise<Usage> {
    const snapshot = this.#metastore.get(key);
    if (snapshot.kind === "active") return await diskUsage(this.#dirs.fsDir(snapshot.id));
    if (snapshot.kind === "view" || layerKind(snapshot.labels) !== "blob") return snapshot.usage;
    return { ...NO_USAGE, sizeBytes: await this.#images.blobUsageBytes(snapshot) };
  }

  /** Frees what nothing needs: directories of no snapshot, removed ones, and cached blobs. */
  async cleanup(): Promise<void> {
    for (const id of this.#dirs.ids()) if (!this.#metastore.has(id)) await this.#images.discard(id);
    await this.#deleteSoon();
    try {
      await this.#images.sweep();
    } catch (error) {
      this.#options.log(`caches are not swept: ${formatError(asNydusError(error))}`);
    }
  }

  /** One deletion after the other; what is removed meanwhile is in the next. */
  #deleteSoon(): Promise<void> {
    const report = (error: NydusError): void => this.#options.log(formatError(error));
    this.#deleting = this.#deleting
      .then(() => this.#dirs.deleteRetired(report, this.#closing.signal))
      .catch((error) => report(asNydusError(error)));
    return this.#deleting;
  }

  /** Waits for what is under way. Nothing is removed, nothing unmounted. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closing.signal.aborted) return;
    this.#closing.abort(new NydusError("ECANCELED", "The snapshotter ends"));
    await this.#keys.idle();
    await this.#remounting;
    // A large directory is left to the next start.
    await Promise.race([this.#deleting, sleep(DELETE_GRACE_MS, undefined, { ref: false })]);
    await this.#images[Symbol.asyncDispose]();
    this.#metastore[Symbol.dispose]();
  }
}

const LABEL_PATH = "labels.";

function updated(before: Labels, wanted: Labels, path: string): Labels {
  if (path === "labels") return wanted;
  const name = path.startsWith(LABEL_PATH) ? path.slice(LABEL_PATH.length) : "";
  if (name === "") throw new NydusError("EINVAL", `Cannot update ${JSON.stringify(path)}: only labels change`);
  return new Map([...before, [name, wanted.get(name) ?? ""]]);
}

/** A field as filters name it. */
function fieldOf(snapshot: Snapshot, [field, ...rest]: readonly string[]): string | undefined {
  if (field === "labels") return snapshot.labels.get(rest.join("."));
  if (field === "name") return snapshot.key;
  return field === "kind" || field === "parent" ? snapshot[field] : undefined;
}
