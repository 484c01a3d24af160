import { mkdir, mkdtemp, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { keyOfBytes } from "../../base/bytes.ts";
import { hexOf, parseDigest, toHex } from "../../base/digest.ts";
import { asNydusError, inPlace, NydusError } from "../../base/errors.ts";
import { closeFile, fileSize, openFile, readFully, syncDirectory } from "../../content/store/file-io.ts";
import { StagedFile } from "../../content/store/staged-file.ts";
import type { ImageSource } from "../../content/store/store.ts";
import type { Codecs } from "../../format/codec/codecs.ts";
import { JsonReader } from "../../format/oci/json.ts";
import type { Descriptor } from "../../format/oci/manifest.ts";
import { layerFormat } from "../../format/oci/media-type.ts";
import { readTar, type TarEntry } from "../../format/tar/reader.ts";
import { type MappedFile, mapFile } from "../../os/mmap.ts";
import { untilVerified, verifiedLayerBytes } from "../build/layer-bytes.ts";
import { verifyMapped } from "./bootstrap-digest.ts";

/** Limits of what a bootstrap layer may unpack to. */
export const BOOTSTRAP_LIMITS = {
  /** Bytes of image.boot: some ten million files. */
  bootstrapBytes: 2 ** 31,
  /** Bytes of all blob meta files together. */
  metaBytes: 2 ** 29,
  /** Entries in the layer; one a blob, and a few. */
  entries: 4096,
} as const;

/** Where image.boot may be in a bootstrap layer; the second is that of old images. */
export const BOOTSTRAP_PATHS: readonly string[] = ["image/image.boot", "image.boot"];
const BOOTSTRAP_FILE = "image.boot";
const META_PATH = /^(?:image\/)?([0-9a-f]{64})\.blob\.meta$/;
/** Read at once when a stored file is verified. */
const PIECE_BYTES = 4 << 20;
/** Lists the files of a stored bootstrap with their digests. */
const LIST_FILE = "files.json";

/** A bootstrap layer, unpacked into the state directory. */
export interface StoredBootstrap {
  readonly path: string;
  /** The bootstrap, open: its bytes have been verified as they are mapped. */
  readonly file: MappedFile;
  /** Path of the `.blob.meta` file by blob id. */
  readonly metaPaths: ReadonlyMap<string, string>;
}

/** What unpacking needs. */
export interface BootstrapContext {
  /** Directory of all state. */
  readonly root: string;
  readonly codecs: Codecs;
  readonly signal: AbortSignal;
}

/**
 * The bootstrap of an image, from the state directory if it is there and whole, else from the image's bootstrap layer.
 * The caller closes its file.
 * @throws EBADMSG, EUCLEAN a damaged layer; ENOTSUP an encrypted one; EIO, ENOSPC
 */
export async function storeBootstrap(
  source: ImageSource,
  layer: Descriptor,
  context: BootstrapContext,
): Promise<StoredBootstrap> {
  const parent = join(context.root, "bootstraps");
  const dir = join(parent, hexOf(parseDigest(layer.digest)));
  const there = await readStored(dir, context.codecs);
  if (there !== undefined) return there;
  const staging = await makeStaging(parent);
  try {
    const files = await inPlace({ digest: layer.digest }, () =>
      unpackLayer(source, layer, { ...context, dir: staging }),
    );
    await syncDirectory(staging);
    const stored = await place(staging, dir, { files, codecs: context.codecs });
    await syncDirectory(parent);
    return stored;
  } catch (error) {
    throw asNydusError(error, { path: dir });
  } finally {
    await rm(staging, { recursive: true, force: true });
  }
}

async function makeStaging(parent: string): Promise<string> {
  try {
    await mkdir(parent, { recursive: true, mode: 0o700 });
    return await mkdtemp(join(parent, ".unpacking-"));
  } catch (error) {
    throw asNydusError(error, { path: parent });
  }
}

interface Unpacked {
  readonly files: readonly ListedFile[];
  readonly codecs: Codecs;
}

/** Gives the directory its name. Where another process was first, its one stays, unless that is damaged. */
async function place(staging: string, dir: string, { files, codecs }: Unpacked): Promise<StoredBootstrap> {
  try {
    await rename(staging, dir);
  } catch (error) {
    if (asNydusError(error).code !== "EEXIST") throw error;
    const there = await readStored(dir, codecs);
    if (there !== undefined) return there;
    const aside = `${staging}.old`;
    await rename(dir, aside);
    await rename(staging, dir);
    await rm(aside, { recursive: true, force: true });
  }
  return storedAt(dir, files);
}

function metaPathsOf(dir: string, files: readonly ListedFile[]): Map<string, string> {
  const metas = files.filter(({ name }) => name !== BOOTSTRAP_FILE);
  return new Map(metas.map(({ name }) => [name.slice(0, 64), join(dir, name)]));
}

/** @throws EBADMSG the bootstrap is not the one that is listed; ENOENT, EIO */
function storedAt(dir: string, files: readonly ListedFile[]): StoredBootstrap {
  const metaPaths = metaPathsOf(dir, files);
  const path = join(dir, BOOTSTRAP_FILE);
  const file = mapFile(path);
  try {
    verifyMapped(file, files.find(({ name }) => name === BOOTSTRAP_FILE)?.sha256 ?? "");
    return { path, file, metaPaths };
  } catch (error) {
    file.close();
    throw asNydusError(error, { path });
  }
}

interface ListedFile {
  readonly name: string;
  readonly sha256: string;
}

/**
 * The same for who has the bootstrap itself, open: nothing is verified, and its place may be empty.
 * @returns with the metas that are listed there; what they say is not trusted anyway
 */
export async function findStoredBootstrap(root: string, layer: Descriptor, file: MappedFile): Promise<StoredBootstrap> {
  const dir = join(root, "bootstraps", hexOf(parseDigest(layer.digest)));
  const files = await readFile(join(dir, LIST_FILE)).then(parseList, () => []);
  return { path: join(dir, BOOTSTRAP_FILE), file, metaPaths: metaPathsOf(dir, files) };
}

/** @returns undefined unless every listed file is there with its digest */
async function readStored(dir: string, codecs: Codecs): Promise<StoredBootstrap | undefined> {
  try {
    const files = parseList(await readFile(join(dir, LIST_FILE)));
    for (const { name, sha256 } of files) {
      if (name !== BOOTSTRAP_FILE && (await sha256Of(join(dir, name), codecs)) !== sha256) return undefined;
    }
    return storedAt(dir, files);
  } catch {
    return undefined; // not there, or not whole: it is made anew
  }
}

/** The SHA-256 of a file, hex. */
async function sha256Of(path: string, codecs: Codecs): Promise<string> {
  const hasher = codecs.sha256();
  const fd = await openFile(path, "r");
  try {
    const end = await fileSize(fd, path);
    for (let at = 0; at < end; at += PIECE_BYTES) {
      hasher.update(await readFully(fd, { start: at, end: Math.min(end, at + PIECE_BYTES) }, path));
    }
  } finally {
    await closeFile(fd);
  }
  return toHex(hasher.digest());
}

function parseList(bytes: Uint8Array): ListedFile[] {
  const read = new JsonReader("list of files");
  const items = read.array(read.parse(bytes)["files"], "files", BOOTSTRAP_LIMITS.entries);
  const files = items.map((item) => {
    const { name, sha256 } = read.object(item, "file");
    return { name: read.string(name, "name"), sha256: read.string(sha256, "sha256") };
  });
  const isComplete = files.some(({ name }) => name === BOOTSTRAP_FILE);
  const isOurs = files.every(({ name }) => name === BOOTSTRAP_FILE || META_PATH.test(name));
  if (!isComplete || !isOurs) throw read.bad("files", undefined, "a bootstrap and blob metas");
  return files;
}

/** Unpacks what a bootstrap layer holds into a directory; nothing there counts until all of the layer is verified. */
async function unpackLayer(
  source: ImageSource,
  layer: Descriptor,
  context: BootstrapContext & { readonly dir: string },
): Promise<ListedFile[]> {
  const { codecs, signal, dir } = context;
  const format = layerFormat(layer.mediaType);
  const blob = await source.openBlob(layer);
  const files = new Map<string, string>();
  try {
    const watch = { hasher: codecs.sha256(), signal, onBytes: () => undefined };
    const plain = codecs.decompressStream(format, verifiedLayerBytes(blob, layer, watch));
    let entries = 0;
    let metaBytes = 0;
    for await (const entry of readTar(untilVerified(plain, watch))) {
      if (++entries > BOOTSTRAP_LIMITS.entries) throw badLayer(`it has more than ${BOOTSTRAP_LIMITS.entries} entries`);
      const name = wantedName(entry);
      if (name === undefined) continue;
      if (files.has(name)) throw badLayer(`it has ${name} twice`);
      if (name !== BOOTSTRAP_FILE) metaBytes += entry.sizeBytes;
      const fits =
        name === BOOTSTRAP_FILE
          ? entry.sizeBytes <= BOOTSTRAP_LIMITS.bootstrapBytes
          : metaBytes <= BOOTSTRAP_LIMITS.metaBytes;
      if (!fits) throw badLayer(`${name} has ${entry.sizeBytes} bytes, which is too many`);
      files.set(name, await writeEntry(entry, join(dir, name), codecs));
    }
  } finally {
    await blob.close();
  }
  if (!files.has(BOOTSTRAP_FILE)) throw badLayer(`it holds no ${BOOTSTRAP_PATHS[0]}`);
  const list = { files: [...files].map(([name, sha256]) => ({ name, sha256 })) };
  await using file = await StagedFile.create(dir);
  await file.write(new TextEncoder().encode(JSON.stringify(list)));
  await file.placeAs(join(dir, LIST_FILE));
  return list.files;
}

function badLayer(found: string): NydusError {
  return new NydusError("EUCLEAN", `Cannot read bootstrap layer: ${found}`);
}

/** Name in the store of an entry that is wanted; the image never chooses a path. */
function wantedName(entry: TarEntry): string | undefined {
  const path = keyOfBytes(entry.path);
  const metaOf = META_PATH.exec(path)?.[1];
  const name = BOOTSTRAP_PATHS.includes(path)
    ? BOOTSTRAP_FILE
    : metaOf === undefined
      ? undefined
      : `${metaOf}.blob.meta`;
  if (name !== undefined && entry.type !== "file") throw badLayer(`${name} is a ${entry.type}, a file wanted`);
  return name;
}

/** @returns the content's SHA-256, hex */
async function writeEntry(entry: TarEntry, path: string, codecs: Codecs): Promise<string> {
  const hasher = codecs.sha256();
  await using file = await StagedFile.create(join(path, ".."));
  for await (const piece of entry.content) {
    hasher.update(piece);
    await file.write(piece);
  }
  await file.placeAs(path);
  return toHex(hasher.digest());
}
