import { forEachBounded, mapBounded } from "../../base/async.ts";
import { type Digest, digestOfSum } from "../../base/digest.ts";
import { inPlace, NydusError } from "../../base/errors.ts";
import type { ImageSource, ImageTarget } from "../../content/store/store.ts";
import type { Codecs } from "../../format/codec/codecs.ts";
import {
  type Descriptor,
  type Index,
  type Manifest,
  type Platform,
  parseManifest,
  parseManifestOrIndex,
  serializeIndex,
} from "../../format/oci/manifest.ts";
import { ANNOTATION, layerFormat, MEDIA_TYPE } from "../../format/oci/media-type.ts";
import { isAttestation, selectPlatform } from "../../format/oci/platform.ts";
import type { CodecPool } from "../../os/codec-pool.ts";
import { writeBootstrapLayer } from "../build/bootstrap-layer.ts";
import type { ChunkOptions } from "../build/chunk-pipeline.ts";
import { LateCommits } from "../build/late-commits.ts";
import { type BuiltLayer, buildLayer } from "../build/layer.ts";
import { type LayerWatch, untilVerified, verifiedLayerBytes } from "../build/layer-bytes.ts";
import { mergeBuiltLayers } from "../build/merge.ts";
import { convertedConfig, convertedManifest, type ExtraAnnotations } from "./convert-manifest.ts";
import { copyBlob } from "./copy-blob.ts";
import { type ImageProgress, NO_PROGRESS } from "./progress.ts";

/** Layers built at once: their reads and writes overlap, their chunks share the threads. */
const LAYERS_AT_ONCE = 2;
/** Most bytes of a config. */
const CONFIG_BYTES_MAX = 8 << 20;

/** What a conversion works with; all of it belongs to the caller. */
export interface ConvertContext {
  readonly source: ImageSource;
  readonly target: ImageTarget;
  readonly codecs: Codecs;
  readonly pool: CodecPool;
  readonly signal: AbortSignal;
  readonly progress?: ImageProgress;
}

/** What is converted, and how. */
export interface ConvertOptions extends ChunkOptions {
  /** Of an index: the image of each of these platforms (one gives a single manifest, more an index), or all there is. */
  readonly platforms: readonly [Platform, ...Platform[]] | "all";
  readonly annotations?: ExtraAnnotations;
  /** Paths whose data readers are to fetch first. */
  readonly prefetchPaths?: readonly Uint8Array[] | undefined;
}

/** One layer of a converted image. */
export interface ConvertedLayer {
  readonly sourceDigest: Digest;
  readonly sourceBytes: number;
  readonly digest: Digest;
  readonly sizeBytes: number;
}

/** One image that was converted. */
export interface ConvertedImage {
  readonly descriptor: Descriptor;
  readonly layers: readonly ConvertedLayer[];
  readonly bootstrap: { readonly digest: Digest; readonly sizeBytes: number };
}

/** What a conversion made: the target's root, and each image below it. */
export interface ConvertResult {
  readonly root: Descriptor;
  readonly images: readonly ConvertedImage[];
}

/**
 * Converts an image to Nydus (RAFS v6): a blob for each layer, the merged bootstrap last. Nothing has its name in the
 * target before everything is there.
 * @throws ENOENT no such image or platform; EBADMSG, EUCLEAN a damaged source; ENOTSUP a source that is Nydus already
 */
export async function convertBetween(context: ConvertContext, options: ConvertOptions): Promise<ConvertResult> {
  const { source } = context;
  const root = await source.root();
  const parsed = parseManifestOrIndex(root.bytes, root.descriptor.mediaType);
  if (parsed.kind === "manifest") {
    return await convertSingle(context, options, { descriptor: root.descriptor, bytes: root.bytes });
  }
  const { index } = parsed;
  if (options.platforms === "all") return await convertIndex(context, options, index);
  const chosen = options.platforms.map((platform) => selectPlatform(index.manifests, platform));
  const [only, ...others] = chosen;
  if (only !== undefined && others.length === 0) {
    return await convertSingle(context, options, await readManifest(source, only));
  }
  return await convertIndex(context, options, { ...index, manifests: [...new Set(chosen)] });
}

async function convertSingle(
  context: ConvertContext,
  options: ConvertOptions,
  raw: RawManifest,
): Promise<ConvertResult> {
  const { bytes, ...image } = await convertManifest(context, options, raw);
  await context.target.commit(image.descriptor, bytes);
  return { root: image.descriptor, images: [image] };
}

interface RawManifest {
  readonly descriptor: Descriptor;
  readonly bytes: Uint8Array;
}

async function readManifest(source: ImageSource, descriptor: Descriptor): Promise<RawManifest> {
  return { descriptor, bytes: await source.readBlob(descriptor) };
}

/** Every image of an index; attestations and the like are passed through as they are. */
async function convertIndex(context: ConvertContext, options: ConvertOptions, index: Index): Promise<ConvertResult> {
  const images: ConvertedImage[] = [];
  const manifests: Descriptor[] = [];
  for (const descriptor of index.manifests) {
    const raw = await readManifest(context.source, descriptor);
    if (isAttestation(descriptor)) {
      await passThrough(context, raw);
      manifests.push(descriptor);
      continue;
    }
    const { bytes, ...image } = await convertManifest(context, options, raw);
    await context.target.putBytes(image.descriptor, bytes);
    images.push(image);
    manifests.push(
      descriptor.platform === undefined ? image.descriptor : { ...image.descriptor, platform: descriptor.platform },
    );
  }
  const bytes = serializeIndex({
    schemaVersion: 2,
    mediaType: MEDIA_TYPE.ociIndex,
    manifests,
    ...(index.annotations === undefined ? {} : { annotations: index.annotations }),
  });
  const root = describe(context.codecs, MEDIA_TYPE.ociIndex, bytes);
  await context.target.commit(root, bytes);
  return { root, images };
}

