import type { BlobCache, CacheStats } from "../../content/cache/blob-cache.ts";
import { Closers } from "../../content/store/closers.ts";
import { openCodecPool } from "../../os/codec-threads.ts";
import type { MountSource } from "../mount/serve.ts";
import { type OpenedImage, openDeviceCaches } from "./open.ts";

/** What a mount has read, over all its blobs, and what it could have read. */
export interface MountStats extends CacheStats {
  /** Sizes of the blobs, bytes. */
  readonly blobBytes: number;
}

/** How an image is opened for mounting. */
export interface MountSourceOptions {
  /** Directory of all state. */
  readonly root: string;
  readonly readTimeoutMs?: number | undefined;
  /** Opens the image. */
  readonly open: () => Promise<OpenedImage>;
  /** Called when the mount has ended. */
  readonly onEnd?: (stats: MountStats) => void;
}

/** An image with a cache for each device, as `serveMount` wants it. @throws as `open` and `openDeviceCaches` do */
export async function openMountSource(options: MountSourceOptions): Promise<MountSource> {
  await using stack = new Closers();
  const pool = stack.use(openCodecPool());
  const image = stack.use(await options.open());
  const caches = await openDeviceCaches(image, { ...options, pool });
  for (const cache of caches) stack.use(cache);
  stack.defer(async () => options.onEnd?.(sumStats(image, caches)));
  const owned = stack.move();
  return {
    bootstrapPath: image.bootstrapPath,
    devices: caches,
    [Symbol.asyncDispose]: () => owned[Symbol.asyncDispose](),
  };
}

function sumStats(image: OpenedImage, caches: readonly BlobCache[]): MountStats {
  const sum = (field: keyof CacheStats): number => caches.reduce((total, { stats }) => total + stats[field], 0);
  return {
    requests: sum("requests"),
    demandBytes: sum("demandBytes"),
    prefetchBytes: sum("prefetchBytes"),
    chunksFilled: sum("chunksFilled"),
    filledBytes: sum("filledBytes"),
    chunksFailed: sum("chunksFailed"),
    blobBytes: image.devices.reduce((total, { source }) => total + source.sizeBytes, 0),
  };
}
