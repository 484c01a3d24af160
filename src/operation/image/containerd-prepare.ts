import { asNydusError, inPlace, NydusError } from "../../base/errors.ts";
import { Containerd } from "../../content/containerd/connection.ts";
import { ContainerdSource } from "../../content/containerd/containerd-source.ts";
import { ContainerdTarget } from "../../content/containerd/containerd-target.ts";
import { findImage } from "../../content/containerd/images.ts";
import { ContainerdLease } from "../../content/containerd/lease.ts";
import type { ContainerdPlace } from "../../content/containerd/place.ts";
import { hasSnapshotter } from "../../content/containerd/snapshotters.ts";
import { unpackImage } from "../../content/containerd/unpack.ts";
import type { ImageTarget } from "../../content/store/store.ts";
import { parseConfig } from "../../format/oci/config.ts";
import { type Manifest, type Platform, parseManifest } from "../../format/oci/manifest.ts";
import { ANNOTATION } from "../../format/oci/media-type.ts";
import { hostPlatform } from "../../format/oci/platform.ts";
import { type ImageProgress, NO_PROGRESS } from "./progress.ts";
import { chooseManifest } from "./read-manifest.ts";

/** For which snapshotter an image is prepared. */
export interface SnapshotterChoice {
  readonly snapshotter: string;
  /**
   * Whether the user has named it: then plain images are unpacked as well, which containerd would do by itself when
   * they are run, and a snapshotter that is not there is an error.
   */
  readonly isChosen: boolean;
}

/** What has become of an image in containerd besides being stored. */
export interface Preparation {
  /** The image's full name. */
  readonly image: string;
  readonly snapshotter: string;
  /** Whether containers start from it at once. */
  readonly isReady: boolean;
  /** Why not. */
  readonly reason?: string;
}

/** How images are prepared. */
export interface PrepareOptions extends SnapshotterChoice {
  /** Of an index. */
  readonly platform: Platform;
  readonly signal: AbortSignal;
  readonly progress?: ImageProgress | undefined;
}

/**
 * Prepares the image that a target has got, if that is containerd's: makes its snapshots, under the target's lease.
 * @returns undefined where there is nothing to prepare
 * @throws as {@link prepareImage}
 */
export async function prepareTarget(
  target: ImageTarget,
  options: PrepareOptions | undefined,
): Promise<Preparation | undefined> {
  if (options === undefined || !(target instanceof ContainerdTarget)) return undefined;
  return await prepareNamed(target.containerd, target.imageName, options);
}

/** The platform whose image is prepared: the only one that is wanted, else this machine's. */
export function preparedPlatform(platforms: readonly Platform[] | "all"): Platform {
  const [first, ...others] = platforms === "all" ? [] : platforms;
  return first !== undefined && others.length === 0 ? first : hostPlatform(process.arch);
}

/** An image that is in containerd already. */
export interface PrepareRequest extends PrepareOptions {
  readonly image: string;
  readonly containerd: ContainerdPlace;
}

/**
 * Makes the snapshots of an image that containerd has, so that containers start from it without a pull.
 * @throws ENOENT no such image, platform or snapshotter; EBADMSG, EUCLEAN a damaged image; as containerd's calls
 */
export async function prepareImage(request: PrepareRequest): Promise<Preparation> {
  using containerd = new Containerd(request.containerd);
  await using lease = new ContainerdLease(containerd);
  const { name } = await findImage(containerd, request.image, request.signal);
  await lease.hold();
  const prepared = await prepareNamed(containerd, name, { ...request, isChosen: true });
  lease.done();
  if (prepared?.isReady === true) return prepared;
  throw new NydusError("EFAULT", `Cannot prepare image ${name}: nothing came of it`);
}

async function prepareNamed(
  containerd: Containerd,
  name: string,
  options: PrepareOptions,
): Promise<Preparation | undefined> {
  const { snapshotter, isChosen, signal, progress = NO_PROGRESS } = options;
  const image = await readImage(containerd, name, options);
  if (!isChosen && !isNydus(image.manifest)) return undefined;
  const known = { image: name, snapshotter };
  if (!(await hasSnapshotter(containerd, snapshotter, signal))) {
    const reason = `containerd has no snapshotter ${snapshotter}`;
    if (!isChosen) return { ...known, isReady: false, reason };
    throw new NydusError("ENOENT", `Cannot prepare image ${name}: ${reason}`);
  }
  progress.step(`preparing snapshots of ${image.manifest.layers.length} layers for ${snapshotter}`);
  try {
    await unpackImage(containerd, image, { snapshotter, signal });
    return { ...known, isReady: true };
  } catch (error) {
    const failure = asNydusError(error);
    if (isChosen || signal.aborted || !PASSABLE.includes(failure.code)) throw failure;
    return { ...known, isReady: false, reason: failure.message };
  }
}

/** Failures of a snapshotter that nobody has asked for; the image is stored all the same. */
const PASSABLE: readonly string[] = ["EIO", "ETIMEDOUT", "ENOTSUP"];

function isNydus({ layers }: Manifest): boolean {
  return layers.at(-1)?.annotations?.[ANNOTATION.nydusBootstrap] === "true";
}

async function readImage(
  containerd: Containerd,
  name: string,
  { platform, signal }: PrepareOptions,
): Promise<Parameters<typeof unpackImage>[1]> {
  const source = new ContainerdSource(containerd, name, { name: `containerd:${name}`, signal });
  const { descriptor, bytes } = await chooseManifest(source, platform);
  const manifest = inPlace({ digest: descriptor.digest }, () => parseManifest(bytes, descriptor.mediaType));
  const config = await source.readBlob(manifest.config);
  const { diffIds } = inPlace({ digest: manifest.config.digest }, () => parseConfig(config));
  return { name, manifest, manifestDigest: descriptor.digest, diffIds };
}
