import { mkdtemp, readdir, rm } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { bytesOfKey } from "../../base/bytes.ts";
import { asNydusError } from "../../base/errors.ts";
import type { Descriptor } from "../../format/oci/manifest.ts";
import { type TarMember, writeTar } from "../../format/tar/writer.ts";
import { syncDirectory } from "./file-io.ts";
import { openFileSource } from "./file-source.ts";
import type { LayoutChoice } from "./layout-index.ts";
import { LayoutSource } from "./layout-source.ts";
import { openLayoutTarget } from "./oci-layout.ts";
import { StagedFile } from "./staged-file.ts";
import type { BlobSink, ImageSource, ImageTarget, StoreContext } from "./store.ts";
import { TarArchive } from "./tar-archive.ts";

/** An image of a tar of an OCI image layout: `oci-archive:FILE[:REF]`. @throws ENOENT; EUCLEAN no tar; ENOSPC */
export async function openArchiveSource(
  path: string,
  choice: LayoutChoice,
  name: string,
  context: StoreContext,
): Promise<ImageSource> {
  const archive = await TarArchive.open(path, context);
  const files = {
    open: async (entry: string) => archive.open(entry),
    [Symbol.asyncDispose]: () => archive[Symbol.asyncDispose](),
  };
  return new LayoutSource(name, files, choice);
}

/**
 * A tar of an OCI image layout to be made. The layout is gathered in a hidden directory beside the file and packed at
 * the end, in the order of the names: the same image gives the same bytes. What has the file's name is replaced.
 * @throws ENOENT no such directory; EPERM, ENOSPC
 */
export async function openArchiveTarget(
  path: string,
  reference: string | undefined,
  name: string,
): Promise<ImageTarget> {
  const file = resolve(path);
  try {
    const staging = await mkdtemp(join(dirname(file), ".nydus-archive-"));
    return new ArchiveTarget({ file, staging, name }, await openLayoutTarget(staging, reference, name));
  } catch (error) {
    throw asNydusError(error, { path: file });
  }
}

interface ArchivePlace {
  readonly file: string;
  readonly staging: string;
  readonly name: string;
}

class ArchiveTarget implements ImageTarget {
  readonly name: string;
  readonly #place: ArchivePlace;
  readonly #layout: ImageTarget;

  constructor(place: ArchivePlace, layout: ImageTarget) {
    this.name = place.name;
    this.#place = place;
    this.#layout = layout;
  }

  hasBlob(descriptor: Pick<Descriptor, "digest" | "size">): Promise<boolean> {
    return this.#layout.hasBlob(descriptor);
  }

  newBlob(): Promise<BlobSink> {
    return this.#layout.newBlob();
  }

  putBytes(descriptor: Descriptor, bytes: Uint8Array): Promise<void> {
    return this.#layout.putBytes(descriptor, bytes);
  }

  async commit(root: Descriptor, bytes: Uint8Array): Promise<void> {
    const { file, staging } = this.#place;
    await this.#layout.commit(root, bytes);
    await using packed = await StagedFile.create(dirname(file));
    for await (const piece of writeTar(layoutMembers(staging))) await packed.write(piece);
    await packed.placeAs(file);
    await syncDirectory(dirname(file));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#layout[Symbol.asyncDispose]();
    await rm(this.#place.staging, { recursive: true, force: true });
  }
}

/** The files of a layout as they go into the tar; each blob is removed behind itself, to need less space. */
async function* layoutMembers(dir: string): AsyncGenerator<TarMember> {
  yield* fileMember(dir, "oci-layout");
  yield* fileMember(dir, "index.json");
  yield { path: bytesOfKey("blobs"), type: "dir", mode: 0o755 };
  yield { path: bytesOfKey("blobs/sha256"), type: "dir", mode: 0o755 };
  for (const name of (await readdir(join(dir, "blobs", "sha256"))).sort()) {
    yield* fileMember(dir, `blobs/sha256/${name}`);
    await rm(join(dir, "blobs", "sha256", name));
  }
}

async function* fileMember(dir: string, path: string): AsyncGenerator<TarMember> {
  const source = await openFileSource(join(dir, path));
  try {
    const { sizeBytes } = source;
    yield { path: bytesOfKey(path), type: "file", mode: 0o644, sizeBytes, content: source.stream() };
  } finally {
    await source.close();
  }
}