async function passThrough(context: ConvertContext, raw: RawManifest): Promise<void> {
  const manifest = parseManifest(raw.bytes, raw.descriptor.mediaType);
  await forEachBounded(LAYERS_AT_ONCE, [manifest.config, ...manifest.layers], async (blob) => {
    await copyBlob(context, blob);
  });
  await context.target.putBytes(raw.descriptor, raw.bytes);
}

async function convertManifest(
  context: ConvertContext,
  options: ConvertOptions,
  raw: RawManifest,
): Promise<ConvertedImage & { readonly bytes: Uint8Array }> {
  const { source, target, codecs, progress = NO_PROGRESS } = context;
  const manifest = parseManifest(raw.bytes, raw.descriptor.mediaType);
  refuseNydus(manifest, raw.descriptor.digest);
  const sourceConfig = await source.readBlob(manifest.config, CONFIG_BYTES_MAX);
  await using commits = new LateCommits();
  const layers = await buildLayers({ ...context, commits }, options, manifest.layers);
  progress.step(`merging ${layers.length} layers`);
  const merged = mergeBuiltLayers(layers, options);
  const listed = options.prefetchPaths?.length ?? 0;
  if (listed > 0) progress.step(`${merged.prefetched} of ${listed} paths to prefetch are in the image`);
  await using sink = commits.sink(await target.newBlob(), {});
  const metaFiles = merged.blobs.map(({ digest, metaFile }) => ({ digest, content: metaFile }));
  const bootstrap = await writeBootstrapLayer(sink, codecs, merged.bootstrap, metaFiles);
  progress.step("writing manifest");
  const parts = { blobs: layers.map((layer) => layer.blob), bootstrap };
  const configBytes = convertedConfig(sourceConfig, parts);
  const config = describe(codecs, MEDIA_TYPE.ociConfig, configBytes);
  await Promise.all([commits.all(), target.putBytes(config, configBytes)]); // both wait for the disk
  const bytes = convertedManifest(
    { manifest, digest: raw.descriptor.digest },
    config,
    parts,
    options.annotations ?? {},
  );
  return {
    descriptor: describe(codecs, MEDIA_TYPE.ociManifest, bytes),
    bytes,
    bootstrap,
    layers: layers.map((layer, i) => ({
      sourceDigest: (manifest.layers[i] as Descriptor).digest,
      sourceBytes: (manifest.layers[i] as Descriptor).size,
      digest: layer.blob.digest,
      sizeBytes: layer.blob.sizeBytes,
    })),
  };
}

function refuseNydus(manifest: Manifest, digest: Digest): void {
  if (manifest.layers.some((layer) => layer.annotations?.[ANNOTATION.nydusBootstrap] !== undefined)) {
    throw new NydusError("ENOTSUP", "Cannot convert image: it is a Nydus image already", { digest });
  }
}

interface BuildContext extends ConvertContext {
  readonly commits: LateCommits;
  readonly isAlone?: boolean;
}

/** Builds the layers side by side; when one fails the others are stopped before its error leaves. */
async function buildLayers(
  context: BuildContext,
  options: ConvertOptions,
  layers: readonly Descriptor[],
): Promise<BuiltLayer[]> {
  const stop = new AbortController();
  const signal = AbortSignal.any([context.signal, stop.signal]);
  const built: BuiltLayer[] = [];
  const isAlone = layers.length === 1;
  const build = async (layer: Descriptor): Promise<BuiltLayer> => {
    try {
      return await inPlace({ digest: layer.digest }, () => buildOne({ ...context, signal, isAlone }, options, layer));
    } catch (error) {
      stop.abort(error);
      throw error;
    }
  };
  for await (const layer of mapBounded(LAYERS_AT_ONCE, layers, build)) built.push(layer);
  return built;
}

async function buildOne(context: BuildContext, options: ChunkOptions, layer: Descriptor): Promise<BuiltLayer> {
  const { source, target, codecs, pool, signal, commits, isAlone, progress = NO_PROGRESS } = context;
  const shown = { digest: layer.digest, sizeBytes: layer.size };
  progress.layerStarted(shown);
  const blob = await source.openBlob(layer);
  try {
    const watch: LayerWatch = {
      hasher: codecs.sha256(),
      signal,
      onBytes: (count) => progress.layerAdvanced(shown, count),
    };
    const stored = verifiedLayerBytes(blob, layer, watch);
    const tar = codecs.decompressStream(layerFormat(layer.mediaType), stored);
    await using sink = commits.sink(await target.newBlob(), { digest: layer.digest });
    const built = await buildLayer(untilVerified(tar, watch), sink, {
      codecs,
      pool,
      options,
      isAlone: isAlone === true,
    });
    progress.layerDone(shown, { blobBytes: built.blob.sizeBytes });
    return built;
  } finally {
    await blob.close();
  }
}

function describe(codecs: Codecs, mediaType: string, bytes: Uint8Array): Descriptor {
  return {
    mediaType,
    digest: digestOfSum(codecs.digest("sha256", bytes)),
    size: bytes.length,
  };
}
