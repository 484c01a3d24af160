import { createHash } from "node:crypto";
import { readdir, readFile, rm } from "node:fs/promises";
import { join, resolve } from "node:path";
import { hexOf } from "../../base/digest.ts";
import { asNydusError, inPlace, NydusError } from "../../base/errors.ts";
import { JsonReader } from "../../format/oci/json.ts";
import type { Descriptor } from "../../format/oci/manifest.ts";
import { formatReference, parseReference } from "../../format/oci/reference.ts";
import { formatImageName, type ImageName, parseImageName } from "../../format/oci/transport.ts";
import { syncDirectory } from "../store/file-io.ts";
import { replaceFile } from "../store/staged-file.ts";
import { makeStoreDir, type StorePaths } from "./paths.ts";

/** An image's name in the store: `<root>/content/images/<sha256 of the name>.json`. */
export interface ImageRecord {
  /** `docker.io/library/alpine:latest`; of a directory or archive that was pulled under no other name: `oci:/dir:ref`. */
  readonly name: string;
  /** The top manifest or index. */
  readonly root: Pick<Descriptor, "mediaType" | "digest" | "size">;
  /** Where it was pulled from, with its transport: what a lazily pulled image lacks is there. */
  readonly from: string;
  /** ISO 8601. */
  readonly pulledAt: string;
}

/** Longest name: a path and a reference. */
const MAX_NAME_CHARS = 8192;
const RECORD_FILE = /^[0-9a-f]{64}\.json$/;
/** Digits of a digest that name an image by themselves, at least. */
const SHORT_ID = /^(?:sha256:)?([0-9a-f]{6,64})$/;

/**
 * The name that an image has in the store: a registry's in full, also of an archive's RepoTag and of containerd's where
 * it is one; else as it was read.
 */
export function storeName(image: ImageName): string {
  if (image.transport === "containerd") return fullName(image.reference) ?? originName(image);
  return typeof image.reference === "object" ? formatReference(image.reference) : originName(image);
}

/** @returns undefined of what is no reference */
function fullName(text: string): string | undefined {
  try {
    return formatReference(parseReference(text));
  } catch {
    return undefined;
  }
}

/** Where an image is, wherever the program is started next: paths are absolute. */
export function originName(image: ImageName): string {
  return formatImageName("path" in image ? { ...image, path: resolve(image.path) } : image);
}

/** The records of the store by name, and the files that hold none. @throws EPERM, EIO */
export async function listRecords(
  paths: StorePaths,
): Promise<{ readonly records: readonly ImageRecord[]; readonly damaged: readonly string[] }> {
  const records: ImageRecord[] = [];
  const damaged: string[] = [];
  for (const file of await namesIn(paths.images)) {
    if (!RECORD_FILE.test(file)) continue;
    const path = join(paths.images, file);
    try {
      const record = await readRecord(path);
      if (record !== undefined) records.push(record);
    } catch (error) {
      if (!(error instanceof NydusError) || error.code !== "EUCLEAN") throw error;
      damaged.push(path);
    }
  }
  records.sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
  return { records, damaged };
}

/**
 * The record that a user means: by the image's name; by a registry's name with the digest of what is stored under a
 * tag; or, where `byId` says so, by the first digits of its digest as `images -q` prints them.
 * @throws EINVAL a name that is none, or digits that several images begin with; EUCLEAN a damaged record
 */
export async function findRecord(paths: StorePaths, text: string, byId = false): Promise<ImageRecord | undefined> {
  const id = byId ? SHORT_ID.exec(text)?.[1] : undefined;
  if (id === undefined || !text.startsWith("sha256:")) {
    const found = id?.length === 64 ? undefined : await findByName(paths, parseImageName(text));
    if (found !== undefined || id === undefined) return found;
  }
  const { records } = await listRecords(paths);
  const matches = records.filter(({ root }) => hexOf(root.digest).startsWith(id));
  if (new Set(matches.map(({ root }) => root.digest)).size > 1) {
    throw new NydusError("EINVAL", `Cannot find image: the digests of several begin with ${id}`);
  }
  return matches[0];
}

async function findByName(paths: StorePaths, image: ImageName): Promise<ImageRecord | undefined> {
  const exact = await readRecord(recordPath(paths, storeName(image)));
  if (exact !== undefined || image.transport !== "docker" || image.reference.digest === undefined) return exact;
  const { registry, repository, digest } = image.reference;
  const { records } = await listRecords(paths);
  return records.find(({ name, root }) => {
    if (root.digest !== digest || parseImageName(name).transport !== "docker") return false;
    const other = parseReference(name);
    return other.registry === registry && other.repository === repository;
  });
}

/** Gives an image its name, in the place of what had it; a crash leaves one or the other. @throws ENOSPC, EPERM */
export async function writeRecord(paths: StorePaths, record: ImageRecord): Promise<void> {
  await makeStoreDir(paths.images);
  await replaceFile(
    recordPath(paths, record.name),
    new TextEncoder().encode(`${JSON.stringify({ version: 1, ...record })}\n`),
  );
}

/** Takes a name away; its blobs are another matter. @throws EPERM, EIO */
export async function removeRecord(paths: StorePaths, name: string): Promise<void> {
  const path = recordPath(paths, name);
  try {
    await rm(path, { force: true });
    await syncDirectory(paths.images);
  } catch (error) {
    throw asNydusError(error, { path });
  }
}

function recordPath(paths: StorePaths, name: string): string {
  return join(paths.images, `${createHash("sha256").update(name).digest("hex")}.json`);
}

async function readRecord(path: string): Promise<ImageRecord | undefined> {
  let bytes: Uint8Array;
  try {
    bytes = await readFile(path);
  } catch (error) {
    const failure = asNydusError(error, { path });
    if (failure.code === "ENOENT") return undefined;
    throw failure;
  }
  return inPlace({ path }, () => parseRecord(bytes));
}

function parseRecord(bytes: Uint8Array): ImageRecord {
  const read = new JsonReader("image record");
  const top = read.parse(bytes);
  if (top["version"] !== 1) throw read.bad("version", top["version"], "1");
  const root = read.object(top["root"], "root");
  const name = read.string(top["name"], "name");
  if (name === "" || name.length > MAX_NAME_CHARS) throw read.bad("name", name, "an image's name");
  return {
    name,
    root: {
      mediaType: read.string(root["mediaType"], "root.mediaType"),
      digest: read.digest(root["digest"], "root.digest"),
      size: read.size(root["size"], "root.size"),
    },
    from: read.string(top["from"], "from"),
    pulledAt: read.string(top["pulledAt"], "pulledAt"),
  };
}

/** Names in a directory, none where it is not there. @throws EPERM, EIO */
export async function namesIn(dir: string): Promise<readonly string[]> {
  try {
    return await readdir(dir);
  } catch (error) {
    const failure = asNydusError(error, { path: dir });
    if (failure.code === "ENOENT") return [];
    throw failure;
  }
}
