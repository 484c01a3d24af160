import { digestOfHex } from "../../base/digest.ts";
import { asNydusError, NydusError } from "../../base/errors.ts";
import type { SharedRegistries } from "../../content/registry/shared-registries.ts";
import { Closers } from "../../content/store/closers.ts";
import { BLOB_META_HEADER_BYTES } from "../../format/rafs/blob-meta.ts";
import type { BlobInfo } from "../../format/rafs/blob-table.ts";
import { loadCodecs } from "../../os/codecs.ts";
import type { MappedFile } from "../../os/mmap.ts";
import { verifyMapped } from "./bootstrap-digest.ts";
import { BOOTSTRAP_LIMITS, BOOTSTRAP_PATHS } from "./bootstrap-store.ts";
import { type ImageParts, type OpenedImage, openParts } from "./open.ts";
import { KeptMetas } from "./open-kept-meta.ts";
import { type BlobPlace, PlacesSource } from "./open-places.ts";
import { openUnpacked, readUnpacked, type UnpackedFile } from "./open-unpacked.ts";
import { pinBootstrap } from "./pin-bootstrap.ts";

/** An image by the directory that its bootstrap layer was unpacked into, and the places that may have its blobs. */
export interface BootstrapDirRequest {
  readonly bootstrapDir: string;
  /** Of the bootstrap when the layer was unpacked, hex, where that is known. */
  readonly sha256?: string | undefined;
  /** In the order in which they are asked. */
  readonly places: readonly BlobPlace[];
}

/** How {@link openBootstrapDir} opens. */
export interface BootstrapDirOptions {
  /** Directory of all state. */
  readonly root: string;
  /** Connections and tokens of the process. */
  readonly registries: SharedRegistries;
  /** Maps the bootstrap that the process before this one had opened, whatever the directory has by now. */
  readonly map?: (() => MappedFile) | undefined;
}

/**
 * The bootstrap of an unpacked layer, under either of its names.
 * @throws ENOENT there is none; EUCLEAN something else is there: a layer chooses what; EPERM, EIO
 */
export function findUnpackedBootstrap(dir: string): UnpackedFile {
  for (const path of BOOTSTRAP_PATHS) {
    const file = openUnpacked(dir, path.split("/"));
    if (file !== undefined) return file;
  }
  throw new NydusError("ENOENT", `Cannot open bootstrap: the layer has no ${BOOTSTRAP_PATHS[0]}`, { path: dir });
}

/**
 * Opens an image by its unpacked bootstrap, which is not trusted. No place of its blobs is asked for anything, but for
 * the meta of batched blobs that is neither beside the bootstrap nor kept from an earlier time.
 * @param file of {@link findUnpackedBootstrap}; undefined where `map` is given
 * @throws as `openImage`
 */
export async function openBootstrapDir(
  file: UnpackedFile | undefined,
  request: BootstrapDirRequest,
  { root, registries, map }: BootstrapDirOptions,
): Promise<OpenedImage> {
  await using stack = new Closers();
  const { bootstrapDir } = request;
  const places = request.places.map((place) => withShared(place, registries));
  const parts: ImageParts = {
    name: bootstrapDir,
    bootstrapPath: file?.path ?? bootstrapDir,
    map: async () => {
      if (file === undefined) return await mapHanded(map, bootstrapDir);
      return verified(await pinOpened(file, root), request.sha256, file.path);
    },
    openBlob: async (blob) =>
      new PlacesSource({ digest: digestOfHex(blob.id), leastBytes: leastBytesOf(blob) }, places),
    readMeta: async (id) => readMetaBeside(bootstrapDir, id),
    keptMetas: new KeptMetas(root, JSON.stringify(request.places)),
    codecs: await loadCodecs(),
  };
  return await openParts(parts, stack);
}

function mapHanded(map: (() => MappedFile) | undefined, path: string): MappedFile {
  if (map !== undefined) return map();
  throw new NydusError("EINVAL", "Cannot open bootstrap: neither a file nor a mapping of one is given", { path });
}

/** Builders do not count all that they append: a blob may have more, which nobody needs. */
function leastBytesOf({ compressedBytes, ciOffset, ciCompressedBytes }: BlobInfo): number {
  return Math.max(compressedBytes, ciCompressedBytes === 0 ? 0 : ciOffset + ciCompressedBytes + BLOB_META_HEADER_BYTES);
}

function withShared(place: BlobPlace, shared: SharedRegistries): BlobPlace {
  if ("containerd" in place) return place;
  const { reference, options } = place.registry;
  return { registry: { reference, options: { ...options, shared } } };
}

/** The blob's meta that lies beside the bootstrap, under either of its names. */
function readMetaBeside(dir: string, id: string): Uint8Array | undefined {
  for (const path of BOOTSTRAP_PATHS) {
    const file = openUnpacked(dir, [...path.split("/").slice(0, -1), `${id}.blob.meta`]);
    if (file !== undefined) return readUnpacked(file, BOOTSTRAP_LIMITS.metaBytes);
  }
  return undefined;
}

function verified(copy: MappedFile, sha256: string | undefined, path: string): MappedFile {
  try {
    if (sha256 !== undefined) verifyMapped(copy, sha256);
    return copy;
  } catch (error) {
    copy.close();
    throw asNydusError(error, { path });
  }
}

/** A copy that whoever can write to the layer cannot reach. */
async function pinOpened({ fd, path, sizeBytes }: UnpackedFile, root: string): Promise<MappedFile> {
  if (sizeBytes > BOOTSTRAP_LIMITS.bootstrapBytes) {
    throw new NydusError("EUCLEAN", `Cannot open bootstrap: ${sizeBytes} bytes are too many`, { path });
  }
  try {
    return await pinBootstrap(`/proc/self/fd/${fd}`, root);
  } catch (error) {
    const { code, message } = asNydusError(error);
    throw new NydusError(code, message, { path }, { cause: error });
  }
}
