import type { Digest } from "../../base/digest.ts";
import { NydusError } from "../../base/errors.ts";
import { JsonReader } from "./json.ts";
import { mediaKind } from "./media-type.ts";

/** A platform as image-spec writes it. */
export interface Platform {
  readonly os: string;
  readonly architecture: string;
  readonly variant?: string;
  readonly "os.version"?: string;
  readonly "os.features"?: readonly string[];
}

/** A content descriptor (image-spec, descriptor.md). */
export interface Descriptor {
  readonly mediaType: string;
  readonly digest: Digest;
  /** Bytes. */
  readonly size: number;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly platform?: Platform;
  readonly artifactType?: string;
  readonly urls?: readonly string[];
  readonly data?: string;
}

/** An image manifest, OCI or Docker schema 2 (image-spec, manifest.md). */
export interface Manifest {
  readonly schemaVersion: 2;
  readonly mediaType?: string;
  readonly artifactType?: string;
  readonly config: Descriptor;
  /** The bottom layer first. */
  readonly layers: readonly Descriptor[];
  readonly subject?: Descriptor;
  readonly annotations?: Readonly<Record<string, string>>;
}

/** An image index or a Docker manifest list (image-spec, image-index.md). */
export interface Index {
  readonly schemaVersion: 2;
  readonly mediaType?: string;
  readonly artifactType?: string;
  readonly manifests: readonly Descriptor[];
  readonly subject?: Descriptor;
  readonly annotations?: Readonly<Record<string, string>>;
}

/** What stands at the top of an image. */
export type ManifestOrIndex =
  | { readonly kind: "manifest"; readonly manifest: Manifest }
  | { readonly kind: "index"; readonly index: Index };

/** Most layers of an image, and most manifests of an index. */
export const MAX_LAYERS = 1024;
export const MAX_MANIFESTS = 4096;

const MAX_URLS = 64;
const MAX_OS_FEATURES = 64;

/**
 * Parses a manifest or an index, whichever it is: by its own media type, else by `mediaType`, else by its members.
 * @param mediaType the descriptor's or the registry's, where known
 * @throws EUCLEAN malformed, ambiguous (both `layers` and `manifests`: CVE-2021-41190), or of another kind than
 *   `mediaType` says; ENOTSUP Docker schema 1, or a digest other than SHA-256
 */
export function parseManifestOrIndex(bytes: Uint8Array, mediaType?: string): ManifestOrIndex {
  const read = new JsonReader("manifest");
  const top = read.parse(bytes);
  const kind = kindOf(top, mediaType, read);
  const isAmbiguous =
    kind === "index" ? top["layers"] !== undefined || top["config"] !== undefined : top["manifests"] !== undefined;
  if (isAmbiguous) throw read.bad("the document", "both manifest and index", "one of them");
  if (kind === "index") return { kind, index: readIndex(top, new JsonReader("index")) };
  return { kind, manifest: readManifest(top, read) };
}

/** Which of the two a document is; its own word counts first, and must not gainsay `mediaType`. */
function kindOf(top: Members, mediaType: string | undefined, read: JsonReader): "manifest" | "index" {
  const own = read.optionalString(top["mediaType"], "mediaType");
  const ownKind = own === undefined ? undefined : mediaKind(own);
  const givenKind = mediaType === undefined ? undefined : mediaKind(mediaType);
  if (ownKind === "schema1" || givenKind === "schema1" || top["schemaVersion"] === 1) {
    throw new NydusError("ENOTSUP", "Cannot parse manifest: Docker schema 1 is not supported, schema 2 and OCI are");
  }
  if (top["schemaVersion"] !== 2) throw read.bad("schemaVersion", top["schemaVersion"], "2");
  const byMembers = top["manifests"] === undefined ? "manifest" : "index";
  const kind = own === undefined ? (givenKind ?? byMembers) : ownKind;
  if (kind !== "manifest" && kind !== "index") throw read.bad("mediaType", own ?? mediaType, "a manifest's or index's");
  if (givenKind !== undefined && givenKind !== kind) throw read.bad("mediaType", own, JSON.stringify(mediaType));
  return kind;
}

/** Parses an image manifest. @throws as {@link parseManifestOrIndex}, and EUCLEAN for an index */
export function parseManifest(bytes: Uint8Array, mediaType?: string): Manifest {
  const parsed = parseManifestOrIndex(bytes, mediaType);
  if (parsed.kind === "manifest") return parsed.manifest;
  throw new NydusError("EUCLEAN", "Cannot parse manifest: it is an index, a manifest wanted");
}

/** Parses an index. @throws as {@link parseManifestOrIndex}, and EUCLEAN for a manifest */
export function parseIndex(bytes: Uint8Array, mediaType?: string): Index {
  const parsed = parseManifestOrIndex(bytes, mediaType);
  if (parsed.kind === "index") return parsed.index;
  throw new NydusError("EUCLEAN", "Cannot parse index: it is a manifest, an index wanted");
}

