import { inPlace } from "../../base/errors.ts";
import type { ErofsReader } from "../../format/erofs/reader.ts";
import { xattrKey } from "../../format/erofs/xattr.ts";
import { type TarMember, writeTar } from "../../format/tar/writer.ts";
import { ContentQueue, pieceBytes } from "./read-file.ts";
import type { ReadableImage, ReadFilesOptions } from "./unit-batches.ts";
import { printablePath, type WalkEntry, walkImage } from "./walk.ts";

/** A path of an image, with the earlier path of the same inode where it is a further name of it. */
export interface NamedEntry extends WalkEntry {
  readonly linkTo?: Uint8Array;
}

/** Every path of an image; from its second name on an inode that is no directory is a hard link to the first. */
export function* walkNames(reader: ErofsReader): Generator<NamedEntry> {
  const firstPaths = new Map<number, Uint8Array>();
  for (const entry of walkImage(reader)) {
    const { inode, path } = entry;
    const linkTo = firstPaths.get(inode.nid);
    if (linkTo === undefined && inode.type !== "dir" && inode.nlink > 1) firstPaths.set(inode.nid, path.slice());
    yield linkTo === undefined ? entry : { ...entry, linkTo };
  }
}

/** The inodes whose content {@link walkNames} meets, in its order. */
export function* contentNids(reader: ErofsReader): Generator<number> {
  for (const { inode, linkTo } of walkNames(reader)) {
    if (inode.type === "file" && linkTo === undefined) yield inode.nid;
  }
}

/** Extended attributes of an inode by whole names, as Latin-1 keys. */
export function xattrsOf(reader: ErofsReader, nid: number): Map<string, Uint8Array> {
  return new Map(reader.xattrs(nid).map((xattr) => [xattrKey(xattr), xattr.value]));
}

/** What unpacking tells: paths that the output cannot hold. */
export interface UnpackOptions extends ReadFilesOptions {
  readonly onSkipped?: (path: string, reason: string) => void;
}

/**
 * An image as a tar archive: directories before what they hold, hard links as such, owners, times with nanoseconds
 * and xattrs as the image has them. The same image gives the same bytes. Sockets, which tar does not know, are skipped.
 * @throws EBADMSG, EUCLEAN damaged; EIO, each with the path that it was met at
 */
export async function* unpackToTar(image: ReadableImage, options: UnpackOptions): AsyncGenerator<Uint8Array> {
  await using queue = new ContentQueue(image, contentNids(image.rafs.erofs), options);
  yield* writeTar(tarMembers(image.rafs.erofs, queue, options));
}

function* tarMembers(reader: ErofsReader, queue: ContentQueue, options: UnpackOptions): Generator<TarMember> {
  for (const entry of walkNames(reader)) {
    if (entry.inode.type === "socket") {
      options.onSkipped?.(printablePath(entry.path), "a tar cannot hold a socket");
      continue;
    }
    yield entry.linkTo === undefined ? tarMember(reader, entry, queue) : hardLink(entry, entry.linkTo);
  }
}

function hardLink({ path, inode }: WalkEntry, linkPath: Uint8Array): TarMember {
  const { mode, uid, gid, mtimeSec, mtimeNsec } = inode;
  return { path, type: "hardlink", mode, uid, gid, mtimeSec, mtimeNsec, linkPath };
}

function tarMember(reader: ErofsReader, { path, inode }: WalkEntry, queue: ContentQueue): TarMember {
  const { type, mode, uid, gid, mtimeSec, mtimeNsec, rdevMajor, rdevMinor, nid } = inode;
  const member = {
    path,
    type,
    mode,
    uid,
    gid,
    mtimeSec,
    mtimeNsec,
    rdevMajor,
    rdevMinor,
    xattrs: xattrsOf(reader, nid),
  };
  if (type === "symlink") return { ...member, linkPath: reader.readlink(nid) };
  if (type !== "file") return member;
  return { ...member, sizeBytes: inode.sizeBytes, content: contentOf(queue, path) };
}

/** The bytes of the next file of a queue; what goes wrong is at `path`. */
export async function* contentOf(queue: ContentQueue, path: Uint8Array): AsyncGenerator<Uint8Array> {
  const pieces = queue.nextFile();
  for (;;) {
    const { value, done } = await inPlace({ path: printablePath(path) }, () => pieces.next());
    if (done) return;
    yield* pieceBytes(value);
  }
}
