import type { Digest } from "../../base/digest.ts";
import type { Descriptor, Manifest, ManifestOrIndex } from "../oci/manifest.ts";
import { MEDIA_TYPE, mediaKind } from "../oci/media-type.ts";
import { LABELS, type LabelFields } from "./labels.ts";

/** Most bytes of a label's key and value together. */
const MAX_LABEL_BYTES = 4096;
/** Annotations of layers that become labels of their snapshots. */
const SNAPSHOT_PREFIX = "containerd.io/snapshot/";

/** Whether containerd takes a label: key and value are of bounded size. */
export function isValidLabel(key: string, value: string): boolean {
  return new TextEncoder().encode(key + value).length <= MAX_LABEL_BYTES;
}

/** The labels by which content keeps its children from being collected: the same ones that containerd's pull sets. */
export function childLabels(content: ManifestOrIndex): LabelFields {
  const children =
    content.kind === "index" ? content.index.manifests : [content.manifest.config, ...content.manifest.layers];
  const counts = new Map<string, number>();
  const labels: Record<string, string> = {};
  for (const child of children) {
    const stem = `${LABELS.gcContent}${childStem(child)}`;
    const number = counts.get(stem) ?? 0;
    counts.set(stem, number + 1);
    labels[stem.endsWith(".") || number > 0 ? `${stem}${number}` : stem] = child.digest;
  }
  return labels;
}

/** The name of a child's label; those that end with a dot are numbered. */
function childStem({ mediaType }: Descriptor): string {
  const kind = mediaKind(mediaType);
  if (kind === "manifest") return "m.";
  if (isLayerType(mediaType)) return "l.";
  // Containerd knows only the configs of images by their name; one of another type is numbered among what is left.
  return kind === "config" && mediaType !== MEDIA_TYPE.nydusConfig ? "config" : "";
}

/** Whether containerd takes a media type for a layer's: by its prefix, where it is OCI's. */
export function isLayerType(mediaType: string): boolean {
  if (mediaType.startsWith("application/vnd.oci.image.layer.")) return true;
  const kind = mediaKind(mediaType);
  return kind === "layer" || kind === "foreign";
}

/**
 * The label that says in which repositories of a registry content is, one more put to those it names.
 * @param before the value that the content has
 * @returns undefined where it says so already, or would become too long
 */
export function distributionSource(
  { registry, repository }: { readonly registry: string; readonly repository: string },
  before: LabelFields,
): readonly [key: string, value: string] | undefined {
  const key = `${LABELS.distributionSource}${registry}`;
  const known = (before[key] ?? "").split(",").filter((one) => one !== "");
  if (known.includes(repository)) return undefined;
  const value = [...known, repository].sort().join(",");
  return isValidLabel(key, value) ? [key, value] : undefined;
}

/** A layer of an image, as its snapshot is to know it. */
export interface SnapshotLayer {
  /** The image's name. */
  readonly image: string;
  readonly manifestDigest: Digest;
  readonly manifest: Manifest;
  /** Which layer, the bottom one 0. */
  readonly index: number;
  readonly chainId: Digest;
}

/**
 * The labels that a snapshot is prepared with when its image is pulled (containerd core/unpack, pkg/snapshotters): what
 * the layer's annotations say to snapshotters, where it comes from, and which snapshot it is to become.
 */
export function snapshotLabels({ image, manifestDigest, manifest, index, chainId }: SnapshotLayer): LabelFields {
  const layers = manifest.layers.slice(index);
  const own = Object.entries(layers[0]?.annotations ?? {}).filter(
    ([key, value]) => key.startsWith(SNAPSHOT_PREFIX) && isValidLabel(key, value),
  );
  return {
    ...Object.fromEntries(own),
    [LABELS.imageRef]: image,
    [LABELS.layerDigest]: layers[0]?.digest ?? "",
    [LABELS.imageLayers]: fittingList(LABELS.imageLayers, layers),
    [LABELS.manifestDigest]: manifestDigest,
    [LABELS.snapshotRef]: chainId,
  };
}

/** As many of the layers' digests as a label holds. */
function fittingList(key: string, layers: readonly Descriptor[]): string {
  let list = "";
  for (const { digest } of layers) {
    const longer = list === "" ? digest : `${list},${digest}`;
    if (!isValidLabel(key, longer)) break;
    list = longer;
  }
  return list;
}

/**
 * The names of an image's snapshots, the bottom one first (image-spec config.md, Layer ChainID).
 * @param hash SHA-256 of text, as digest
 */
export function chainIds(diffIds: readonly Digest[], hash: (text: string) => Digest): readonly Digest[] {
  const chain: Digest[] = [];
  for (const diffId of diffIds) {
    const below = chain.at(-1);
    chain.push(below === undefined ? diffId : hash(`${below} ${diffId}`));
  }
  return chain;
}
