import { bytesOfKey, keyOfBytes } from "../../base/bytes.ts";
import { type Digest, parseDigest } from "../../base/digest.ts";
import { inPlace, NydusError } from "../../base/errors.ts";
import { parseConfig } from "../../format/oci/config.ts";
import { JsonReader } from "../../format/oci/json.ts";
import { type Descriptor, MAX_LAYERS, serializeManifest } from "../../format/oci/manifest.ts";
import { MEDIA_TYPE } from "../../format/oci/media-type.ts";
import { formatReference, parseReference, type Reference } from "../../format/oci/reference.ts";
import { cleanPath } from "../../format/tar/path.ts";
import type { FileSource } from "./file-source.ts";
import { type ByteSource, canStream } from "./source.ts";
import type { ImageSource, StoreContext } from "./store.ts";
import { readEntry, sniffFormat, TarArchive } from "./tar-archive.ts";
import { checkSmall, newSha256, SMALL_CONTENT_BYTES, sha256Digest, verifyContent } from "./verify.ts";

/** Which image of an archive: one of its tags, its place in manifest.json, or the only one. */
export interface ArchiveChoice {
  readonly reference?: Reference | undefined;
  readonly index?: number | undefined;
}

/** Most images of an archive. */
const MAX_IMAGES = 4096;
const LISTED_NAMES = 32;

const LAYER_TYPES = {
  none: MEDIA_TYPE.dockerLayer,
  gzip: MEDIA_TYPE.dockerLayerGzip,
  zstd: `${MEDIA_TYPE.dockerLayer}.zstd`,
} as const;

/**
 * An image of a file that `docker save` wrote, read only: `docker-archive:FILE[:REF]`. It appears as a Docker schema 2
 * manifest, made on the fly, over the layers as they lie in the archive.
 * @throws ENOENT; EUCLEAN no tar; ENOSPC
 */
export async function openDockerArchive(
  path: string,
  choice: ArchiveChoice,
  name: string,
  context: StoreContext,
): Promise<ImageSource> {
  return new DockerArchiveSource(await TarArchive.open(path, context), choice, name, context.signal);
}

/**
 * Every image of an open archive; whoever has opened that closes it.
 * @throws EUCLEAN malformed, or no manifest.json in it
 */
export async function dockerImages(
  archive: TarArchive,
  signal: AbortSignal | undefined,
): Promise<readonly { readonly names: readonly string[]; readonly source: ImageSource }[]> {
  const rows = await readRows(archive);
  return rows.map(({ tags }, index) => ({
    names: tags,
    source: new DockerArchiveSource(archive, { index }, `docker-archive:${archive.path}:@${index}`, signal),
  }));
}

interface ArchiveImage {
  readonly root: { readonly descriptor: Descriptor; readonly bytes: Uint8Array };
  /** Name in the archive of each blob; the manifest itself is not among them. */
  readonly entries: ReadonlyMap<Digest, string>;
}

class DockerArchiveSource implements ImageSource {
  readonly name: string;
  readonly #archive: TarArchive;
  readonly #choice: ArchiveChoice;
  readonly #signal: AbortSignal | undefined;
  #image: Promise<ArchiveImage> | undefined;

  constructor(archive: TarArchive, choice: ArchiveChoice, name: string, signal: AbortSignal | undefined) {
    this.name = name;
    this.#archive = archive;
    this.#choice = choice;
    this.#signal = signal;
  }

