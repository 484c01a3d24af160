import { Closers } from "./closers.ts";
import { dockerImages } from "./docker-archive.ts";
import { listEntries } from "./layout-index.ts";
import { LayoutSource, readWhole } from "./layout-source.ts";
import type { ImageSource, StoreContext } from "./store.ts";
import { TarArchive } from "./tar-archive.ts";

/** One image of an archive. */
export interface ArchiveImage {
  /** As the archive has them; none of an image that it does not name. */
  readonly names: readonly string[];
  readonly source: ImageSource;
}

/** Every image of an archive; disposing closes it with all of them. */
export interface ArchiveImages extends AsyncDisposable {
  readonly images: readonly ArchiveImage[];
}

/**
 * The images of an archive, whether `docker save` wrote it or it is an OCI layout; one that is both is read as the
 * layout, as containerd does.
 * @throws ENOENT; EUCLEAN neither of them; ENOSPC
 */
export async function openArchiveImages(path: string, context: StoreContext): Promise<ArchiveImages> {
  await using stack = new Closers();
  const archive = stack.use(await TarArchive.open(path, context));
  const images = (await layoutImages(archive)) ?? (await dockerImages(archive, context.signal));
  const owned = stack.move();
  return { images, [Symbol.asyncDispose]: () => owned[Symbol.asyncDispose]() };
}

async function layoutImages(archive: TarArchive): Promise<readonly ArchiveImage[] | undefined> {
  const index = archive.open("oci-layout") === undefined ? undefined : archive.open("index.json");
  if (index === undefined) return undefined;
  const files = { open: async (entry: string) => archive.open(entry), [Symbol.asyncDispose]: async () => undefined };
  return listEntries(await readWhole(index)).map(({ name }, at) => ({
    names: name === undefined ? [] : [name],
    source: new LayoutSource(`oci-archive:${archive.path}:@${at}`, files, { index: at }),
  }));
}
