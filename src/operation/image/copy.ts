import { forEachBounded } from "../../base/async.ts";
import type { Digest } from "../../base/digest.ts";
import { inPlace, NydusError } from "../../base/errors.ts";
import type { ImageSource } from "../../content/store/store.ts";
import {
  type Descriptor,
  type Manifest,
  type Platform,
  parseManifest,
  parseManifestOrIndex,
} from "../../format/oci/manifest.ts";
import { ANNOTATION } from "../../format/oci/media-type.ts";
import { isNydusManifest, selectPlatform } from "../../format/oci/platform.ts";
import { type CopyContext, copyBlob } from "./copy-blob.ts";
import { type ImageProgress, NO_PROGRESS } from "./progress.ts";

/** Blobs copied at once, as containerd and docker do. */
const BLOBS_AT_ONCE = 3;

/** What is copied of an image. */
export interface CopyOptions {
  /** Of an index: the images of these platforms (a Nydus one before a plain one), or all there is. */
  readonly platforms: readonly [Platform, ...Platform[]] | "all";
  /** Of Nydus images only what a mount needs to begin: manifest, config and bootstrap. */
  readonly lazy: boolean;
  /**
   * Whether the target takes an index of which some images are missing; it does unless this says no: then a single
   * platform's manifest is copied as an image of its own.
   */
  readonly keepsIndex?: boolean;
  readonly progress?: ImageProgress | undefined;
}

/** One blob of a copied image. */
export interface CopiedLayer {
  readonly mediaType: string;
  readonly digest: Digest;
  readonly sizeBytes: number;
  /** Bytes read from the source; fewer than the size when the target had the blob or some of it. */
  readonly fetchedBytes: number;
}

/** What a copy has made of an image. */
export interface CopiedImage {
  /** The top manifest or index, byte for byte as in the source. */
  readonly root: Descriptor;
  readonly manifests: readonly { readonly descriptor: Descriptor; readonly manifest: Manifest }[];
  /** Configs and layers, each once. */
  readonly blobs: readonly CopiedLayer[];
}

interface FoundManifest {
  readonly descriptor: Descriptor;
  readonly bytes: Uint8Array;
  readonly manifest: Manifest;
}

/**
 * Copies an image as it is: blobs side by side, then manifests, the name last. An index keeps its bytes, also where
 * only some of its images are copied.
 * @throws ENOENT no such image or platform; EBADMSG; ENOTSUP a lazy copy of a plain image; as source and target do
 */
export async function copyImage(context: CopyContext, options: CopyOptions): Promise<CopiedImage> {
  const { source, target } = context;
  const { progress = NO_PROGRESS } = options;
  const top = await source.root();
  const manifests = await chooseManifests(source, top, options.platforms);
  const root = options.keepsIndex === false ? wholeRoot(top, manifests, options.platforms) : top;
  const wanted = manifests.flatMap(({ manifest }) =>
    options.lazy ? lazyParts(manifest, source.name) : [manifest.config, ...manifest.layers],
  );
  const blobs = await copyBlobs(context, wanted, progress);
  for (const { descriptor, bytes } of manifests) {
    if (descriptor.digest !== root.descriptor.digest) await target.putBytes(descriptor, bytes);
  }
  await target.commit(root.descriptor, root.bytes);
  return { root: root.descriptor, manifests, blobs };
}

/** The root of a copy that lacks nothing. @throws EINVAL some of an index's images are wanted, and not one */
function wholeRoot(
  top: FoundRoot,
  manifests: readonly FoundManifest[],
  platforms: CopyOptions["platforms"],
): FoundRoot {
  const [first, ...others] = manifests;
  if (platforms === "all" || first === undefined) return top;
  if (others.length === 0) return first;
  throw new NydusError("EINVAL", "Cannot copy some platforms of an image there: name one of them, or copy them all");
}

interface FoundRoot {
  readonly descriptor: Descriptor;
  readonly bytes: Uint8Array;
}

async function chooseManifests(
  source: ImageSource,
  root: { readonly descriptor: Descriptor; readonly bytes: Uint8Array },
  platforms: CopyOptions["platforms"],
): Promise<readonly FoundManifest[]> {
  const parsed = parseManifestOrIndex(root.bytes, root.descriptor.mediaType);
  if (parsed.kind === "manifest") return [{ ...root, manifest: parsed.manifest }];
  const { manifests } = parsed.index;
  const chosen =
    platforms === "all" ? manifests : platforms.map((platform) => selectPlatform(manifests, platform, isNydusManifest));
  const found: FoundManifest[] = [];
  for (const descriptor of new Set(chosen)) {
    const bytes = await source.readBlob(descriptor);
    const manifest = inPlace({ digest: descriptor.digest }, () => parseManifest(bytes, descriptor.mediaType));
    found.push({ descriptor, bytes, manifest });
  }
  return found;
}

function lazyParts(manifest: Manifest, name: string): readonly Descriptor[] {
  const last = manifest.layers.at(-1);
  if (last?.annotations?.[ANNOTATION.nydusBootstrap] === "true") return [manifest.config, last];
  throw new NydusError("ENOTSUP", `Cannot pull ${name} lazily: it is not a Nydus image, its layers are needed whole`);
}

/** Copies each blob once; when one fails the others are stopped before its error leaves. */
async function copyBlobs(
  context: CopyContext,
  descriptors: readonly Descriptor[],
  progress: ImageProgress,
): Promise<readonly CopiedLayer[]> {
  const stop = new AbortController();
  const signal = AbortSignal.any([context.signal, stop.signal]);
  const copied = new Map<Digest, CopiedLayer>();
  const unique = new Map(descriptors.map((descriptor) => [descriptor.digest, descriptor]));
  await forEachBounded(BLOBS_AT_ONCE, unique.values(), async (descriptor) => {
    try {
      copied.set(descriptor.digest, await copyOne({ ...context, signal }, descriptor, progress));
    } catch (error) {
      stop.abort(error);
      throw error;
    }
  });
  return [...unique.keys()].map((digest) => copied.get(digest) as CopiedLayer);
}

async function copyOne(context: CopyContext, descriptor: Descriptor, progress: ImageProgress): Promise<CopiedLayer> {
  const { mediaType, digest, size: sizeBytes } = descriptor;
  const shown = { digest, sizeBytes };
  progress.layerStarted(shown);
  const { fetchedBytes } = await inPlace({ digest }, () =>
    copyBlob(context, descriptor, (count) => progress.layerAdvanced(shown, count)),
  );
  progress.layerDone(shown, { blobBytes: sizeBytes, reused: fetchedBytes === 0 && sizeBytes > 0 });
  return { mediaType, digest, sizeBytes, fetchedBytes };
}
