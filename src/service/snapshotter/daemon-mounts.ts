import { mkdirSync, readdirSync, statSync } from "node:fs";
import { statfs } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { digestOfHex, hexOf } from "../../base/digest.ts";
import { asNydusError, formatError, NydusError } from "../../base/errors.ts";
import { listCaches } from "../../content/cache/admin.ts";
import { parseCacheName } from "../../content/cache/cache-names.ts";
import { sweepStore } from "../../content/local/sweep.ts";
import { orAborted } from "../../content/store/abort.ts";
import { formatReference, parseReference, type Reference } from "../../format/oci/reference.ts";
import { cacheDir, collectStoredCaches } from "../../operation/image/cache-admin.ts";
import { sweepKeptMetas } from "../../operation/image/open-kept-meta.ts";
import type { PrefetchChoice } from "../../operation/image/prefetch.ts";
import { MOUNT_DEFAULTS } from "../../operation/mount/engine.ts";
import { DEFAULT_ENGINE } from "../../operation/mount/engines.ts";
import { findRecord, isLost, isOurMount, type MountRecord, removeRecord } from "../../operation/mount/mount-record.ts";
import { MNT_DETACH, resolveMountpoint, unmount } from "../../os/mount.ts";
import type { MountBody } from "../daemon/api.ts";
import { DaemonClient } from "../daemon/client.ts";
import type { BlobPlaceBody, RegistryBody } from "../daemon/image-body.ts";
import { withDaemon } from "../daemon/start.ts";
import type { ImageMounts, SnapshotImage } from "./image-mounts.ts";

/** What {@link DaemonMounts} needs. */
export interface DaemonMountsOptions {
  /** State directory of the daemon. */
  readonly root: string;
  /** Path of containerd's socket, whose content store is asked for blobs first. */
  readonly containerdAddress: string;
  /** Runs the daemon: this program and `daemon run …`. */
  readonly command: readonly string[];
  /** Hears of what goes wrong and is borne with. */
  readonly log: (message: string) => void;
  /** How registries are reached. */
  readonly registry?: RegistryBody | undefined;
  /** What is brought before it is read; what the image says unless given, which with nydusify's images is all. */
  readonly prefetch?: PrefetchChoice | undefined;
}

