import { realpathSync, statSync } from "node:fs";
import type { ByteRange } from "../../base/bytes.ts";
import { asNydusError, NydusError } from "../../base/errors.ts";
import type { BlobCache, BlobCacheOptions, CacheStats } from "../../content/cache/blob-cache.ts";
import { FetchMeter, type FetchStats } from "../../content/cache/fetch-meter.ts";
import type { PullPolicy } from "../../content/local/open-image-source.ts";
import type { RegistryOptions } from "../../content/registry/registry-options.ts";
import { SharedRegistries } from "../../content/registry/shared-registries.ts";
import type { ReadOptions } from "../../content/store/source.ts";
import type { Descriptor, Platform } from "../../format/oci/manifest.ts";
import type { CodecPool } from "../../os/codec-pool.ts";
import { openCodecPool } from "../../os/codec-threads.ts";
import { releaseMemory } from "../../os/memory.ts";
import type { MappedFile } from "../../os/mmap.ts";
import type { MountDevice } from "../mount/engine.ts";
import type { MountSource } from "../mount/served-mount.ts";
import { type OpenedImage, openBootstrap, openEachDevice, openImage } from "./open.ts";
import { type BootstrapDirRequest, findUnpackedBootstrap, openBootstrapDir } from "./open-bootstrap-dir.ts";
import { pinBootstrap } from "./pin-bootstrap.ts";
import { Prefetch, type PrefetchChoice } from "./prefetch.ts";
import { type CacheShare, SharedCaches } from "./shared-caches.ts";

/**
 * An image to mount: by its name, by a bootstrap and a directory of blobs, or by an unpacked bootstrap layer and the
 * places of its blobs.
 */
export type ImageRequest =
  | {
      readonly name: string;
      readonly platform?: Platform | undefined;
      readonly pull?: PullPolicy | undefined;
      readonly registry?: RegistryOptions | undefined;
    }
  | { readonly bootstrapPath: string; readonly blobDir: string }
  | BootstrapDirRequest;

/** How an image is opened for mounting. */
export interface MountSourceOptions {
  /** Of the first mount that shares a cache. */
  readonly readTimeoutMs?: number | undefined;
  readonly signal: AbortSignal;
  /** What is brought before anyone reads it; what the image says unless given. */
  readonly prefetch?: PrefetchChoice | undefined;
  /** At most so many uncompressed bytes a second. */
  readonly prefetchBytesPerSec?: number | undefined;
  /** Opens what another process had open, whatever the request means by now. */
  readonly pinned?: { readonly pin: ImagePin; readonly map: () => MappedFile } | undefined;
  /** Hears of what cannot be prefetched. */
  readonly onError?: ((error: NydusError) => void) | undefined;
}

/** What `MountSource.pin` holds: with it and the bootstrap's bytes an image is opened without asking anyone. JSON. */
export interface ImagePin {
  /** The same for all mounts that share the image. */
  readonly key: string;
  /** Of an image by name. */
  readonly manifest?: { readonly descriptor: Descriptor; readonly base64: string };
}

/** What all mounts of a process have read, and what they could have read. */
export interface MountStats extends CacheStats {
  /** Sizes of the blobs of all images that were opened, bytes. */
  readonly blobBytes: number;
  /** Images that are open. */
  readonly images: number;
  /** Uncompressed bytes that prefetches have asked for, and those of them that have come. */
  readonly prefetchAskedBytes: number;
  readonly prefetchDoneBytes: number;
}

/** What was fetched of a blob. */
export interface BlobFetches {
  /** Hex digits. */
  readonly blob: string;
  readonly fetched: FetchStats;
}

interface SharedImage {
  readonly key: string;
  readonly image: OpenedImage;
  readonly caches: readonly CacheShare[];
  users: number;
}

const NO_CACHE: CacheStats = {
  requests: 0,
  demandBytes: 0,
  aheadBytes: 0,
  prefetchBytes: 0,
  chunksFilled: 0,
  filledBytes: 0,
  chunksFailed: 0,
};

/** From so many bytes of bootstrap on opening leaves garbage that is worth collecting at once. */
const LARGE_BOOTSTRAP_BYTES = 16 << 20;

/**
 * Images opened for mounting by one process: one set of codec threads, one opening of each image, shared caches,
 * connections and tokens.
 */
export class MountSources implements AsyncDisposable {
  readonly #root: string;
  readonly #pool: CodecPool = openCodecPool();
  readonly #caches = new SharedCaches();
  readonly #registries: SharedRegistries;
  readonly #images = new Map<string, SharedImage>();
  readonly #prefetches = new Set<Prefetch>();
  /** By prefetches that have ended. */
  #prefetched = { askedBytes: 0, doneBytes: 0 };
  #blobBytes = 0;
  /** Of all mounts. */
  readonly #meter = new FetchMeter();

  /** @param root directory of all state @param registries closed with it; new ones unless given */
  constructor(root: string, registries = new SharedRegistries()) {
    this.#root = root;
    this.#registries = registries;
  }

