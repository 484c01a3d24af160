import type { Digest } from "../../base/digest.ts";
import type { ContainerdPlace } from "../../content/containerd/place.ts";
import { openImageSource, type PullPolicy } from "../../content/local/open-image-source.ts";
import type { RegistryOptions } from "../../content/registry/registry-options.ts";
import { openTarget } from "../../content/store/open-store.ts";
import type { ImageTarget } from "../../content/store/store.ts";
import type { Compressor, Digester } from "../../format/codec/codecs.ts";
import { hostPlatform, parsePlatform } from "../../format/oci/platform.ts";
import { parseImageName } from "../../format/oci/transport.ts";
import { openCodecPool } from "../../os/codec-threads.ts";
import { loadCodecs } from "../../os/codecs.ts";
import type { Preparation, SnapshotterChoice } from "./containerd-prepare.ts";
import { type ConvertedImage, type ConvertOptions, convertBetween } from "./convert-between.ts";
import type { ExtraAnnotations } from "./convert-manifest.ts";
import { readPathList } from "./prefetch.ts";
import { type ImageProgress, NO_PROGRESS } from "./progress.ts";

/** zstd's own default, and nydus-image's. */
export const DEFAULT_ZSTD_LEVEL = 3;

/** A conversion as a user asks for it. */
export interface ConvertRequest {
  /** Names as containers-transports(5) has them. */
  readonly source: string;
  readonly target: string;
  /** Directory of all state: temporary files go under it. */
  readonly root: string;
  /** `os/arch[/variant]` each; none is this machine's. */
  readonly platforms: readonly string[];
  /** Every image of an index, attestations passed through. */
  readonly allPlatforms: boolean;
  /** Whether the image store or the registry says what the source's name means. */
  readonly pull?: PullPolicy | undefined;
  /** How registries are reached. */
  readonly registry?: RegistryOptions | undefined;
  /** Which containerd is meant, and whose images in it. */
  readonly containerd?: ContainerdPlace | undefined;
  /** In containerd: what to prepare the image for; undefined: it is only stored. */
  readonly prepare?: SnapshotterChoice | undefined;
  readonly compressor: Compressor;
  /** Of zstd, {@link DEFAULT_ZSTD_LEVEL} when left out. */
  readonly compressionLevel?: number | undefined;
  /** A power of two, 4 KiB to 16 MiB. */
  readonly chunkBytes: number;
  readonly digester: Digester;
  /** Names the source in the manifest: its digest then depends on where the source lay. */
  readonly annotateSource: boolean;
  /** Names this program in the manifest. */
  readonly builderVersion?: string | undefined;
  /** File with paths whose data readers are to fetch first, one a line. */
  readonly prefetchListPath?: string | undefined;
  readonly progress?: ImageProgress;
  readonly signal: AbortSignal;
}

/** What a conversion made. */
export interface ConvertSummary {
  readonly digest: Digest;
  readonly mediaType: string;
  readonly sizeBytes: number;
  readonly images: readonly ConvertedImage[];
  /** Of a conversion into containerd. */
  readonly prepared?: Preparation;
}

/** Opens both ends, converts, and closes everything again, whatever happens. @throws as `convertBetween` and the stores */
export async function convertImage(request: ConvertRequest): Promise<ConvertSummary> {
  const { root, signal, registry, containerd, compressor, chunkBytes, digester } = request;
  const platforms = platformsOf(request);
  const { prefetchListPath: list } = request;
  const prefetchPaths = list === undefined ? undefined : await readPathList(list);
  await using pool = openCodecPool({ eager: true }); // its threads start while the ends are opened
  const context = { root, signal, registry, containerd };
  await using source = await openImageSource(request.source, context, request.pull);
  await using target = await openTarget(request.target, context);
  const codecs = await loadCodecs();
  const annotations: ExtraAnnotations = {
    ...(request.annotateSource && { sourceReference: source.name }),
    ...(request.builderVersion !== undefined && { builderVersion: request.builderVersion }),
  };
  const { root: made, images } = await convertBetween(
    { source, target, codecs, pool, signal, progress: request.progress ?? NO_PROGRESS },
    {
      ...{ platforms, compressor, chunkBytes, digester, annotations, prefetchPaths },
      level: request.compressionLevel ?? DEFAULT_ZSTD_LEVEL,
    },
  );
  const prepared = await prepareMade(request, target, platforms);
  return {
    digest: made.digest,
    mediaType: made.mediaType,
    sizeBytes: made.size,
    images,
    ...(prepared && { prepared }),
  };
}

/** Prepares the image in containerd; what does that is loaded only where it is. */
async function prepareMade(
  { target: name, prepare, signal, progress }: ConvertRequest,
  target: ImageTarget,
  platforms: ConvertOptions["platforms"],
): Promise<Preparation | undefined> {
  if (prepare === undefined || parseImageName(name).transport !== "containerd") return undefined;
  const { preparedPlatform, prepareTarget } = await import("./containerd-prepare.ts");
  return await prepareTarget(target, { ...prepare, platform: preparedPlatform(platforms), signal, progress });
}

function platformsOf(request: ConvertRequest): ConvertOptions["platforms"] {
  if (request.allPlatforms) return "all";
  const [first = hostPlatform(process.arch), ...others] = request.platforms.map(parsePlatform);
  return [first, ...others];
}
