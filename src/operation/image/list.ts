import type { Inode } from "../../format/erofs/inode.ts";
import type { ErofsReader } from "../../format/erofs/reader.ts";
import type { NodeType } from "../../format/tree/node.ts";
import { printableBytes, printablePath, resolvePath, type WalkEntry, walkImage } from "./walk.ts";

/** A path of an image for people and JSON; bytes that are no printable UTF-8 are escaped as `\ooo`. */
export interface ListEntry {
  /** With a leading slash. */
  readonly path: string;
  readonly type: NodeType;
  /** 0 to 0o7777. */
  readonly mode: number;
  readonly nlink: number;
  readonly uid: number;
  readonly gid: number;
  readonly sizeBytes: number;
  readonly mtimeSec: number;
  readonly mtimeNsec: number;
  /** Of a symlink. */
  readonly target?: string;
  /** Of a device: major and minor. */
  readonly rdev?: readonly [number, number];
}

const TYPE_LETTERS: Readonly<Record<NodeType, string>> = {
  file: "-",
  dir: "d",
  symlink: "l",
  char: "c",
  block: "b",
  fifo: "p",
  socket: "s",
};

/**
 * What is in a directory of an image, or a file itself; symlinks on the way to it are followed.
 * @param path raw bytes, with or without a leading slash
 * @throws ENOENT no such path; EUCLEAN damaged
 */
export function* listPath(
  reader: ErofsReader,
  path: Uint8Array,
  options: { readonly recursive: boolean },
): Generator<ListEntry> {
  const from = resolvePath(reader, path, { followLast: true });
  const isDirectory = reader.inode(from.nid).type === "dir";
  const maxDepth = options.recursive ? Number.POSITIVE_INFINITY : 1;
  for (const entry of walkImage(reader, { from, maxDepth })) {
    if (entry.depth === 0 && isDirectory) continue;
    yield listEntry(reader, entry);
  }
}

function listEntry(reader: ErofsReader, { path, inode }: WalkEntry): ListEntry {
  const { type, mode, nlink, uid, gid, sizeBytes, mtimeSec, mtimeNsec } = inode;
  const common = { path: printablePath(path), type, mode, nlink, uid, gid, sizeBytes, mtimeSec, mtimeNsec };
  if (type === "symlink") return { ...common, target: printableBytes(reader.readlink(inode.nid)) };
  return type === "char" || type === "block" ? { ...common, rdev: [inode.rdevMajor, inode.rdevMinor] } : common;
}

/** Type and permissions as ls(1) writes them: `-rwsr-xr-x`. */
export function formatMode({ type, mode }: Pick<Inode, "type" | "mode">): string {
  const special = [mode & 0o4000, mode & 0o2000, mode & 0o1000];
  const letters = [6, 3, 0].map((shift, i) => {
    const bits = (mode >> shift) & 7;
    const mark = i === 2 ? "t" : "s";
    const plain = (bits & 1) === 0 ? "-" : "x";
    const marked = (bits & 1) === 0 ? mark.toUpperCase() : mark;
    return `${(bits & 4) === 0 ? "-" : "r"}${(bits & 2) === 0 ? "-" : "w"}${special[i] === 0 ? plain : marked}`;
  });
  return TYPE_LETTERS[type] + letters.join("");
}

/** Seconds since 1970 as UTC: `2026-11-24 10:38:05`; as a number where no calendar reaches. */
export function formatTime(seconds: number): string {
  const date = new Date(seconds * 1000);
  if (Number.isNaN(date.getTime())) return `@${seconds}`;
  return date
    .toISOString()
    .replace("T", " ")
    .replace(/\.\d+Z$/, "");
}