type Members = Readonly<Record<string, unknown>>;

function readManifest(top: Members, read: JsonReader): Manifest {
  const layers = read.array(top["layers"], "layers", MAX_LAYERS);
  return {
    schemaVersion: 2,
    ...commonMembers(top, read),
    config: readDescriptor(top["config"], "config", read),
    layers: layers.map((layer, i) => readDescriptor(layer, `layers[${i}]`, read)),
  };
}

function readIndex(top: Members, read: JsonReader): Index {
  const manifests = read.array(top["manifests"], "manifests", MAX_MANIFESTS);
  return {
    schemaVersion: 2,
    ...commonMembers(top, read),
    manifests: manifests.map((manifest, i) => readDescriptor(manifest, `manifests[${i}]`, read)),
  };
}

function commonMembers(
  top: Members,
  read: JsonReader,
): Pick<Manifest, "mediaType" | "artifactType" | "subject" | "annotations"> {
  const { subject } = top;
  return defined({
    mediaType: read.optionalString(top["mediaType"], "mediaType"),
    artifactType: read.optionalString(top["artifactType"], "artifactType"),
    subject: subject === undefined || subject === null ? undefined : readDescriptor(subject, "subject", read),
    annotations: read.optionalStringMap(top["annotations"], "annotations"),
  });
}

/** A descriptor at `where` in a document. */
function readDescriptor(value: unknown, where: string, read: JsonReader): Descriptor {
  const object = read.object(value, where);
  return {
    mediaType: read.string(object["mediaType"], `${where}.mediaType`),
    digest: read.digest(object["digest"], `${where}.digest`),
    size: read.size(object["size"], `${where}.size`),
    ...defined({
      annotations: read.optionalStringMap(object["annotations"], `${where}.annotations`),
      platform: readPlatform(object["platform"], `${where}.platform`, read),
      artifactType: read.optionalString(object["artifactType"], `${where}.artifactType`),
      urls: read.optionalStrings(object["urls"], `${where}.urls`, MAX_URLS),
      data: read.optionalString(object["data"], `${where}.data`),
    }),
  };
}

function readPlatform(value: unknown, where: string, read: JsonReader): Platform | undefined {
  if (value === undefined || value === null) return undefined;
  const object = read.object(value, where);
  return {
    os: read.optionalString(object["os"], `${where}.os`) ?? "",
    architecture: read.optionalString(object["architecture"], `${where}.architecture`) ?? "",
    ...defined({
      variant: read.optionalString(object["variant"], `${where}.variant`),
      "os.version": read.optionalString(object["os.version"], `${where}.os.version`),
      "os.features": read.optionalStrings(object["os.features"], `${where}.os.features`, MAX_OS_FEATURES),
    }),
  };
}

type Defined<T> = { [K in keyof T]?: Exclude<T[K], undefined> };

/** The members that are not undefined: absent members stay absent. */
export function defined<T extends object>(members: T): Defined<T> {
  return Object.fromEntries(Object.entries(members).filter(([, value]) => value !== undefined)) as Defined<T>;
}

/** The bytes of a manifest: compact JSON, members in image-spec's order, annotations sorted. */
export function serializeManifest(manifest: Manifest): Uint8Array {
  const { schemaVersion, mediaType, artifactType, config, layers, subject, annotations } = manifest;
  return encodeJson({
    schemaVersion,
    mediaType,
    artifactType,
    config: orderDescriptor(config),
    layers: layers.map(orderDescriptor),
    subject: subject === undefined ? undefined : orderDescriptor(subject),
    annotations: sortKeys(annotations),
  });
}

/** The bytes of an index: as {@link serializeManifest}. */
export function serializeIndex(index: Index): Uint8Array {
  const { schemaVersion, mediaType, artifactType, manifests, subject, annotations } = index;
  return encodeJson({
    schemaVersion,
    mediaType,
    artifactType,
    manifests: manifests.map(orderDescriptor),
    subject: subject === undefined ? undefined : orderDescriptor(subject),
    annotations: sortKeys(annotations),
  });
}

function encodeJson(value: unknown): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(value));
}

/** Members in the order of image-spec's Go type; undefined ones vanish in JSON. */
function orderDescriptor(descriptor: Descriptor): object {
  const { mediaType, digest, size, urls, annotations, data, platform, artifactType } = descriptor;
  return {
    mediaType,
    digest,
    size,
    urls,
    annotations: sortKeys(annotations),
    data,
    platform: orderPlatform(platform),
    artifactType,
  };
}

function orderPlatform(platform: Platform | undefined): object | undefined {
  if (platform === undefined) return undefined;
  const { architecture, os, variant } = platform;
  return { architecture, os, "os.version": platform["os.version"], "os.features": platform["os.features"], variant };
}

function sortKeys(map: Readonly<Record<string, string>> | undefined): Record<string, string> | undefined {
  if (map === undefined) return undefined;
  return Object.fromEntries(Object.entries(map).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)));
}
