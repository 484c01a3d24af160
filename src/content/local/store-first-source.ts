import { NydusError } from "../../base/errors.ts";
import type { Descriptor } from "../../format/oci/manifest.ts";
import type { ByteSource } from "../store/source.ts";
import type { ImageSource } from "../store/store.ts";
import { checkSmall } from "../store/verify.ts";
import { type BlobName, hasStored, openStored, readStored } from "./blobs.ts";
import type { ImageRecord } from "./image-records.ts";
import { Lease } from "./lease.ts";
import type { StorePaths } from "./paths.ts";

/** Where an image is read from. */
export interface StoreFirst {
  readonly paths: StorePaths;
  /** As the user named it. */
  readonly name: string;
  /** What the name means in the store; undefined: the other place says. */
  readonly record?: ImageRecord | undefined;
  /** Opens the other place, which is asked for what the store lacks; none where nothing else may be asked. */
  readonly openOther?: (() => Promise<ImageSource>) | undefined;
}

/**
 * An image of which some or all is in the image store: each blob that is there is read from there. What this source
 * has opened is leased until it is closed.
 */
export class StoreFirstSource implements ImageSource {
  readonly name: string;
  readonly #options: StoreFirst;
  readonly #lease: Lease;
  #other: Promise<ImageSource> | undefined;

  constructor(options: StoreFirst) {
    this.name = options.name;
    this.#options = options;
    this.#lease = new Lease(options.paths);
  }

  async root(): Promise<{ readonly descriptor: Descriptor; readonly bytes: Uint8Array }> {
    const { record, openOther } = this.#options;
    if (record !== undefined) return { descriptor: record.root, bytes: await this.readBlob(record.root) };
    if (openOther !== undefined) return await (await this.#openOther(openOther)).root();
    throw new NydusError("ENOENT", `Cannot open image ${this.name}: it is not in the image store; pull it first`);
  }

  async readBlob(descriptor: Descriptor, limitBytes?: number): Promise<Uint8Array> {
    checkSmall(descriptor, limitBytes);
    const { paths } = this.#options;
    const other = await this.#otherFor(descriptor);
    if (other === undefined) return await readStored(paths, descriptor, limitBytes);
    return await other.readBlob(descriptor, limitBytes);
  }

  async openBlob(descriptor: BlobName): Promise<ByteSource> {
    const other = await this.#otherFor(descriptor);
    return other === undefined ? await openStored(this.#options.paths, descriptor) : await other.openBlob(descriptor);
  }

  /** The place to ask for a blob: undefined is the store. */
  async #otherFor(descriptor: BlobName): Promise<ImageSource | undefined> {
    const { paths, openOther } = this.#options;
    if (!(await hasStored(paths, descriptor))) return openOther === undefined ? undefined : this.#openOther(openOther);
    await this.#lease.addIfWritable(descriptor.digest);
    // Between the look and the lease it may have gone.
    const isThere = openOther === undefined || (await hasStored(paths, descriptor));
    return isThere ? undefined : this.#openOther(openOther);
  }

  #openOther(open: () => Promise<ImageSource>): Promise<ImageSource> {
    this.#other ??= open();
    return this.#other;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#lease[Symbol.asyncDispose]();
    const other = await this.#other?.catch(() => undefined);
    await other?.[Symbol.asyncDispose]();
  }
}
