import { concatBytes, keyOfBytes } from "../../base/bytes.ts";
import { NydusError } from "../../base/errors.ts";
import type { Inode } from "../../format/erofs/inode.ts";
import type { DirEntry, ErofsReader } from "../../format/erofs/reader.ts";

const SLASH = 0x2f;
const DOT = 0x2e;
const SEPARATOR = Uint8Array.of(SLASH);
/** As many symlinks as Linux follows in one path. */
const MAX_LINKS = 40;

/** One name of an image. */
export interface WalkEntry {
  /** Raw bytes from the root, without a leading slash; empty for the root itself. */
  readonly path: Uint8Array;
  /** The last part of `path`. */
  readonly name: Uint8Array;
  /** Directories above it: 0 for the root. */
  readonly depth: number;
  readonly inode: Inode;
}

/** Which way a walk goes. */
export interface WalkOptions {
  /** Where to begin; the root unless given. */
  readonly from?: { readonly path: Uint8Array; readonly nid: number };
  /** Whether to go below the directory that the walk begins with; directories below that follow suit. */
  readonly maxDepth?: number;
}

interface Level {
  readonly path: Uint8Array;
  readonly entries: Iterator<DirEntry>;
  readonly names: Set<string>;
}

function isDots(name: Uint8Array): boolean {
  return name[0] === DOT && (name.length === 1 || (name.length === 2 && name[1] === DOT));
}

/** Path and name joined by a slash. */
function joinPath(path: Uint8Array, name: Uint8Array): Uint8Array {
  return path.length === 0 ? name : concatBytes([path, SEPARATOR, name]);
}

/**
 * Every path of an image, a directory before what it holds, in the order in which directories are stored.
 * @throws EUCLEAN a directory under two names, a name twice in a directory, a name that no file can have
 */
export function* walkImage(reader: ErofsReader, options: WalkOptions = {}): Generator<WalkEntry> {
  const { path = new Uint8Array(0), nid = reader.rootNid } = options.from ?? {};
  const maxDepth = options.maxDepth ?? Number.POSITIVE_INFINITY;
  const seen = new Set<number>();
  const levels: Level[] = [];
  const enter = (inode: Inode, at: Uint8Array): void => {
    if (inode.type !== "dir" || levels.length >= maxDepth) return;
    if (seen.has(inode.nid)) throw damaged(at, `directory of nid ${inode.nid} has two names`);
    seen.add(inode.nid);
    levels.push({ path: at, entries: reader.readdir(inode.nid), names: new Set() });
  };
  const start = reader.inode(nid);
  yield { path, name: path.subarray(path.lastIndexOf(SLASH) + 1), depth: 0, inode: start };
  enter(start, path);
  for (let level = levels.at(-1); level !== undefined; level = levels.at(-1)) {
    const { value: entry, done } = level.entries.next();
    if (done) {
      levels.pop();
      continue;
    }
    if (isDots(entry.name)) continue;
    const at = joinPath(level.path, entry.name);
    checkName(level, entry.name, at);
    const inode = reader.inode(entry.nid);
    yield { path: at, name: entry.name, depth: levels.length, inode };
    enter(inode, at);
  }
}

function checkName(level: Level, name: Uint8Array, at: Uint8Array): void {
  if (name.length === 0 || name.length > 255 || name.includes(SLASH) || name.includes(0)) {
    throw damaged(at, "a name is empty, too long, or holds a slash or NUL");
  }
  const key = keyOfBytes(name);
  if (level.names.has(key)) throw damaged(at, "a name is twice in its directory");
  level.names.add(key);
}

function damaged(path: Uint8Array, found: string): NydusError {
  return new NydusError("EUCLEAN", `Cannot walk image: ${found}`, { path: printablePath(path) });
}

/**
 * A path as text for people: UTF-8 with a leading slash; control characters, backslashes and bytes that are no UTF-8
 * as `\ooo`, so that every path has one form and a terminal is safe.
 */
export function printablePath(path: Uint8Array): string {
  return `/${printableBytes(path)}`;
}

