import type { Digest } from "../../base/digest.ts";
import type { Descriptor } from "../../format/oci/manifest.ts";
import { syncDirectory } from "../store/file-io.ts";
import { checkWritten, StagedFile } from "../store/staged-file.ts";
import type { BlobSink, ResumedSink, ResumingTarget } from "../store/store.ts";
import { verifyContent } from "../store/verify.ts";
import { type BlobName, hasStored } from "./blobs.ts";
import { writeRecord } from "./image-records.ts";
import { Lease } from "./lease.ts";
import { PartFile } from "./part-file.ts";
import { makeStoreDir, type StorePaths, storedBlobPath, storePaths } from "./paths.ts";

/** What an image is called in the store, and where it comes from. */
export interface LocalPlace {
  /** Directory of all state. */
  readonly root: string;
  /** As `storeName` gives it. */
  readonly name: string;
  /** As `formatImageName` gives it. */
  readonly from: string;
}

/**
 * The image store as the place that an image is written to. Whatever was asked for or written is leased until the
 * target is left: nobody sweeps it before the image has its name.
 * @throws EPERM, ENOSPC
 */
export async function openLocalTarget(place: LocalPlace): Promise<ResumingTarget> {
  const paths = storePaths(place.root);
  for (const dir of [paths.blobs, paths.ingest]) await makeStoreDir(dir);
  return new LocalTarget(paths, place);
}

class LocalTarget implements ResumingTarget {
  readonly name: string;
  readonly #paths: StorePaths;
  readonly #place: LocalPlace;
  readonly #lease: Lease;

  constructor(paths: StorePaths, place: LocalPlace) {
    this.name = place.name;
    this.#paths = paths;
    this.#place = place;
    this.#lease = new Lease(paths);
  }

  async hasBlob(descriptor: BlobName): Promise<boolean> {
    await this.#lease.add(descriptor.digest);
    return await hasStored(this.#paths, descriptor);
  }

  async resumeBlob(descriptor: BlobName, signal: AbortSignal): Promise<ResumedSink | undefined> {
    const isThere = (): Promise<boolean> => this.hasBlob(descriptor);
    return await PartFile.open(this.#paths, descriptor, { signal, isThere });
  }

  async newBlob(): Promise<BlobSink> {
    const file = await StagedFile.create(this.#paths.ingest);
    const commit = async (digest: Digest, sizeBytes: number): Promise<void> => {
      checkWritten(file, digest, sizeBytes);
      await this.#lease.add(digest);
      await file.placeAs(storedBlobPath(this.#paths, digest));
    };
    return {
      write: (data) => file.write(data),
      commit,
      [Symbol.asyncDispose]: () => file[Symbol.asyncDispose](),
    };
  }

  async putBytes(descriptor: Descriptor, bytes: Uint8Array): Promise<void> {
    verifyContent(descriptor, bytes);
    if (await this.hasBlob(descriptor)) return;
    await using sink = await this.newBlob();
    await sink.write(bytes);
    await sink.commit(descriptor.digest, bytes.length);
  }

  async commit(root: Descriptor, bytes: Uint8Array): Promise<void> {
    await this.putBytes(root, bytes);
    await syncDirectory(this.#paths.blobs);
    const { mediaType, digest, size } = root;
    const { name, from } = this.#place;
    const pulledAt = new Date().toISOString();
    await writeRecord(this.#paths, { name, root: { mediaType, digest, size }, from, pulledAt });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#lease[Symbol.asyncDispose]();
  }
}