  /** Opens an image, or shares it when it is open; disposing gives it back. @throws as `openImage`, `openBootstrap` */
  async open(request: ImageRequest, options: MountSourceOptions): Promise<MountSource> {
    const { pinned } = options;
    const shared =
      pinned === undefined ? await this.#acquire(request, options) : await this.#acquirePinned(request, options);
    const meter = new FetchMeter(this.#meter);
    const devices = shared.caches.map(({ cache }) => new MeteredDevice(cache, meter));
    let prefetch: Prefetch;
    try {
      prefetch = await this.#prefetch(shared, devices, options).catch((error) => {
        // A list of paths may be gone by now.
        if (pinned === undefined) throw error;
        return this.#prefetch(shared, devices, { ...options, prefetch: "none" });
      });
    } catch (error) {
      await this.#giveBack(shared);
      throw error;
    }
    let open = true;
    return {
      bootstrap: shared.image.bootstrapFile,
      devices,
      pin: pinOf(shared),
      blobs: shared.image.devices.map(({ id }) => id),
      fetched: () => meter.stats,
      [Symbol.asyncDispose]: async () => {
        if (!open) return;
        open = false;
        await this.#endPrefetch(prefetch);
        await this.#giveBack(shared);
      },
    };
  }

  async stats(): Promise<MountStats> {
    const caches = (await this.#caches.stats()) ?? NO_CACHE;
    const prefetches = [this.#prefetched, ...[...this.#prefetches].map(({ stats }) => stats)];
    return {
      ...caches,
      blobBytes: this.#blobBytes,
      images: this.#images.size,
      prefetchAskedBytes: prefetches.reduce((sum, { askedBytes }) => sum + askedBytes, 0),
      prefetchDoneBytes: prefetches.reduce((sum, { doneBytes }) => sum + doneBytes, 0),
    };
  }

  /** What all mounts have had fetched since the start, and of that, of each blob that is open. */
  async fetched(): Promise<{ readonly all: FetchStats; readonly blobs: readonly BlobFetches[] }> {
    return { all: this.#meter.stats, blobs: await this.#caches.fetched() };
  }

  async #prefetch(
    { image }: SharedImage,
    caches: readonly MeteredDevice[],
    options: MountSourceOptions,
  ): Promise<Prefetch> {
    const { prefetch: choice = "image", prefetchBytesPerSec: bytesPerSec, onError } = options;
    const started = await Prefetch.start({
      ...{ image, caches, choice, bytesPerSec, onError },
    });
    this.#prefetches.add(started);
    return started;
  }

  async #endPrefetch(prefetch: Prefetch): Promise<void> {
    await prefetch[Symbol.asyncDispose]();
    this.#prefetches.delete(prefetch);
    const { askedBytes, doneBytes } = this.#prefetched;
    const { stats } = prefetch;
    this.#prefetched = { askedBytes: askedBytes + stats.askedBytes, doneBytes: doneBytes + stats.doneBytes };
  }

  /** Ends codec threads and connections; images must have been given back. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#pool[Symbol.asyncDispose]();
    await this.#registries[Symbol.asyncDispose]();
  }

  async #acquire(request: ImageRequest, options: MountSourceOptions): Promise<SharedImage> {
    if ("bootstrapPath" in request) return await this.#acquireBootstrap(request, options);
    if ("bootstrapDir" in request) return await this.#acquireDir(request, options);
    const { name, platform, pull } = request;
    const registry = { ...request.registry, shared: this.#registries };
    const keyOf = (digest: string): string => JSON.stringify([name, digest]);
    let reused: SharedImage | undefined;
    const reuse = (digest: string): OpenedImage | undefined => {
      reused = this.#take(keyOf(digest));
      return reused?.image;
    };
    const image = await openImage(name, { root: this.#root, platform, pull, registry, signal: options.signal, reuse });
    return reused ?? (await this.#share(keyOf(image.documents?.descriptor.digest ?? ""), image, options));
  }

  async #acquireBootstrap(
    { bootstrapPath, blobDir }: { bootstrapPath: string; blobDir: string },
    options: MountSourceOptions,
  ): Promise<SharedImage> {
    const key = JSON.stringify([fileIdentity(bootstrapPath), realpathOf(blobDir)]);
    const known = this.#take(key);
    if (known !== undefined) return known;
    const map = (path: string): ReturnType<typeof pinBootstrap> => pinBootstrap(path, this.#root);
    return await this.#share(key, await openBootstrap(bootstrapPath, { blobDir, map }), options);
  }

  async #acquireDir(request: BootstrapDirRequest, options: MountSourceOptions): Promise<SharedImage> {
    using file = findUnpackedBootstrap(request.bootstrapDir);
    const key = JSON.stringify([file.identity, request.places, request.sha256]);
    const known = this.#take(key);
    if (known !== undefined) return known;
    const image = await openBootstrapDir(file, request, { root: this.#root, registries: this.#registries });
    return await this.#share(key, image, options);
  }

  async #acquirePinned(request: ImageRequest, options: MountSourceOptions): Promise<SharedImage> {
    const { pinned } = options;
    if (pinned === undefined) throw new NydusError("EFAULT", "Cannot open image again: nothing of it was kept");
    const { key, manifest } = pinned.pin;
    const known = this.#take(key);
    if (known !== undefined) return known;
    const [root, { map }] = [this.#root, pinned];
    const open = async (): Promise<OpenedImage> => {
      if ("bootstrapPath" in request) {
        return await openBootstrap(request.bootstrapPath, { blobDir: request.blobDir, map: async () => map() });
      }
      if ("bootstrapDir" in request) {
        return await openBootstrapDir(undefined, request, { root, registries: this.#registries, map });
      }
      if (manifest === undefined) throw new NydusError("EFAULT", "Cannot open image again: its manifest was not kept");
      const { name, platform, pull } = request;
      const { descriptor, base64 } = manifest;
      const registry = { ...request.registry, shared: this.#registries };
      const kept = { descriptor, manifestBytes: new Uint8Array(Buffer.from(base64, "base64")), map };
      return await openImage(name, { root, platform, pull, registry, signal: options.signal, pinned: kept });
    };
    return await this.#share(key, await open(), options);
  }

  #take(key: string): SharedImage | undefined {
    const known = this.#images.get(key);
    if (known !== undefined) known.users++;
    return known;
  }

  /** Opens the caches of an image and lets others share both. Of two that opened the same, the first is kept. */
  async #share(key: string, image: OpenedImage, { readTimeoutMs }: MountSourceOptions): Promise<SharedImage> {
    const caches: CacheShare[] = [];
    const open = async (one: BlobCacheOptions): Promise<CacheShare> => {
      const share = await this.#caches.open(one);
      caches.push(share);
      return share;
    };
    try {
      await openEachDevice(image, { root: this.#root, pool: this.#pool, readTimeoutMs }, open);
    } catch (error) {
      await this.#close(image, caches);
      throw error;
    }
    const known = this.#take(key);
    if (known !== undefined) {
      await this.#close(image, caches);
      return known;
    }
    const shared = { key, image, caches, users: 1 };
    this.#images.set(key, shared);
    // Before the tables that a mount adds: what opening a million files has thrown away is as large as they are.
    if (image.bootstrap.length >= LARGE_BOOTSTRAP_BYTES) releaseMemory();
    this.#blobBytes += image.devices.reduce((total, { source }) => total + source.sizeBytes, 0);
    return shared;
  }

  async #giveBack(shared: SharedImage): Promise<void> {
    if (--shared.users > 0) return;
    this.#images.delete(shared.key);
    await this.#close(shared.image, shared.caches);
  }

  /** Closes caches, then the image: later, where other images share caches whose chunk maps are in its bootstrap. */
  async #close(image: OpenedImage, caches: readonly CacheShare[]): Promise<void> {
    const closed = await Promise.allSettled(caches.map((cache) => cache[Symbol.asyncDispose]()));
    const lent = caches.filter(({ isLent }) => isLent).map(({ unlent }) => unlent);
    if (lent.length === 0) await image[Symbol.asyncDispose]();
    else void this.#closeLater(image, lent);
    const failed = closed.find((one) => one.status === "rejected");
    if (failed !== undefined) throw failed.reason;
  }

  async #closeLater(image: OpenedImage, lent: readonly Promise<void>[]): Promise<void> {
    await Promise.all(lent);
    // Nobody is left to be told; what is closed has only been read.
    await Promise.resolve(image[Symbol.asyncDispose]()).catch(() => undefined);
  }
}

