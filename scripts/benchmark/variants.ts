import { createHash } from "node:crypto";
import { linkSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gunzipSync, gzipSync } from "node:zlib";
import { blobPath, type LayoutImage, type PlainDescriptor, REF_NAME, readLayout } from "./layout.ts";

const BOOTSTRAP = "image/image.boot";
const TAR_BLOCK_BYTES = 512;
const NAME_BYTES = 100;
const SIZE_OFFSET = 124;
/** Of the EROFS superblock's unique id in the image, 16 bytes. @see erofs_fs.h erofs_super_block */
const UUID_OFFSET = 1024 + 48;
const UUID_BYTES = 16;

interface PlainConfig {
  readonly rootfs: { readonly diff_ids: readonly string[] };
}

/** Where the bootstrap's content begins in the tar of a bootstrap layer. @throws when it has none */
function findBootstrap(tar: Buffer): number {
  for (let at = 0; at + TAR_BLOCK_BYTES <= tar.length; ) {
    const name = tar.toString("latin1", at, at + NAME_BYTES).replace(/\0.*$/s, "");
    if (name === BOOTSTRAP) return at + TAR_BLOCK_BYTES;
    const sizeBytes = Number.parseInt(tar.toString("latin1", at + SIZE_OFFSET, at + SIZE_OFFSET + 12), 8) || 0;
    at += TAR_BLOCK_BYTES * (1 + Math.ceil(sizeBytes / TAR_BLOCK_BYTES));
  }
  throw new Error(`the last layer has no ${BOOTSTRAP}`);
}

function sha256(bytes: Uint8Array): string {
  return `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
}

/** Makes images of one Nydus image that differ in their bootstraps, so that each is mounted by itself; they share blobs. */
export class Variants {
  readonly #image: LayoutImage;
  readonly #bootstrapLayer: PlainDescriptor;
  readonly #tar: Buffer;
  readonly #config: PlainConfig;
  readonly #uuidAt: number;

  /** @throws when the image's last layer is no bootstrap layer */
  constructor(image: LayoutImage) {
    const layer = image.descriptors.at(-1);
    if (layer === undefined) throw new Error(`${image.name} has no layers`);
    this.#image = image;
    this.#bootstrapLayer = layer;
    this.#tar = gunzipSync(readFileSync(blobPath(image.dir, layer.digest)));
    this.#config = JSON.parse(readFileSync(blobPath(image.dir, image.config.digest), "utf8")) as PlainConfig;
    this.#uuidAt = findBootstrap(this.#tar) + UUID_OFFSET;
  }

  /** Writes the variant of a number into `dir`, which must not be there; blobs are hard links. */
  write(number: number, dir: string): LayoutImage {
    mkdirSync(join(dir, "blobs", "sha256"), { recursive: true });
    const put = (bytes: Uint8Array, like: PlainDescriptor): PlainDescriptor => {
      const digest = sha256(bytes);
      writeFileSync(blobPath(dir, digest), bytes);
      return { ...like, digest, size: bytes.length };
    };
    const tar = Buffer.from(this.#tar);
    createHash("sha256").update(`variant ${number}`).digest().copy(tar, this.#uuidAt, 0, UUID_BYTES);
    const blobs = this.#image.descriptors.slice(0, -1);
    for (const { digest } of blobs) linkSync(blobPath(this.#image.dir, digest), blobPath(dir, digest));
    const layers = [...blobs, put(gzipSync(tar, { level: 1 }), this.#bootstrapLayer)];
    const diffIds = [...this.#config.rootfs.diff_ids.slice(0, -1), sha256(tar)];
    const rootfs = { ...this.#config.rootfs, diff_ids: diffIds };
    const config = put(Buffer.from(JSON.stringify({ ...this.#config, rootfs })), this.#image.config);
    const mediaType = "application/vnd.oci.image.manifest.v1+json";
    const manifest = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType, config, layers }));
    const entry = { mediaType, annotations: { [REF_NAME]: this.#image.ref } };
    const descriptor = put(manifest, { ...entry, digest: "", size: 0 });
    writeFileSync(join(dir, "index.json"), JSON.stringify({ schemaVersion: 2, manifests: [descriptor] }));
    writeFileSync(join(dir, "oci-layout"), '{"imageLayoutVersion":"1.0.0"}');
    return readLayout(dir, this.#image.ref);
  }
}
