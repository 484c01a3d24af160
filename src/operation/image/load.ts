import type { Digest } from "../../base/digest.ts";
import { NydusError } from "../../base/errors.ts";
import { openContainerdTarget } from "../../content/containerd/containerd-target.ts";
import { throwIfAborted } from "../../content/store/abort.ts";
import { type ArchiveImage, openArchiveImages } from "../../content/store/archive-images.ts";
import type { StoreContext } from "../../content/store/store.ts";
import { stageIn } from "../../content/store/tar-archive.ts";
import type { Platform } from "../../format/oci/manifest.ts";
import { formatReference, parseReference } from "../../format/oci/reference.ts";
import { loadCodecs } from "../../os/codecs.ts";
import { type Preparation, preparedPlatform, prepareTarget, type SnapshotterChoice } from "./containerd-prepare.ts";
import { copyImage } from "./copy.ts";
import type { ImageProgress } from "./progress.ts";

/** A load as a user asks for it. */
export interface LoadRequest extends StoreContext {
  /** The archive's file, or its bytes. */
  readonly from: { readonly path: string } | { readonly stream: AsyncIterable<Uint8Array> };
  /** Of an index. */
  readonly platforms: readonly [Platform, ...Platform[]] | "all";
  /** What to prepare images for; undefined: they are only stored. */
  readonly prepare?: SnapshotterChoice | undefined;
  /** Called with each image once containerd has it. */
  readonly onLoaded: (image: LoadedImage) => Promise<void>;
  readonly progress?: ImageProgress | undefined;
  readonly signal: AbortSignal;
}

/** One name of an image that was loaded. */
export interface LoadedImage {
  readonly name: string;
  readonly digest: Digest;
  readonly prepared?: Preparation;
}

/**
 * Loads every image of an archive into containerd, under the names that it has there; one without a name is called by
 * its digest, as nerdctl does.
 * @throws EUCLEAN no archive of images; ENOENT none in it; EINVAL a name that is none; as `copyImage` and containerd
 */
export async function loadImages(request: LoadRequest): Promise<void> {
  const { from } = request;
  if ("path" in from) return await loadFile(from.path, request);
  const temp = await stageIn(request.root);
  try {
    for await (const piece of from.stream) {
      throwIfAborted(request.signal);
      await temp.write(piece);
    }
    await loadFile(temp.path, request);
  } finally {
    await temp[Symbol.asyncDispose]();
  }
}

async function loadFile(path: string, request: LoadRequest): Promise<void> {
  await using archive = await openArchiveImages(path, request);
  if (archive.images.length === 0)
    throw new NydusError("ENOENT", "Cannot load images: the archive holds none", { path });
  for (const image of archive.images) await loadImage(image, request);
}

async function loadImage({ names, source }: ArchiveImage, request: LoadRequest): Promise<void> {
  const { signal, platforms, progress, prepare } = request;
  const { descriptor } = await source.root();
  const named = names.map((name) => formatReference(parseReference(name)));
  const codecs = await loadCodecs();
  for (const name of named.length === 0 ? [`${prepare?.snapshotter ?? "nydus"}@${descriptor.digest}`] : named) {
    await using target = openContainerdTarget(name, `containerd:${name}`, request);
    const { root } = await copyImage({ source, target, codecs, signal }, { platforms, lazy: false, progress });
    const options = prepare && { ...prepare, platform: preparedPlatform(platforms), signal, progress };
    const prepared = await prepareTarget(target, options);
    await request.onLoaded({ name, digest: root.digest, ...(prepared && { prepared }) });
  }
}
