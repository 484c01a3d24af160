import { readFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { type Digest, digestOfHex, hexOf } from "../../base/digest.ts";
import { asNydusError, inPlace, NydusError } from "../../base/errors.ts";
import { BlobCache, type BlobCacheOptions } from "../../content/cache/blob-cache.ts";
import type { ContainerdPlace } from "../../content/containerd/place.ts";
import { Lease } from "../../content/local/lease.ts";
import { openImageSource, type PullPolicy } from "../../content/local/open-image-source.ts";
import { storePaths } from "../../content/local/paths.ts";
import type { RegistryOptions } from "../../content/registry/registry-options.ts";
import { openBlobOfDir } from "../../content/store/blob-dir.ts";
import { Closers } from "../../content/store/closers.ts";
import type { ByteSource } from "../../content/store/source.ts";
import type { ImageSource } from "../../content/store/store.ts";
import type { Codecs } from "../../format/codec/codecs.ts";
import { type Descriptor, type Manifest, type Platform, parseManifest } from "../../format/oci/manifest.ts";
import { ANNOTATION } from "../../format/oci/media-type.ts";
import { hostPlatform } from "../../format/oci/platform.ts";
import { BLOB_META_HEADER_BYTES, encodeBlobMetaFile } from "../../format/rafs/blob-meta.ts";
import { type BlobInfo, needsBlobMeta } from "../../format/rafs/blob-table.ts";
import type { ChunkMap } from "../../format/rafs/chunk-map.ts";
import { openRafs, type RafsImage } from "../../format/rafs/image.ts";
import type { CodecPool } from "../../os/codec-pool.ts";
import { loadCodecs } from "../../os/codecs.ts";
import { type MappedFile, mapFile } from "../../os/mmap.ts";
import { BOOTSTRAP_LIMITS, findStoredBootstrap, storeBootstrap } from "./bootstrap-store.ts";
import type { KeptMetas } from "./open-kept-meta.ts";
import { chooseManifest } from "./read-manifest.ts";

/** How {@link openImage} opens. */
export interface OpenImageOptions {
  /** Directory of all state: the bootstrap is kept there. */
  readonly root: string;
  /** Of an index; this machine's unless given. */
  readonly platform?: Platform | undefined;
  /** Whether the image store or the registry says what the name means. */
  readonly pull?: PullPolicy | undefined;
  /** How registries are reached. */
  readonly registry?: RegistryOptions | undefined;
  /** Which containerd is meant by a name of its transport. */
  readonly containerd?: ContainerdPlace | undefined;
  readonly signal?: AbortSignal | undefined;
  /** An image that was opened before, by the process before this one: nothing of it is asked for again. */
  readonly pinned?: PinnedImage | undefined;
  /** Asked for an image that is open already, by the digest of its manifest: it is returned in the place of a new one. */
  readonly reuse?: ((manifest: Digest) => OpenedImage | undefined) | undefined;
}

/** What an image was opened with, so that it can be opened again though its name has another meaning by now. */
export interface PinnedImage {
  /** Of its manifest. */
  readonly descriptor: Descriptor;
  readonly manifestBytes: Uint8Array;
  /** Maps its bootstrap. */
  readonly map: () => MappedFile;
}

/** One device of an opened image: the blob behind it, and how to get its bytes. */
export interface OpenedDevice {
  /** The blob's id: 64 hex digits. */
  readonly id: string;
  /** The blob's digest, which the id is. */
  readonly digest: Digest;
  readonly blob: BlobInfo;
  readonly chunks: ChunkMap;
  readonly source: ByteSource;
  /** Of the device, uncompressed. */
  readonly sizeBytes: number;
}

/** The image that a bootstrap came in. */
export interface ImageDocuments {
  readonly descriptor: Descriptor;
  readonly manifest: Manifest;
  readonly manifestBytes: Uint8Array;
  /** The image's config, as it is. @throws EBADMSG; EIO */
  readConfig(): Promise<Uint8Array>;
}

/** A Nydus image that can be mounted, listed and read. Disposing closes its blobs; `bootstrap` is gone then. */
export interface OpenedImage extends AsyncDisposable {
  /** What the user called it. */
  readonly name: string;
  readonly bootstrapPath: string;
  /** The bootstrap's bytes. */
  readonly bootstrap: Uint8Array;
  /** The bootstrap as it is mapped. */
  readonly bootstrapFile: MappedFile;
  readonly rafs: RafsImage;
  /** `devices[slot - 1]`, as the bootstrap's device table has them. */
  readonly devices: readonly OpenedDevice[];
  /** The same, for those who read the blobs themselves. */
  readonly blobs: readonly OpenedDevice[];
  /** Where the image is more than a bootstrap. */
  readonly documents?: ImageDocuments;
}

/**
 * Opens a Nydus image by its name: the manifest for the platform, the bootstrap of its last layer (unpacked once into
 * the state directory), and each device's blob. Blobs are found by the device table: their order in the manifest is
 * the converter's affair.
 * @throws ENOENT no such image or platform, or a blob that no layer is; EINVAL a name that is none, or a plain OCI
 *   image; ENOTSUP another RAFS version; EBADMSG, EUCLEAN damaged; EIO
 */
export async function openImage(name: string, options: OpenImageOptions): Promise<OpenedImage> {
  await using stack = new Closers();
  const { root, signal = new AbortController().signal, registry, containerd } = options;
  const context = { root, signal, registry, containerd };
  const source = stack.use(await openImageSource(name, context, options.pull));
  const { descriptor, bytes } = await manifestOf(source, options);
  const reused = options.reuse?.(descriptor.digest);
  if (reused !== undefined) return reused;
  const manifest = parseManifest(bytes, descriptor.mediaType);
  const bootstrapLayer = bootstrapLayerOf(manifest, source.name);
  stack.use(await leaseParts(root, descriptor, manifest));
  const codecs = await loadCodecs();
  const { pinned } = options;
  const stored =
    pinned === undefined
      ? await storeBootstrap(source, bootstrapLayer, { root, codecs, signal })
      : await findStoredBootstrap(root, bootstrapLayer, pinned.map());
  stack.use(stored.file);
  const layers = new Map(manifest.layers.slice(0, -1).map((layer) => [hexOf(layer.digest), layer]));
  const readMeta = async (id: string): Promise<Uint8Array | undefined> => {
    const path = stored.metaPaths.get(id);
    return path === undefined ? undefined : await readFile(path);
  };
  const openBlob = ({ id }: BlobInfo): Promise<ByteSource> => {
    const layer = layers.get(id);
    if (layer !== undefined) return source.openBlob(layer);
    const digest = digestOfHex(id);
    throw new NydusError("ENOENT", `Cannot open image ${source.name}: no layer is this blob of its bootstrap`, {
      digest,
    });
  };
  const map = async (): Promise<MappedFile> => stored.file;
  const parts = { name: source.name, bootstrapPath: stored.path, map, openBlob, readMeta, codecs };
  const opened = await openParts(parts, stack);
  const readConfig = (): Promise<Uint8Array> => source.readBlob(manifest.config);
  return { ...opened, documents: { descriptor, manifest, manifestBytes: bytes, readConfig } };
}

async function manifestOf(
  source: ImageSource,
  { pinned, platform }: OpenImageOptions,
): Promise<{ readonly descriptor: Descriptor; readonly bytes: Uint8Array }> {
  if (pinned !== undefined) return { descriptor: pinned.descriptor, bytes: pinned.manifestBytes };
  return await chooseManifest(source, platform ?? hostPlatform(process.arch));
}

/** Keeps what is there of an image, its bootstrap and its caches, while it is open. */
async function leaseParts(root: string, descriptor: Descriptor, manifest: Manifest): Promise<Lease> {
  const lease = new Lease(storePaths(root));
  await lease.addIfWritable(descriptor.digest, manifest.config.digest, ...manifest.layers.map(({ digest }) => digest));
  return lease;
}

/** The layer that holds the bootstrap: always the last, and it says so. */
function bootstrapLayerOf(manifest: Manifest, name: string): Descriptor {
  const last = manifest.layers.at(-1);
  if (last?.annotations?.[ANNOTATION.nydusBootstrap] === "true") return last;
  const message = `Cannot open ${name}: it is a plain OCI image; convert it first: nydus convert ${name} TARGET`;
  throw new NydusError("EINVAL", message);
}

/** How {@link openBootstrap} opens. */
export interface OpenBootstrapOptions {
  readonly blobDir: string;
  /** Maps the bootstrap; `mapFile` unless given. */
  readonly map?: ((path: string) => Promise<MappedFile>) | undefined;
}

/**
 * Opens a bootstrap file with its blobs in a directory, where they are named by their ids.
 * @throws ENOENT no such file, or a blob that is not in the directory; EUCLEAN, ENOTSUP as {@link openImage}
 */
export async function openBootstrap(path: string, options: OpenBootstrapOptions): Promise<OpenedImage> {
  await using stack = new Closers();
  const openBlob = ({ id }: BlobInfo): Promise<ByteSource> => openBlobOfDir(options.blobDir, id);
  const readMeta = async (id: string): Promise<Uint8Array | undefined> => {
    try {
      return await readFile(join(options.blobDir, `${id}.blob.meta`));
    } catch (error) {
      if (asNydusError(error).code === "ENOENT") return undefined;
      throw asNydusError(error, { digest: digestOfHex(id) });
    }
  };
  const codecs = await loadCodecs();
  const { map } = options;
  return await openParts({ name: basename(path), bootstrapPath: path, map, openBlob, readMeta, codecs }, stack);
}

/** What an image is opened from. */
export interface ImageParts {
  readonly name: string;
  readonly bootstrapPath: string;
  readonly map?: ((path: string) => Promise<MappedFile>) | undefined;
  readonly openBlob: (blob: BlobInfo) => Promise<ByteSource>;
  /** The content of the blob's `.blob.meta` file where there is one beside the bootstrap. */
  readonly readMeta: (id: string) => Promise<Uint8Array | undefined>;
  /** Where metas that had to be read from blobs are kept; nowhere unless given. */
  readonly keptMetas?: KeptMetas | undefined;
  readonly codecs: Codecs;
}

/**
 * Opens an image from its parts.
 * @param stack what the image is to close; taken over when all has gone well
 * @throws as {@link openImage}
 */
export async function openParts(parts: ImageParts, stack: Closers): Promise<OpenedImage> {
  const { name, bootstrapPath } = parts;
  const file = stack.use(await (parts.map ?? mapFile)(bootstrapPath));
  const rafs = await inPlace({ path: bootstrapPath }, async () => openRafs(checkedSize(file.bytes)));
  const devices: OpenedDevice[] = [];
  for (const blob of rafs.blobs) {
    const digest = digestOfHex(blob.id);
    // First what needs no blob: a kind that is not supported is a better answer than a blob that is not there.
    const mapped = needsBlobMeta(blob) ? undefined : inPlace({ digest }, () => rafs.chunkMap(blob.index));
    const source = await inPlace({ digest }, () => parts.openBlob(blob));
    stack.defer(() => source.close());
    const chunks = mapped ?? (await inPlace({ digest }, () => batchedMap(parts, rafs, blob, source)));
    devices.push({ id: blob.id, digest, blob, chunks, source, sizeBytes: blob.deviceBytes });
  }
  const owned = stack.move();
  const dispose = (): Promise<void> => owned[Symbol.asyncDispose]();
  const image = { name, bootstrapPath, bootstrap: file.bytes, bootstrapFile: file, rafs, devices, blobs: devices };
  return { ...image, [Symbol.asyncDispose]: dispose };
}

function checkedSize(bytes: Uint8Array): Uint8Array {
  if (bytes.length <= BOOTSTRAP_LIMITS.bootstrapBytes) return bytes;
  throw new NydusError("EUCLEAN", `Cannot open bootstrap: ${bytes.length} bytes are too many`);
}

/** By the blob's meta: from beside the bootstrap, else as it was kept, else from the blob itself. */
async function batchedMap(parts: ImageParts, rafs: RafsImage, blob: BlobInfo, source: ByteSource): Promise<ChunkMap> {
  const beside = await parts.readMeta(blob.id);
  if (beside !== undefined) return rafs.chunkMap(blob.index, beside);
  const kept = await parts.keptMetas?.read(blob.id, rafs.bytes);
  if (kept !== undefined) return rafs.chunkMap(blob.index, kept);
  const meta = await metaOfBlob(parts, blob, source);
  const map = rafs.chunkMap(blob.index, meta);
  await parts.keptMetas?.keep(blob.id, rafs.bytes, meta);
  return map;
}

async function metaOfBlob(parts: ImageParts, blob: BlobInfo, source: ByteSource): Promise<Uint8Array> {
  // Not verified, and no need to be: whatever it says, a chunk is only taken when its digest is right.
  if (blob.ciBytes > BOOTSTRAP_LIMITS.metaBytes) {
    throw new NydusError("EUCLEAN", `Cannot read blob meta: ${blob.ciBytes} bytes are too many`);
  }
  const end = blob.ciOffset + blob.ciCompressedBytes + BLOB_META_HEADER_BYTES;
  if (end > source.sizeBytes) {
    throw new NydusError("EUCLEAN", `Cannot read blob meta: it ends at ${end}, the blob at ${source.sizeBytes}`);
  }
  const bytes = await source.readAt({ start: blob.ciOffset, end });
  const packed = bytes.subarray(0, blob.ciCompressedBytes);
  const ci = parts.codecs.decompress(blob.ciCompressor, packed, blob.ciBytes);
  return encodeBlobMetaFile(ci, bytes.subarray(blob.ciCompressedBytes));
}

/** What caches of an image are opened with. */
export interface DeviceCacheOptions {
  /** Directory of all state. */
  readonly root: string;
  readonly pool: CodecPool;
  readonly readTimeoutMs?: number | undefined;
}

/**
 * Opens a cache for each device of an image, in the state directory: `caches[slot - 1]`. Close them before the image.
 * @throws ENOSPC, EPERM, EIO
 */
export function openDeviceCaches(
  image: Pick<OpenedImage, "devices">,
  options: DeviceCacheOptions,
): Promise<BlobCache[]> {
  return openEachDevice(image, options, BlobCache.open);
}

/** The same, each opened by `open`; what was opened before a failure is closed again. */
export async function openEachDevice<T extends AsyncDisposable>(
  image: Pick<OpenedImage, "devices">,
  { root, pool, readTimeoutMs }: DeviceCacheOptions,
  open: (options: BlobCacheOptions) => Promise<T>,
): Promise<T[]> {
  await using stack = new Closers();
  const caches: T[] = [];
  for (const { id, chunks, source, sizeBytes } of image.devices) {
    const dir = join(root, "cache");
    caches.push(stack.use(await open({ dir, id, chunks, source, pool, sizeBytes, readTimeoutMs })));
  }
  stack.move();
  return caches;
}