/** A cache as one mount's device: what is fetched because of it is counted as the mount's. */
class MeteredDevice implements MountDevice {
  readonly chunks: MountDevice["chunks"];
  readonly fd: number;
  readonly ready: MountDevice["ready"];
  readonly #cache: BlobCache;
  readonly #meter: FetchMeter;

  constructor(cache: BlobCache, meter: FetchMeter) {
    this.chunks = cache.chunks;
    this.fd = cache.fd;
    this.ready = cache.ready;
    this.#cache = cache;
    this.#meter = meter;
  }

  ensure(range: ByteRange, options: ReadOptions): Promise<void> {
    return this.#cache.ensure(range, { ...options, meter: this.#meter });
  }

  flush(): Promise<void> {
    return this.#cache.flush();
  }
}

function pinOf({ key, image }: SharedImage): ImagePin {
  const { documents } = image;
  if (documents === undefined) return { key };
  const base64 = Buffer.from(documents.manifestBytes).toString("base64");
  return { key, manifest: { descriptor: documents.descriptor, base64 } };
}

/** Names the content of a file: it changes with every write. */
function fileIdentity(path: string): string {
  try {
    const { dev, ino, size, mtimeNs, ctimeNs } = statSync(path, { bigint: true });
    return [dev, ino, size, mtimeNs, ctimeNs].join(":");
  } catch (error) {
    throw asNydusError(error, { path });
  }
}

function realpathOf(path: string): string {
  try {
    return realpathSync(path);
  } catch (error) {
    throw asNydusError(error, { path });
  }
}
