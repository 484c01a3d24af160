import { createHash } from "node:crypto";
import { closeSync, mkdirSync, openSync, readFileSync, renameSync, statSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";

/** A descriptor as plain JSON: written by hand here, so that no code of the program makes what it is tested with. */
export interface PlainDescriptor {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
  readonly [other: string]: unknown;
}

const LAYER = "application/vnd.oci.image.layer.v1.tar";

/** An `oci:` directory under construction. */
export class OciDraft {
  readonly dir: string;
  readonly #manifests: PlainDescriptor[] = [];

  constructor(dir: string) {
    this.dir = dir;
    mkdirSync(join(dir, "blobs", "sha256"), { recursive: true });
    writeFileSync(join(dir, "oci-layout"), '{"imageLayoutVersion":"1.0.0"}');
  }

  blobPath(digest: string): string {
    return join(this.dir, "blobs", ...digest.split(":"));
  }

  addBlob(mediaType: string, content: Uint8Array | string): PlainDescriptor {
    const digest = `sha256:${createHash("sha256").update(content).digest("hex")}`;
    writeFileSync(this.blobPath(digest), content);
    return { mediaType, digest, size: Buffer.byteLength(content) };
  }

  addJson(mediaType: string, value: unknown): PlainDescriptor {
    return this.addBlob(mediaType, JSON.stringify(value));
  }

  /** A layer; `compression` is the ending of its media type. */
  addLayer(content: Uint8Array, compression: "" | "+gzip" | "+zstd" = ""): PlainDescriptor {
    return this.addBlob(`${LAYER}${compression}`, content);
  }

  /** A layer written piece by piece, for those that do not fit memory. */
  addLargeLayer(pieces: Iterable<Uint8Array>): PlainDescriptor {
    const staging = join(this.dir, "staging");
    const fd = openSync(staging, "w");
    const hash = createHash("sha256");
    for (const piece of pieces) {
      hash.update(piece);
      writeSync(fd, piece);
    }
    closeSync(fd);
    const digest = `sha256:${hash.digest("hex")}`;
    renameSync(staging, this.blobPath(digest));
    return { mediaType: LAYER, digest, size: statSync(this.blobPath(digest)).size };
  }

  /** An image of these layers; the config's diff ids are made up: nothing here reads them. */
  addImage(layers: readonly PlainDescriptor[], platform = { os: "linux", architecture: "amd64" }): PlainDescriptor {
    const diffIds = layers.map((layer) => layer.digest);
    const config = {
      ...platform,
      config: { Env: ["A=b"] },
      rootfs: { type: "layers", diff_ids: diffIds },
      history: [],
    };
    const manifest = {
      schemaVersion: 2,
      mediaType: "application/vnd.oci.image.manifest.v1+json",
      config: this.addJson("application/vnd.oci.image.config.v1+json", config),
      layers,
    };
    return this.addJson("application/vnd.oci.image.manifest.v1+json", manifest);
  }

  /** An index of manifests. */
  addIndex(manifests: readonly PlainDescriptor[]): PlainDescriptor {
    const mediaType = "application/vnd.oci.image.index.v1+json";
    return this.addJson(mediaType, { schemaVersion: 2, mediaType, manifests });
  }

  /** Gives a root its name. @returns what `nydus` calls the image */
  name(root: PlainDescriptor, ref: string): string {
    this.#manifests.push({ ...root, annotations: { "org.opencontainers.image.ref.name": ref } });
    writeFileSync(join(this.dir, "index.json"), JSON.stringify({ schemaVersion: 2, manifests: this.#manifests }));
    return `oci:${this.dir}:${ref}`;
  }
}

/** The config's text and the digests of the layers of an image in an `oci:` directory. */
export function readImage(layout: string, ref: string): { readonly config: string; readonly layers: string[] } {
  const blob = (digest: string): string => readFileSync(join(layout, "blobs", ...digest.split(":")), "utf8");
  const index = JSON.parse(readFileSync(join(layout, "index.json"), "utf8")) as {
    manifests: { digest: string; annotations: Record<string, string> }[];
  };
  const entry = index.manifests.find((one) => one.annotations["org.opencontainers.image.ref.name"] === ref);
  if (entry === undefined) throw new Error(`${layout} has no image ${ref}`);
  const manifest = JSON.parse(blob(entry.digest)) as { config: PlainDescriptor; layers: PlainDescriptor[] };
  return { config: blob(manifest.config.digest), layers: manifest.layers.map((layer) => layer.digest) };
}
