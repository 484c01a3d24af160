import { bytesOfKey, concatBytes, keyOfBytes } from "../../base/bytes.ts";
import type { ErofsReader } from "../../format/erofs/reader.ts";
import { type TarMember, writeTar } from "../../format/tar/writer.ts";
import { HARDLINK_XATTR, IMPLICIT_XATTR, WHITEOUT_PREFIX } from "../../format/tree/markers.ts";
import { ContentQueue } from "./read-file.ts";
import type { ReadableImage } from "./unit-batches.ts";
import { contentOf, type NamedEntry, type UnpackOptions, walkNames, xattrsOf } from "./unpack.ts";
import { printablePath } from "./walk.ts";

/** Longest name of a file system. */
const NAME_BYTES = 255;

/** A path of a layer, as its tar is to have it. */
interface LayerName extends NamedEntry {
  /** Attributes without markers. */
  readonly xattrs: Map<string, Uint8Array>;
  /** Of a hard link to what a lower layer has. */
  readonly lowerPath?: Uint8Array;
}

/**
 * A layer, or a whole image, as a tar: as `unpackToTar` makes it of an image, and what a layer says of those below it
 * as the entries that said so: whiteouts, hard links to lower files; directories that had no entry have none.
 * @throws EBADMSG, EUCLEAN damaged; EIO, each with the path that it was met at
 */
export async function* unpackLayerToTar(image: ReadableImage, options: UnpackOptions): AsyncGenerator<Uint8Array> {
  const reader = image.rafs.erofs;
  await using queue = new ContentQueue(image, contentsOf(reader), options);
  yield* writeTar(membersOf(reader, queue, options));
}

function* layerNames(reader: ErofsReader): Generator<LayerName> {
  for (const entry of walkNames(reader)) {
    const xattrs = xattrsOf(reader, entry.inode.nid);
    const lowerPath = xattrs.get(HARDLINK_XATTR);
    if (xattrs.has(IMPLICIT_XATTR)) continue;
    xattrs.delete(HARDLINK_XATTR);
    yield { ...entry, xattrs, ...(lowerPath !== undefined && { lowerPath }) };
  }
}

/** Whether a path is a link to what a lower layer has, and not only a further name of such a link. */
function isLowerLink({ linkTo, lowerPath }: LayerName): boolean {
  return linkTo === undefined && lowerPath !== undefined;
}

/** Links to lower files come before everything else: what replaces a lower file must not be there yet. */
function* inTarOrder(reader: ErofsReader): Generator<LayerName> {
  const links: LayerName[] = [];
  for (const entry of layerNames(reader)) if (isLowerLink(entry)) links.push(entry);
  yield* linksInOrder(links);
  for (const entry of layerNames(reader)) if (!isLowerLink(entry)) yield entry;
}

/**
 * A link goes before those that put something at the path that it names, or below it. Links in a circle, which no tar
 * makes, are in any order.
 */
function linksInOrder(links: readonly LayerName[]): Iterable<LayerName> {
  const byTarget = Map.groupBy(links, ({ lowerPath = new Uint8Array(0) }) => keyOfBytes(lowerPath));
  const opened = new Set<LayerName>();
  const ordered = new Set<LayerName>();
  const ahead = [...links].reverse();
  for (let link = ahead.at(-1); link !== undefined; link = ahead.at(-1)) {
    if (opened.has(link)) {
      ordered.add(link);
      ahead.pop();
      continue;
    }
    opened.add(link);
    for (const path of pathAndParents(keyOfBytes(link.path))) {
      ahead.push(...(byTarget.get(path) ?? []).filter((other) => !opened.has(other)));
      byTarget.delete(path); // they are all on their way now
    }
  }
  return ordered;
}

function* pathAndParents(path: string): Generator<string> {
  for (let end = path.length; end > 0; end = path.lastIndexOf("/", end - 1)) yield path.slice(0, end);
}

/** Whether a path's content is in the tar behind its header. */
function hasContent({ inode, linkTo, lowerPath }: LayerName): boolean {
  return inode.type === "file" && linkTo === undefined && lowerPath === undefined;
}

function* contentsOf(reader: ErofsReader): Generator<number> {
  for (const name of layerNames(reader)) if (hasContent(name)) yield name.inode.nid;
}

function* membersOf(reader: ErofsReader, queue: ContentQueue, options: UnpackOptions): Generator<TarMember> {
  for (const entry of inTarOrder(reader)) {
    if (entry.inode.type === "socket") {
      options.onSkipped?.(printablePath(entry.path), "a tar cannot hold a socket");
      continue;
    }
    yield memberOf(reader, entry, queue);
  }
}

function memberOf(reader: ErofsReader, entry: LayerName, queue: ContentQueue): TarMember {
  const { path, inode, xattrs } = entry;
  const { type, mode, uid, gid, mtimeSec, mtimeNsec, rdevMajor, rdevMinor, nid } = inode;
  const member = { path, mode, uid, gid, mtimeSec, mtimeNsec };
  const linkPath = entry.linkTo ?? entry.lowerPath;
  if (linkPath !== undefined) return { ...member, type: "hardlink", linkPath };
  if (isLongWhiteout(entry)) return { ...member, path: whiteoutPath(entry), type: "file", sizeBytes: 0 };
  if (type === "symlink") return { ...member, type, xattrs, linkPath: reader.readlink(nid) };
  if (type !== "file") return { ...member, type, xattrs, rdevMajor, rdevMinor };
  return { ...member, type, xattrs, sizeBytes: inode.sizeBytes, content: contentOf(queue, path) };
}

/** Whether a device stands for a whiteout whose name is too long for a file system (`LayerTree`). */
function isLongWhiteout({ inode, name }: LayerName): boolean {
  const { type, mode, rdevMajor, rdevMinor } = inode;
  const isWhiteout = type === "char" && mode === 0 && rdevMajor === 0 && rdevMinor === 0;
  return isWhiteout && name.length + WHITEOUT_PREFIX.length > NAME_BYTES;
}

function whiteoutPath({ path, name }: LayerName): Uint8Array {
  const parent = keyOfBytes(path.subarray(0, path.length - name.length));
  return concatBytes([bytesOfKey(parent + WHITEOUT_PREFIX), name]);
}