/** Bytes as text, escaped as {@link printablePath} has it. */
export function printableBytes(bytes: Uint8Array): string {
  const text = new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
  if (!/[\p{Cc}\ufffd\\]/u.test(text)) return text;
  return splitUtf8(bytes)
    .map((piece) => (typeof piece === "string" ? piece : `\\${piece.toString(8).padStart(3, "0")}`))
    .join("");
}

/** Whole printable characters as strings, every other byte as a number. */
function splitUtf8(bytes: Uint8Array): (string | number)[] {
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  const pieces: (string | number)[] = [];
  for (let at = 0; at < bytes.length; ) {
    const length = [1, 2, 3, 4].find((count) => at + count <= bytes.length && decodes(decoder, bytes, at, count));
    const piece = length === undefined ? undefined : decoder.decode(bytes.subarray(at, at + length));
    if (piece === undefined || length === undefined || /[\p{Cc}\\]/u.test(piece)) {
      pieces.push(...bytes.subarray(at, at + (length ?? 1)));
      at += length ?? 1;
    } else {
      pieces.push(piece);
      at += length;
    }
  }
  return pieces;
}

function decodes(decoder: TextDecoder, bytes: Uint8Array, at: number, count: number): boolean {
  try {
    decoder.decode(bytes.subarray(at, at + count));
    return true;
  } catch {
    return false;
  }
}

/** A path with symlinks and dots taken out, on the way from the root to its last part. */
class PathResolver {
  readonly #reader: ErofsReader;
  readonly #path: Uint8Array;
  readonly #todo: Uint8Array[];
  #stack: { readonly nid: number; readonly name: Uint8Array }[] = [];
  #links = 0;

  constructor(reader: ErofsReader, path: Uint8Array) {
    this.#reader = reader;
    this.#path = path;
    this.#todo = splitPath(path);
  }

  run(followLast: boolean): { readonly nid: number; readonly path: Uint8Array } {
    for (let part = this.#todo.shift(); part !== undefined; part = this.#todo.shift()) {
      if (isDots(part)) {
        if (part.length === 2) this.#stack.pop();
      } else this.#step(part, followLast || this.#todo.length > 0);
    }
    const path = this.#stack.reduce<Uint8Array>((joined, { name }) => joinPath(joined, name), new Uint8Array(0));
    return { nid: this.#nid, path };
  }

  get #nid(): number {
    return this.#stack.at(-1)?.nid ?? this.#reader.rootNid;
  }

  #step(name: Uint8Array, follow: boolean): void {
    if (this.#reader.inode(this.#nid).type !== "dir") throw this.#missing("a part of its path is no directory");
    const entry = this.#reader.lookup(this.#nid, name);
    if (entry === undefined) throw this.#missing("no such path");
    if (!follow || this.#reader.inode(entry.nid).type !== "symlink") {
      this.#stack.push({ nid: entry.nid, name });
      return;
    }
    if (++this.#links > MAX_LINKS) throw this.#missing("too many symbolic links");
    const target = this.#reader.readlink(entry.nid);
    if (target[0] === SLASH) this.#stack = [];
    this.#todo.unshift(...splitPath(target));
  }

  #missing(found: string): NydusError {
    const path = printablePath(this.#path).replace(/^\/+/, "/");
    return new NydusError("ENOENT", `Cannot find file in image: ${found}`, { path });
  }
}

/**
 * The inode that a path names inside the image; symlinks are followed as chroot(2) would, the last one only with
 * `followLast`.
 * @param path with or without a leading slash
 * @returns its nid, and its path without symlinks or dots
 * @throws ENOENT no such path, a loop of symlinks, or a part that is no directory
 */
export function resolvePath(
  reader: ErofsReader,
  path: Uint8Array,
  options: { readonly followLast: boolean },
): { readonly nid: number; readonly path: Uint8Array } {
  return new PathResolver(reader, path).run(options.followLast);
}

function splitPath(path: Uint8Array): Uint8Array[] {
  const parts: Uint8Array[] = [];
  let start = 0;
  for (let i = 0; i <= path.length; i++) {
    if (i < path.length && path[i] !== SLASH) continue;
    if (i > start) parts.push(path.subarray(start, i));
    start = i + 1;
  }
  return parts;
}
