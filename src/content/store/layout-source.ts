import { hexOf, parseDigest } from "../../base/digest.ts";
import { NydusError } from "../../base/errors.ts";
import type { Descriptor } from "../../format/oci/manifest.ts";
import { chooseEntry, type LayoutChoice } from "./layout-index.ts";
import type { ByteSource } from "./source.ts";
import type { ImageSource } from "./store.ts";
import { checkSmall, SMALL_CONTENT_BYTES, verifyContent } from "./verify.ts";

/** The files of an OCI image layout, wherever they lie. */
export interface LayoutFiles extends AsyncDisposable {
  /** @param path relative, with "/" @returns undefined when there is no such file */
  open(path: string): Promise<ByteSource | undefined>;
}

/** One image of an OCI image layout (image-spec, image-layout.md). */
export class LayoutSource implements ImageSource {
  readonly name: string;
  readonly #files: LayoutFiles;
  readonly #choice: LayoutChoice;

  /** @param files closed with this source */
  constructor(name: string, files: LayoutFiles, choice: LayoutChoice) {
    this.name = name;
    this.#files = files;
    this.#choice = choice;
  }

  async root(): Promise<{ readonly descriptor: Descriptor; readonly bytes: Uint8Array }> {
    const index = await this.#files.open("index.json");
    if (index === undefined) {
      throw new NydusError("ENOENT", `Cannot open image ${this.name}: not an OCI image layout, it has no index.json`);
    }
    const descriptor = chooseEntry(await readWhole(index), this.#choice, this.name);
    return { descriptor, bytes: await this.readBlob(descriptor) };
  }

  async readBlob(descriptor: Descriptor, limitBytes = SMALL_CONTENT_BYTES): Promise<Uint8Array> {
    checkSmall(descriptor, limitBytes);
    const source = await this.openBlob(descriptor);
    try {
      return verifyContent(descriptor, await source.readAt({ start: 0, end: source.sizeBytes }));
    } finally {
      await source.close();
    }
  }

  async openBlob(descriptor: Pick<Descriptor, "digest" | "size">): Promise<ByteSource> {
    const path = blobPath(descriptor);
    const source = await this.#files.open(path);
    const place = { digest: descriptor.digest };
    if (source === undefined) throw new NydusError("ENOENT", `Cannot open blob: ${this.name} does not hold it`, place);
    if (source.sizeBytes === descriptor.size) return source;
    await source.close();
    const message = `Cannot open blob: it has ${source.sizeBytes} bytes, ${descriptor.size} wanted`;
    throw new NydusError("EUCLEAN", message, place);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#files[Symbol.asyncDispose]();
  }
}

/** Path of a blob in a layout. @throws EINVAL a digest that is none */
export function blobPath(descriptor: Pick<Descriptor, "digest">): string {
  return `blobs/sha256/${hexOf(parseDigest(descriptor.digest))}`;
}

/** A small file's bytes; closes the source. @throws EUCLEAN above 4 MiB */
export async function readWhole(source: ByteSource): Promise<Uint8Array> {
  try {
    if (source.sizeBytes > SMALL_CONTENT_BYTES) {
      const message = `Cannot read index: ${source.sizeBytes} bytes, at most ${SMALL_CONTENT_BYTES} wanted`;
      throw new NydusError("EUCLEAN", message);
    }
    return await source.readAt({ start: 0, end: source.sizeBytes });
  } finally {
    await source.close();
  }
}