  async root(): Promise<{ readonly descriptor: Descriptor; readonly bytes: Uint8Array }> {
    return (await this.#opened()).root;
  }

  async readBlob(descriptor: Descriptor, limitBytes = SMALL_CONTENT_BYTES): Promise<Uint8Array> {
    checkSmall(descriptor, limitBytes);
    const { root } = await this.#opened();
    if (descriptor.digest === root.descriptor.digest) return verifyContent(descriptor, root.bytes);
    const source = await this.openBlob(descriptor);
    return verifyContent(descriptor, await source.readAt({ start: 0, end: source.sizeBytes }));
  }

  async openBlob(descriptor: Pick<Descriptor, "digest" | "size">): Promise<ByteSource> {
    const digest = parseDigest(descriptor.digest);
    const entry = (await this.#opened()).entries.get(digest);
    const source = entry === undefined ? undefined : this.#archive.open(entry);
    if (source === undefined) {
      throw new NydusError("ENOENT", `Cannot open blob: ${this.name} does not hold it`, { digest });
    }
    if (source.sizeBytes === descriptor.size) return source;
    const message = `Cannot open blob: it has ${source.sizeBytes} bytes, ${descriptor.size} wanted`;
    throw new NydusError("EUCLEAN", message, { digest });
  }

  #opened(): Promise<ArchiveImage> {
    this.#image ??= inPlace({ path: this.#archive.path }, () => this.#open());
    return this.#image;
  }

  async #open(): Promise<ArchiveImage> {
    const row = chooseRow(await readRows(this.#archive), this.#choice, this.name);
    const entries = new Map<Digest, string>();
    const configBytes = await readEntry(this.#archive, row.config, SMALL_CONTENT_BYTES);
    const config = { mediaType: MEDIA_TYPE.dockerConfig, digest: sha256Digest(configBytes), size: configBytes.length };
    entries.set(config.digest, row.config);
    const { diffIds } = parseConfig(configBytes);
    if (diffIds.length !== row.layers.length) {
      const found = `${row.layers.length} layers and ${diffIds.length} diff ids`;
      throw new NydusError("EUCLEAN", `Cannot open image ${this.name}: it has ${found}`);
    }
    const layers: Descriptor[] = [];
    for (const [i, entry] of row.layers.entries()) {
      const layer = await this.#describeLayer(entry, diffIds[i] as Digest);
      entries.set(layer.digest, entry);
      layers.push(layer);
    }
    const mediaType = MEDIA_TYPE.dockerManifest;
    const bytes = serializeManifest({ schemaVersion: 2, mediaType, config, layers });
    return { root: { descriptor: { mediaType, digest: sha256Digest(bytes), size: bytes.length }, bytes }, entries };
  }

  /** A plain layer's digest is its diff id, which whoever reads the layer verifies; a compressed one is hashed here. */
  async #describeLayer(entry: string, diffId: Digest): Promise<Descriptor> {
    const source = this.#archive.open(entry) as FileSource | undefined;
    if (source === undefined || !canStream(source)) {
      throw new NydusError("ENOENT", `Cannot open image ${this.name}: layer ${JSON.stringify(entry)} is missing`);
    }
    const format = sniffFormat(await source.readAt({ start: 0, end: Math.min(4, source.sizeBytes) }));
    const mediaType = LAYER_TYPES[format];
    if (format === "none") return { mediaType, digest: diffId, size: source.sizeBytes };
    const sum = newSha256();
    for await (const piece of source.stream(this.#signal)) sum.update(piece);
    return { mediaType, digest: sum.digest(), size: source.sizeBytes };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#archive[Symbol.asyncDispose]();
  }
}

/** One image of manifest.json. */
interface ArchiveRow {
  readonly config: string;
  readonly tags: readonly string[];
  readonly layers: readonly string[];
}

async function readRows(archive: TarArchive): Promise<ArchiveRow[]> {
  const bytes = await readEntry(archive, "manifest.json", SMALL_CONTENT_BYTES);
  const read = new JsonReader("manifest.json");
  // The document is an array; the reader wants an object at the top.
  const top = read.parse(Buffer.concat([Buffer.from('{"images":'), bytes, Buffer.from("}")]));
  return read.array(top["images"], "the document", MAX_IMAGES).map((item, i) => {
    const row = read.object(item, `[${i}]`);
    return {
      config: entryName(read.string(row["Config"], `[${i}].Config`)),
      tags: read.optionalStrings(row["RepoTags"], `[${i}].RepoTags`, MAX_IMAGES) ?? [],
      layers: (read.optionalStrings(row["Layers"], `[${i}].Layers`, MAX_LAYERS) ?? []).map(entryName),
    };
  });
}

function entryName(text: string): string {
  return keyOfBytes(cleanPath(bytesOfKey(Buffer.from(text).toString("latin1")), 0));
}

function chooseRow(rows: readonly ArchiveRow[], choice: ArchiveChoice, name: string): ArchiveRow {
  const { reference, index } = choice;
  const found =
    index === undefined
      ? rows.filter((row) => reference === undefined || hasTag(row, reference))
      : rows.slice(index, index + 1);
  const [first] = found;
  if (first !== undefined && (found.length === 1 || reference !== undefined)) return first;
  const names = rows.flatMap((row, i) => (row.tags.length === 0 ? [`@${i}`] : row.tags));
  const more = names.length > LISTED_NAMES ? `, and ${names.length - LISTED_NAMES} more` : "";
  const there = names.length === 0 ? "no image" : `${names.slice(0, LISTED_NAMES).join(", ")}${more}`;
  const what =
    found.length > 1 || (reference === undefined && index === undefined)
      ? "one image wanted, or name one"
      : "no such image";
  throw new NydusError("ENOENT", `Cannot open image ${name}: ${what}; there is ${there}`);
}

function hasTag(row: ArchiveRow, reference: Reference): boolean {
  const wanted = formatReference(reference);
  return row.tags.some((tag) => {
    try {
      return formatReference(parseReference(tag)) === wanted;
    } catch {
      return false; // not a name: nobody can mean it
    }
  });
}
