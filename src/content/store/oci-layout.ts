import { mkdir, readFile, rm, rmdir, stat } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import type { Digest } from "../../base/digest.ts";
import { asNydusError, NydusError } from "../../base/errors.ts";
import type { Descriptor } from "../../format/oci/manifest.ts";
import { syncDirectory } from "./file-io.ts";
import { openFileSource } from "./file-source.ts";
import { LAYOUT_MARKER, type LayoutChoice, putEntry } from "./layout-index.ts";
import { blobPath, type LayoutFiles, LayoutSource } from "./layout-source.ts";
import { lockPath } from "./path-lock.ts";
import type { ByteSource } from "./source.ts";
import { checkWritten, replaceFile, StagedFile } from "./staged-file.ts";
import type { BlobSink, ImageSource, ImageTarget } from "./store.ts";
import { verifyContent } from "./verify.ts";

/** An image of a directory that is an OCI image layout: `oci:DIR[:REF]`. */
export function openLayoutSource(dir: string, choice: LayoutChoice, name: string): ImageSource {
  const files: LayoutFiles = {
    open: (path) => openIfThere(join(dir, path)),
    [Symbol.asyncDispose]: async () => undefined,
  };
  return new LayoutSource(name, files, choice);
}

async function openIfThere(path: string): Promise<ByteSource | undefined> {
  try {
    return await openFileSource(path);
  } catch (error) {
    if (error instanceof NydusError && error.code === "ENOENT") return undefined;
    throw error;
  }
}

/**
 * A directory to put an image into, made where it is not there; other images in it stay as they are. Blobs appear
 * complete, under their digests; the image appears when index.json is replaced. A directory that was made for an
 * image which is never committed is removed again.
 * @param reference the image's name in the layout
 * @throws ENOTSUP a layout of another version; EPERM, ENOSPC
 */
export async function openLayoutTarget(
  path: string,
  reference: string | undefined,
  name: string,
): Promise<ImageTarget> {
  const dir = resolve(path);
  await checkMarker(dir);
  const made = await makeDirectory(join(dir, "blobs", "sha256"));
  return new LayoutTarget({ dir, name, ...(made === undefined ? {} : { made }), reference });
}

async function makeDirectory(path: string): Promise<string | undefined> {
  try {
    return await mkdir(path, { recursive: true });
  } catch (error) {
    throw asNydusError(error, { path });
  }
}

async function checkMarker(dir: string): Promise<void> {
  const path = join(dir, "oci-layout");
  const marker = await readIfThere(path);
  if (marker === undefined) return;
  const version = /"imageLayoutVersion"\s*:\s*"([^"]{1,32})"/.exec(new TextDecoder().decode(marker))?.[1];
  if (version?.startsWith("1.")) return;
  throw new NydusError("ENOTSUP", `Cannot write to layout: its version is ${version ?? "unknown"}, 1.x wanted`, {
    path,
  });
}

async function readIfThere(path: string): Promise<Uint8Array | undefined> {
  try {
    return await readFile(path);
  } catch (error) {
    const failure = asNydusError(error, { path });
    if (failure.code === "ENOENT") return undefined;
    throw failure;
  }
}

interface LayoutPlace {
  readonly dir: string;
  readonly name: string;
  readonly reference: string | undefined;
  /** Topmost directory that was made for this target. */
  readonly made?: string;
}

class LayoutTarget implements ImageTarget {
  readonly name: string;
  readonly #place: LayoutPlace;
  readonly #written: string[] = [];
  #committed = false;

  constructor(place: LayoutPlace) {
    this.name = place.name;
    this.#place = place;
  }

  async hasBlob(descriptor: Pick<Descriptor, "digest" | "size">): Promise<boolean> {
    try {
      const found = await stat(join(this.#place.dir, blobPath(descriptor)));
      return found.isFile() && found.size === descriptor.size;
    } catch (error) {
      if (asNydusError(error).code === "ENOENT") return false;
      throw asNydusError(error, { digest: descriptor.digest });
    }
  }

  async newBlob(): Promise<BlobSink> {
    const { dir } = this.#place;
    return new LayoutSink(await StagedFile.create(join(dir, "blobs", "sha256")), (digest) => {
      const path = join(dir, blobPath({ digest }));
      this.#written.push(path);
      return path;
    });
  }

  async putBytes(descriptor: Descriptor, bytes: Uint8Array): Promise<void> {
    verifyContent(descriptor, bytes);
    if (await this.hasBlob(descriptor)) return;
    await using sink = await this.newBlob();
    await sink.write(bytes);
    await sink.commit(descriptor.digest, bytes.length);
  }

  async commit(root: Descriptor, bytes: Uint8Array): Promise<void> {
    const { dir, reference } = this.#place;
    await this.putBytes(root, bytes);
    await syncDirectory(join(dir, "blobs", "sha256"));
    await using _lock = await lockPath(dir, "change layout");
    const [marker, index] = [join(dir, "oci-layout"), join(dir, "index.json")];
    if ((await readIfThere(marker)) === undefined) await replaceFile(marker, new TextEncoder().encode(LAYOUT_MARKER));
    await replaceFile(index, putEntry(await readIfThere(index), root, reference));
    this.#committed = true;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const { dir, made } = this.#place;
    if (this.#committed || made === undefined) return;
    // Another writer may have put its image into the directory meanwhile: then all stays.
    if ((await readIfThere(join(dir, "index.json"))) !== undefined) return;
    for (const path of this.#written) await rm(path, { force: true });
    let path = join(dir, "blobs", "sha256");
    while (path.startsWith(made) && (await removeEmpty(path))) path = dirname(path);
  }
}

async function removeEmpty(path: string): Promise<boolean> {
  return rmdir(path).then(
    () => true,
    () => false, // not empty: someone else's
  );
}

class LayoutSink implements BlobSink {
  readonly #file: StagedFile;
  readonly #pathOf: (digest: Digest) => string;

  constructor(file: StagedFile, pathOf: (digest: Digest) => string) {
    this.#file = file;
    this.#pathOf = pathOf;
  }

  write(data: Uint8Array): Promise<void> {
    return this.#file.write(data);
  }

  async commit(digest: Digest, sizeBytes: number): Promise<void> {
    checkWritten(this.#file, digest, sizeBytes);
    await this.#file.placeAs(this.#pathOf(digest));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#file[Symbol.asyncDispose]();
  }
}
