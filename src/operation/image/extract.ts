import { closeSync, existsSync, ftruncateSync, mkdirSync, readdirSync, renameSync, rmSync, writeSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { asNydusError, type ErrorPlace, inPlace, NydusError } from "../../base/errors.ts";
import { type Inode, MODE_TYPES } from "../../format/erofs/inode.ts";
import type { ErofsReader } from "../../format/erofs/reader.ts";
import { AT_FDCWD, type ExtractSyscalls, extractSyscalls, type NodePlace } from "../../os/extract-syscalls.ts";
import { ContentQueue, type FilePiece } from "./read-file.ts";
import type { ReadableImage, ReadFilesOptions } from "./unit-batches.ts";
import { contentNids, type NamedEntry, walkNames } from "./unpack.ts";
import { printablePath } from "./walk.ts";

const encoder = new TextEncoder();
/** Names in the staging directory: the tree, and a name of every inode that has several, until all is written. */
const TREE = encoder.encode("tree");
const LINKS = encoder.encode("links");

/** A directory that is being filled. */
interface OpenDirectory {
  readonly fd: number;
  readonly depth: number;
  readonly inode: Inode;
  readonly at: NodePlace;
  readonly place: ErrorPlace;
}

/** Writes one image's tree below an empty staging directory. */
class TreeWriter {
  readonly #calls: ExtractSyscalls;
  readonly #reader: ErofsReader;
  readonly #stagingFd: number;
  readonly #linksFd: number;
  readonly #open: OpenDirectory[] = [];

  constructor(reader: ErofsReader, staging: string) {
    this.#calls = extractSyscalls();
    this.#reader = reader;
    this.#stagingFd = this.#calls.openDirectory(AT_FDCWD, encoder.encode(staging), { path: staging });
    this.#calls.makeDirectory(this.#stagingFd, LINKS, { path: staging });
    this.#linksFd = this.#calls.openDirectory(this.#stagingFd, LINKS, { path: staging });
  }

  /** Writes all paths in the order of {@link walkNames}, contents from `queue`. */
  async write(queue: ContentQueue): Promise<void> {
    for (const entry of walkNames(this.#reader)) {
      this.#closeDownTo(entry.depth);
      const place = { path: printablePath(entry.path) };
      const at = this.#placeOf(entry);
      if (entry.linkTo !== undefined) this.#calls.link(this.#linkPlace(entry.inode), at, place);
      else if (entry.inode.type === "dir") this.#enter(entry, at, place);
      else {
        await this.#makeFile(entry, at, { queue, place });
        this.#setMetadata(entry.inode, at, place);
        if (entry.inode.nlink > 1) this.#calls.link(at, this.#linkPlace(entry.inode), place);
      }
    }
    this.#closeDownTo(0);
  }

  /** Releases what is still open, also after a failure. */
  close(): void {
    for (const directory of this.#open.splice(0)) closeSync(directory.fd);
    closeSync(this.#linksFd);
    closeSync(this.#stagingFd);
  }

  #placeOf(entry: NamedEntry): NodePlace {
    const parent = this.#open.at(-1);
    return parent === undefined ? { dirfd: this.#stagingFd, name: TREE } : { dirfd: parent.fd, name: entry.name };
  }

  #linkPlace(inode: Inode): NodePlace {
    return { dirfd: this.#linksFd, name: encoder.encode(String(inode.nid)) };
  }

  #enter({ inode, depth }: NamedEntry, at: NodePlace, place: ErrorPlace): void {
    this.#calls.makeDirectory(at.dirfd, at.name, place);
    this.#open.push({ fd: this.#calls.openDirectory(at.dirfd, at.name, place), depth, inode, at, place });
  }

  /** Leaves directories of this depth and deeper; only now do they get what writing into them would change. */
  #closeDownTo(depth: number): void {
    for (let last = this.#open.at(-1); last !== undefined && last.depth >= depth; last = this.#open.at(-1)) {
      this.#open.pop();
      closeSync(last.fd);
      this.#setMetadata(last.inode, last.at, last.place);
    }
  }

  async #makeFile(
    { inode }: NamedEntry,
    at: NodePlace,
    { queue, place }: { readonly queue: ContentQueue; readonly place: ErrorPlace },
  ): Promise<void> {
    if (inode.type === "file") await this.#writeFile(inode, at, { queue, place });
    else if (inode.type === "symlink") this.#calls.makeSymlink(at, this.#reader.readlink(inode.nid), place);
    else {
      const mode = MODE_TYPES[inode.type] | 0o600;
      this.#calls.makeNode(at, { mode, major: inode.rdevMajor, minor: inode.rdevMinor }, place);
    }
  }

  async #writeFile(
    inode: Inode,
    at: NodePlace,
    { queue, place }: { readonly queue: ContentQueue; readonly place: ErrorPlace },
  ): Promise<void> {
    const fd = this.#calls.createFile(at.dirfd, at.name, place);
    try {
      await inPlace(place, () => writePieces(fd, queue.nextFile(), inode.sizeBytes));
    } finally {
      closeSync(fd);
    }
  }

  /** The owner first: changing it clears set-user-id bits and capabilities. The time last. */
  #setMetadata(inode: Inode, at: NodePlace, place: ErrorPlace): void {
    this.#calls.setOwner(at, inode, place);
    if (inode.type !== "symlink") this.#calls.setMode(at, inode, place);
    for (const xattr of this.#reader.xattrs(inode.nid)) this.#calls.setXattr(at, xattr, place);
    this.#calls.setTime(at, inode, place);
  }
}

/** Writes a file's pieces at their places and leaves its holes. */
async function writePieces(fd: number, pieces: AsyncIterable<FilePiece>, sizeBytes: number): Promise<void> {
  let position = 0;
  for await (const { bytes, lengthBytes } of pieces) {
    for (let written = 0; bytes !== undefined && written < bytes.length; ) {
      written += writeAt(fd, bytes.subarray(written), position + written);
    }
    position += lengthBytes;
  }
  if (position !== sizeBytes) throw new NydusError("EUCLEAN", `Cannot read file: ${position} of ${sizeBytes} bytes`);
  ftruncateSync(fd, sizeBytes);
}

function writeAt(fd: number, bytes: Uint8Array, position: number): number {
  try {
    return writeSync(fd, bytes, 0, bytes.length, position);
  } catch (error) {
    throw asNydusError(error);
  }
}

/** A directory that can become the tree: missing, or empty. @throws EEXIST, EPERM; EINVAL no directory */
function checkTarget(target: string): void {
  if (!existsSync(target)) return;
  try {
    if (readdirSync(target).length === 0) return;
  } catch (error) {
    if ((error as { code?: unknown }).code !== "ENOTDIR") throw asNydusError(error, { path: target });
    throw new NydusError("EEXIST", "Cannot unpack: there is a file of that name", { path: target });
  }
  throw new NydusError("EEXIST", "Cannot unpack: the directory is not empty", { path: target });
}

/**
 * Writes the files of an image to a directory with everything that a file system can hold of them. The directory
 * appears whole or not at all: the tree is written beside it and renamed.
 * @param target a new or an empty directory, on a file system that holds the image's owners and xattrs
 * @throws EEXIST not empty; EPERM owners, devices and some xattrs without root; ENOTSUP under Node and Deno;
 *   ENOSPC, EIO; EBADMSG, EUCLEAN damaged image
 */
export async function unpackToDirectory(
  image: ReadableImage,
  target: string,
  options: ReadFilesOptions,
): Promise<void> {
  extractSyscalls();
  const path = resolve(target);
  checkTarget(path);
  const staging = join(dirname(path), `.nydus-unpack-${process.pid}-${Date.now().toString(36)}`);
  try {
    mkdirSync(staging, { mode: 0o700 });
    await writeTree(image, staging, options);
    renameSync(join(staging, "tree"), path);
  } catch (error) {
    throw asNydusError(error, error instanceof NydusError ? {} : { path });
  } finally {
    rmSync(staging, { recursive: true, force: true });
  }
}

async function writeTree(image: ReadableImage, staging: string, options: ReadFilesOptions): Promise<void> {
  await using queue = new ContentQueue(image, contentNids(image.rafs.erofs), options);
  const writer = new TreeWriter(image.rafs.erofs, staging);
  try {
    await writer.write(queue);
  } finally {
    writer.close();
  }
}
