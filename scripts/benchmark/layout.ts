import { createHash } from "node:crypto";
import { closeSync, linkSync, mkdirSync, openSync, readFileSync, readSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/** A descriptor of an OCI manifest or index. */
export interface PlainDescriptor {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
  readonly annotations?: Readonly<Record<string, string>>;
}

interface PlainManifest {
  readonly config: PlainDescriptor;
  readonly layers: readonly PlainDescriptor[];
}

/** A layer or blob that lies in a layout. */
export interface LayerFile {
  readonly digest: string;
  readonly path: string;
  readonly sizeBytes: number;
}

/** An image in an OCI layout directory. */
export interface LayoutImage {
  readonly dir: string;
  readonly ref: string;
  /** As `nydus` calls it. */
  readonly name: string;
  readonly config: PlainDescriptor;
  readonly descriptors: readonly PlainDescriptor[];
  readonly layers: readonly LayerFile[];
}

/** The annotation of an index entry that names it. */
export const REF_NAME = "org.opencontainers.image.ref.name";

/** Where a layout has the blob of a digest. */
export function blobPath(dir: string, digest: string): string {
  return join(dir, "blobs", ...digest.split(":"));
}

function readJson<T>(path: string): T {
  return JSON.parse(readFileSync(path, "utf8")) as T;
}

/** Reads an image's manifest. @throws when there is none of that name, or it is an index */
export function readLayout(dir: string, ref: string): LayoutImage {
  const index = readJson<{ manifests: PlainDescriptor[] }>(join(dir, "index.json"));
  const entry = index.manifests.find((one) => one.annotations?.[REF_NAME] === ref);
  if (entry === undefined) throw new Error(`${dir} has no image ${ref}`);
  const { config, layers } = readJson<PlainManifest>(blobPath(dir, entry.digest));
  if (layers === undefined) throw new Error(`oci:${dir}:${ref} is no single image`);
  const files = layers.map(({ digest, size }) => ({ digest, path: blobPath(dir, digest), sizeBytes: size }));
  return { dir, ref, name: `oci:${dir}:${ref}`, config, descriptors: layers, layers: files };
}

/** Parses `oci:DIR:REF`. */
export function parseImageName(name: string): { readonly dir: string; readonly ref: string } {
  const parts = /^oci:(.+):([^:/]+)$/.exec(name);
  if (parts === null) throw new Error(`${name} is not of the form oci:DIR:REF`);
  return { dir: parts[1] as string, ref: parts[2] as string };
}

/** Makes an image of some of another's layers in a layout of its own; the blobs are hard links. */
export function makeSubset(image: LayoutImage, dir: string, count: number): LayoutImage {
  const descriptors = image.descriptors.slice(0, count);
  mkdirSync(join(dir, "blobs", "sha256"), { recursive: true });
  for (const { digest } of [image.config, ...descriptors]) linkSync(blobPath(image.dir, digest), blobPath(dir, digest));
  const mediaType = "application/vnd.oci.image.manifest.v1+json";
  const manifest = JSON.stringify({ schemaVersion: 2, mediaType, config: image.config, layers: descriptors });
  const digest = `sha256:${createHash("sha256").update(manifest).digest("hex")}`;
  writeFileSync(blobPath(dir, digest), manifest);
  const entry = { mediaType, digest, size: Buffer.byteLength(manifest), annotations: { [REF_NAME]: image.ref } };
  writeFileSync(join(dir, "index.json"), JSON.stringify({ schemaVersion: 2, manifests: [entry] }));
  writeFileSync(join(dir, "oci-layout"), '{"imageLayoutVersion":"1.0.0"}');
  return readLayout(dir, image.ref);
}

/** Uncompressed bytes of a gzip layer, as its last member's trailer has them (below 4 GiB). */
export function tarBytesOf(layer: LayerFile): number {
  const trailer = Buffer.alloc(4);
  const fd = openSync(layer.path, "r");
  try {
    readSync(fd, trailer, 0, trailer.length, statSync(layer.path).size - trailer.length);
  } finally {
    closeSync(fd);
  }
  return trailer.readUInt32LE(0);
}