/** Labels that name the image of a snapshot, the first that is there counts. */
const REFERENCE_LABELS = ["containerd.io/snapshot/cri.image-ref", "containerd.io/snapshot/remote/stargz.reference"];
/** containerd's identifiers (pkg/identifiers). */
const NAMESPACE = /^(?=.{1,76}$)[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*$/;
/** Images have programs that are run as others and device nodes; what may be done with them is the container's affair. */
const MOUNT_OPTIONS = "suid,dev";

/** Mounts over one another that are taken away at once. */
const STACKED_MAX = 8;
/** How long a server may take to let go of what has been unmounted, and how often to look. */
const RELEASE_MS = 2_000;
const RELEASE_POLL_MS = 10;
/** How long a mount may be without a server until another one serves it. */
const RECOVERY_MS = 60_000;
/** A server that says nothing for so long is not dead, but hung. */
const ANSWER_MS = 2_000;

const STAT_BLOCK_BYTES = 512;

/** A mount that is being made, and how many wait for it. */
interface Flight {
  readonly done: Promise<void>;
  readonly abandoned: AbortController;
  waiters: number;
}

/**
 * Mounts images by a daemon that outlives this process: it is started when it is needed, in a session of its own, and
 * goes on while anything is mounted. Whether an image is mounted is read from what is on the disk and in the kernel, so
 * that a snapshotter that has been restarted, or upgraded, knows.
 */
export class DaemonMounts implements ImageMounts {
  readonly #options: DaemonMountsOptions;
  readonly #client: DaemonClient;
  /** By mount point. */
  readonly #flights = new Map<string, Flight>();
  readonly #umounts = new Map<string, Promise<void>>();

  constructor(options: DaemonMountsOptions) {
    this.#options = options;
    this.#client = new DaemonClient(options.root);
  }

  async mount(image: SnapshotImage, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    const flight = this.#flightFor(image);
    flight.waiters++;
    try {
      await orAborted(flight.done, signal);
    } finally {
      // One who gives up does not end it for the others.
      if (--flight.waiters === 0)
        flight.abandoned.abort(new NydusError("ECANCELED", "Cannot mount: nobody waits for it"));
    }
  }

  #flightFor(image: SnapshotImage): Flight {
    const { mountpoint } = image;
    const known = this.#flights.get(mountpoint);
    if (known !== undefined && !known.abandoned.signal.aborted) return known;
    const before = Promise.allSettled([known?.done, this.#umounts.get(mountpoint)]);
    const abandoned = new AbortController();
    const done = before.then(() => this.#mountUnlessThere(image, abandoned.signal));
    const flight: Flight = { done, abandoned, waiters: 0 };
    this.#flights.set(mountpoint, flight);
    const forget = (): void => {
      if (this.#flights.get(mountpoint) === flight) this.#flights.delete(mountpoint);
    };
    done.then(forget, forget);
    return flight;
  }

  async #mountUnlessThere(image: SnapshotImage, signal: AbortSignal): Promise<void> {
    const { root, command } = this.#options;
    const { mountpoint } = image;
    await this.#untilRecovered(mountpoint, signal);
    if (this.isMounted(mountpoint)) return;
    this.#clear(mountpoint);
    mkdirSync(mountpoint, { recursive: true, mode: 0o755 });
    const body = this.#bodyOf(image);
    const start = { root, client: this.#client, command, signal };
    try {
      await withDaemon(start, () => this.#client.mount(body, signal));
    } catch (error) {
      // Another process may have been faster.
      if (asNydusError(error).code === "EBUSY" && this.isMounted(mountpoint)) return;
      throw error;
    }
  }

  /** A mount whose server has died is served again in a moment, or lost. */
  async #untilRecovered(path: string, signal: AbortSignal): Promise<void> {
    const mountpoint = resolvedOrUndefined(path);
    for (let waited = 0; mountpoint !== undefined && waited < RECOVERY_MS; waited += RELEASE_POLL_MS) {
      if (findRecord(this.#options.root, mountpoint)?.state !== "recovering") return;
      signal.throwIfAborted();
      await sleep(RELEASE_POLL_MS);
    }
  }

  /** Takes mounts away whose server is gone; containers that still use one keep it, and it goes with them. */
  #clear(path: string): void {
    const mountpoint = resolvedOrUndefined(path);
    for (let i = 0; mountpoint !== undefined && i < STACKED_MAX && isOurMount({ mountpoint }); i++) {
      const record = findRecord(this.#options.root, mountpoint);
      if (record !== undefined && !isLost(record.state)) return;
      unmount(mountpoint, MNT_DETACH);
      if (record !== undefined) removeRecord(this.#options.root, record);
      this.#options.log(`took a dead mount away from ${JSON.stringify(mountpoint)}`);
    }
  }

  #bodyOf(image: SnapshotImage): MountBody {
    const reference = this.#referenceOf(image);
    const namespace = image.name.split("/")[0] ?? "";
    const blobs: BlobPlaceBody[] = [];
    if (NAMESPACE.test(namespace)) blobs.push({ containerd: { address: this.#options.containerdAddress, namespace } });
    if (reference !== undefined) {
      blobs.push({ registry: { ...this.#options.registry, reference: formatReference(reference) } });
    }
    return {
      image: { bootstrapDir: image.bootstrapDir, sha256: image.bootstrapSha256, blobs },
      shown: reference === undefined ? `snapshot ${image.snapshotId}` : formatReference(reference),
      mountpoint: image.mountpoint,
      engine: DEFAULT_ENGINE,
      readTimeoutMs: MOUNT_DEFAULTS.readTimeoutMs,
      options: MOUNT_OPTIONS,
      prefetch: this.#options.prefetch,
    };
  }

  /** The image that the labels name: they are anyone's, and no more than an image name is taken from them. */
  #referenceOf({ labels, snapshotId }: SnapshotImage): Reference | undefined {
    const text = REFERENCE_LABELS.map((name) => labels.get(name)).find((value) => value !== undefined && value !== "");
    if (text === undefined) return undefined;
    try {
      return parseReference(text);
    } catch (error) {
      const why = formatError(asNydusError(error));
      this.#options.log(`snapshot ${JSON.stringify(snapshotId)} names no image that could be asked for: ${why}`);
      return undefined;
    }
  }

  async umount(mountpoint: string): Promise<void> {
    const before = Promise.allSettled([this.#umounts.get(mountpoint), this.#flights.get(mountpoint)?.done]);
    const done = before.then(() => this.#umount(mountpoint));
    this.#umounts.set(mountpoint, done);
    try {
      await done;
    } finally {
      if (this.#umounts.get(mountpoint) === done) this.#umounts.delete(mountpoint);
    }
  }

  async #umount(path: string): Promise<void> {
    const mountpoint = resolvedOrUndefined(path);
    for (let i = 0; mountpoint !== undefined && i < STACKED_MAX && isOurMount({ mountpoint }); i++) {
      const record = findRecord(this.#options.root, mountpoint);
      const isDead = isLost(record?.state) || (record === undefined && !(await answers(mountpoint)));
      if (unmount(mountpoint, isDead ? MNT_DETACH : 0) === "busy") {
        throw new NydusError("EBUSY", "Cannot unmount: files are open there", { path: mountpoint });
      }
      if (isDead && record !== undefined) removeRecord(this.#options.root, record);
      if (!isDead && record !== undefined) await this.#untilReleased(record);
    }
  }

  /** Where a container still has it below its own root, the server goes on for it. */
  async #untilReleased(record: MountRecord): Promise<void> {
    for (let waited = 0; waited < RELEASE_MS; waited += RELEASE_POLL_MS) {
      const left = findRecord(this.#options.root, record.mountpoint);
      if (left === undefined || left.startedAt !== record.startedAt) return;
      await sleep(RELEASE_POLL_MS);
    }
  }

  isMounted(path: string): boolean {
    const mountpoint = resolvedOrUndefined(path);
    return mountpoint !== undefined && findRecord(this.#options.root, mountpoint)?.state === "serving";
  }

  async blobUsageBytes(blobId: string): Promise<number> {
    digestOfHex(blobId);
    const dir = cacheDir(this.#options.root);
    const names = namesIn(dir).filter((name) => parseCacheName(name)?.id === blobId);
    const blocks = names.map((name) => statSync(join(dir, name), { throwIfNoEntry: false })?.blocks ?? 0);
    return blocks.reduce((sum, count) => sum + count, 0) * STAT_BLOCK_BYTES;
  }

  /** What images of the store under the same state directory need stays as well. */
  async sweep(needed: ReadonlySet<string>): Promise<void> {
    const { root } = this.#options;
    await collectStoredCaches(root, Number.MAX_SAFE_INTEGER); // what dead processes have left
    const caches = await listCaches(cacheDir(root));
    const only = new Set(
      caches.filter((one) => !one.isInUse && !needed.has(hexOf(one.digest))).map(({ digest }) => digest),
    );
    if (only.size > 0) await sweepStore(root, { only });
    await sweepKeptMetas(root, needed);
  }

  /** Waits for what is under way. The daemon and its mounts stay. */
  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.allSettled([...this.#flights.values()].map(({ done }) => done));
    await Promise.allSettled(this.#umounts.values());
  }
}

/** Whether a file system's server is alive, as far as it says: a question that the kernel cannot answer by itself. */
async function answers(mountpoint: string): Promise<boolean> {
  const asked = statfs(mountpoint).then(
    () => true,
    (error: unknown) => (error as { code?: unknown }).code !== "ENOTCONN",
  );
  return await Promise.race([asked, sleep(ANSWER_MS, true, { ref: false })]);
}

function resolvedOrUndefined(path: string): string | undefined {
  try {
    return resolveMountpoint(path);
  } catch (error) {
    if (asNydusError(error).code === "ENOENT") return undefined;
    throw error;
  }
}

function namesIn(dir: string): readonly string[] {
  try {
    return readdirSync(dir);
  } catch (error) {
    const failure = asNydusError(error, { path: dir });
    if (failure.code === "ENOENT") return [];
    throw failure;
  }
}
