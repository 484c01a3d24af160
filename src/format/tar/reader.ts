import { NydusError } from "../../base/errors.ts";
import type { NodeType } from "../tree/node.ts";
import { Body } from "./body.ts";
import {
  decodeNumber,
  dialectOf,
  fieldOf,
  isZeroBlock,
  malformedTar,
  TAR_BLOCK,
  UstarHeader,
  untilNul,
  verifyChecksum,
} from "./header.ts";
import { cleanPath, MAX_PATH_BYTES } from "./path.ts";
import {
  decodePax,
  MAX_PAX_BYTES,
  type PaxRecords,
  paxBytes,
  paxNumber,
  paxPath,
  paxTime,
  paxXattrs,
  type Timestamp,
} from "./pax.ts";
import { checkSparseMap, readOldSparse, readPaxSparse } from "./sparse.ts";
import { Window } from "./window.ts";

/** What an entry is: an inode's type, or one more name of an earlier path. */
export type TarEntryType = NodeType | "hardlink";

/** One entry of an archive, its GNU and pax extensions folded in. */
export interface TarEntry {
  /** Raw bytes, cleaned (see `cleanPath`); empty is the root itself. */
  readonly path: Uint8Array;
  readonly type: TarEntryType;
  /** 0 to 0o7777. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Seconds since 1970, may be negative. */
  readonly mtimeSec: number;
  readonly mtimeNsec: number;
  /** Of a file: bytes of its content, holes included; else 0. */
  readonly sizeBytes: number;
  /** Of a hard link: the target's path, cleaned as `path` is. Of a symlink: its raw target. Else empty. */
  readonly linkPath: Uint8Array;
  readonly rdevMajor: number;
  readonly rdevMinor: number;
  /** Full names as Latin-1 keys. */
  readonly xattrs: Map<string, Uint8Array>;
  /** Of the entry's header, bytes from the start of the archive. */
  readonly offset: number;
  /**
   * The file's bytes, to be read once and before the next entry is asked for; what is left unread the reader passes
   * over. Pieces are views of the incoming buffers (and, for holes, of shared zeros): read them, never write or
   * transfer them.
   */
  readonly content: AsyncIterable<Uint8Array>;
}

const TYPES: Readonly<Record<string, TarEntryType>> = {
  "\0": "file",
  "0": "file",
  "1": "hardlink",
  "2": "symlink",
  "3": "char",
  "4": "block",
  "5": "dir",
  "6": "fifo",
  "7": "file", // contiguous
  S: "file", // old GNU sparse
  D: "dir", // GNU incremental dump: the body lists names
};

/** Entries that are labels or parts of other volumes' machinery: passed over. V is GNU's volume label. */
const IGNORED_TYPES = "V";
const MAX_ID = 0xffffffff;

/** What has been gathered for the entry to come. */
interface Extensions {
  readonly global: PaxRecords;
  local: PaxRecords;
  longName: Uint8Array | undefined;
  longLink: Uint8Array | undefined;
  bytes: number;
}

/**
 * The entries of a tar stream: v7, ustar, GNU and pax.
 * Ends at two zero blocks, or where the stream does; what follows the end is read and dropped, so that a digest over
 * the stream can be completed. Leaving the loop early closes the input.
 * @throws EUCLEAN malformed or truncated, at the offset of the header; ENOTSUP an entry type nobody knows
 */
export async function* readTar(input: AsyncIterable<Uint8Array>): AsyncGenerator<TarEntry> {
  const window = new Window(input);
  const extensions: Extensions = {
    global: new Map(),
    local: new Map(),
    longName: undefined,
    longLink: undefined,
    bytes: 0,
  };
  try {
    for (;;) {
      const offset = window.offset;
      const block = window.blockAtHand() ?? (await window.block());
      if (block === undefined || (block[0] === 0 && (await isEnd(block, offset, window)))) break;
      verifyChecksum(block, offset);
      const typeflag = String.fromCharCode(block[UstarHeader.at.typeflag] as number);
      if (await readExtension(typeflag, { block, offset }, window, extensions)) continue;
      const entry = await readEntry({ block, offset, typeflag }, window, extensions);
      if (entry === undefined) continue;
      yield entry.entry;
      if (!entry.body.isFinished) await entry.body.finish();
    }
    refuseDangling(extensions, window);
    await window.drain();
  } finally {
    await window.close();
  }
}

/** Whether a block that begins with NUL ends the archive. A lone zero block counts at the end of the stream only. */
async function isEnd(block: Uint8Array, offset: number, window: Window): Promise<boolean> {
  if (!isZeroBlock(block)) return false;
  const second = await window.block();
  if (second === undefined || isZeroBlock(second)) return true;
  throw malformedTar("one zero block is followed by more", offset);
}

function refuseDangling(extensions: Extensions, window: Window): void {
  if (extensions.bytes > 0) throw malformedTar("it ends after an extended header, before its entry", window.offset);
}

interface HeaderAt {
  readonly block: Uint8Array;
  readonly offset: number;
}

/** Takes in a header that only describes the entry to come. @returns whether it was one */
async function readExtension(typeflag: string, at: HeaderAt, window: Window, into: Extensions): Promise<boolean> {
  if (!"xgXLK".includes(typeflag)) return false;
  const { block, offset } = at;
  const size = decodeNumber(fieldOf(block, "size"), "size", offset);
  into.bytes += TAR_BLOCK + size;
  if (size < 0 || into.bytes > MAX_PAX_BYTES + 4 * TAR_BLOCK) {
    throw malformedTar(`extended headers of one entry have over ${MAX_PAX_BYTES} bytes`, offset);
  }
  const body = await window.take(size, "an extended header");
  if (typeflag === "L") into.longName = untilNul(body).slice();
  else if (typeflag === "K") into.longLink = untilNul(body).slice();
  else decodePax(body, offset, typeflag === "g" ? into.global : into.local);
  await window.skipPadding(size);
  if (typeflag === "g") {
    into.bytes = 0;
    if (paxBytes(into.global) > MAX_PAX_BYTES) {
      throw malformedTar(`global pax headers have over ${MAX_PAX_BYTES} bytes`, offset);
    }
  }
  return true;
}

/** The records of an entry: the global ones, overruled by its own. */
function recordsOf(extensions: Extensions): PaxRecords {
  if (extensions.global.size === 0) return extensions.local;
  return new Map([...extensions.global, ...extensions.local]);
}

interface EntryAt extends HeaderAt {
  readonly typeflag: string;
}

/** Builds the entry of a header; undefined for one that is to be passed over. */
async function readEntry(
  at: EntryAt,
  window: Window,
  extensions: Extensions,
): Promise<{ entry: TarEntry; body: Body } | undefined> {
  const { block, offset, typeflag } = at;
  const records = recordsOf(extensions);
  const { longName, longLink } = extensions;
  extensions.local = new Map();
  extensions.longName = undefined;
  extensions.longLink = undefined;
  extensions.bytes = 0;
  const size = paxNumber(records, "size", offset) ?? decodeNumber(fieldOf(block, "size"), "size", offset);
  if (size < 0) throw malformedTar(`size ${size} is negative`, offset);
  if (IGNORED_TYPES.includes(typeflag)) {
    await window.skip(size, "a volume label");
    await window.skipPadding(size);
    return undefined;
  }
  const rawName =
    paxPath(records, "GNU.sparse.name", offset) ?? longName ?? paxPath(records, "path", offset) ?? headerName(block);
  const type = typeOf(at, rawName, size);
  const hasBody = type === "file" || typeflag === "D";
  const body = await readBodyOf(at, { bodyBytes: hasBody ? size : 0, records, window, isFile: type === "file" });
  const mtime = paxTime(records, offset) ?? headerTime(block, offset);
  const entry: TarEntry = {
    path: cleanPath(rawName, offset),
    type,
    mode: modeOf(block, offset),
    uid: idOf("uid", at, records),
    gid: idOf("gid", at, records),
    mtimeSec: mtime.sec,
    mtimeNsec: mtime.nsec,
    sizeBytes: type === "file" ? body.sizeBytes : 0,
    linkPath: linkPathOf(type, longLink ?? paxPath(records, "linkpath", offset) ?? headerLink(block), offset),
    ...deviceOf(type, block, offset),
    xattrs: paxXattrs(records, offset),
    offset,
    content: type === "file" ? body : NO_CONTENT,
  };
  return { entry, body };
}

function typeOf(at: EntryAt, rawName: Uint8Array, size: number): TarEntryType {
  const type = TYPES[at.typeflag];
  if (type === undefined) {
    const flag = JSON.stringify(at.typeflag);
    throw new NydusError("ENOTSUP", `Cannot read tar: entry type ${flag} is unknown`, { offset: at.offset });
  }
  const isOldDir = rawName.at(-1) === 0x2f && (at.typeflag === "\0" || (at.typeflag === "0" && size === 0));
  return isOldDir ? "dir" : type;
}

function headerName(block: Uint8Array): Uint8Array {
  const name = untilNul(fieldOf(block, "name"));
  if (block[UstarHeader.at.prefix] === 0 || dialectOf(block) !== "ustar") return name;
  // star's variant keeps times in the prefix's tail, and marks itself at byte 508
  const isStar = block[508] === 0x74 && block[509] === 0x61 && block[510] === 0x72 && block[511] === 0;
  const prefix = untilNul(fieldOf(block, "prefix").subarray(0, isStar ? 131 : 155));
  if (prefix.length === 0) return name;
  const joined = new Uint8Array(prefix.length + 1 + name.length);
  joined.set(prefix);
  joined[prefix.length] = 0x2f;
  joined.set(name, prefix.length + 1);
  return joined;
}

function headerLink(block: Uint8Array): Uint8Array {
  return untilNul(fieldOf(block, "linkname"));
}

function headerTime(block: Uint8Array, offset: number): Timestamp {
  return { sec: decodeNumber(fieldOf(block, "mtime"), "mtime", offset), nsec: 0 };
}

function modeOf(block: Uint8Array, offset: number): number {
  const mode = decodeNumber(fieldOf(block, "mode"), "mode", offset);
  if (mode < 0) throw malformedTar(`mode ${mode} is negative`, offset);
  return mode % 0o10000; // old writers put the type's bits above
}

function idOf(name: "uid" | "gid", at: HeaderAt, records: PaxRecords): number {
  const id = paxNumber(records, name, at.offset) ?? decodeNumber(fieldOf(at.block, name), name, at.offset);
  if (id < 0 || id > MAX_ID) throw malformedTar(`${name} ${id} is not one of 32 bits`, at.offset);
  return id;
}

function linkPathOf(type: TarEntryType, raw: Uint8Array, offset: number): Uint8Array {
  if (type === "hardlink") return cleanPath(raw, offset);
  if (type !== "symlink") return NOTHING;
  if (raw.length === 0 || raw.length > MAX_PATH_BYTES) {
    throw malformedTar(`a symlink's target has ${raw.length} bytes, 1 to ${MAX_PATH_BYTES} wanted`, offset);
  }
  return raw.slice();
}

const MAX_MAJOR = 0xfff;
const MAX_MINOR = 0xfffff;

function deviceOf(type: TarEntryType, block: Uint8Array, offset: number): { rdevMajor: number; rdevMinor: number } {
  if (type !== "char" && type !== "block") return { rdevMajor: 0, rdevMinor: 0 };
  const rdevMajor = decodeNumber(fieldOf(block, "devmajor"), "devmajor", offset);
  const rdevMinor = decodeNumber(fieldOf(block, "devminor"), "devminor", offset);
  if (rdevMajor < 0 || rdevMajor > MAX_MAJOR || rdevMinor < 0 || rdevMinor > MAX_MINOR) {
    throw malformedTar(`device ${rdevMajor}:${rdevMinor} is not one of 12 and 20 bits`, offset);
  }
  return { rdevMajor, rdevMinor };
}

const NOTHING = new Uint8Array(0);

const NO_CONTENT: AsyncIterable<Uint8Array> = {
  [Symbol.asyncIterator]: () => ({ next: async () => ({ done: true, value: undefined }) }),
};

interface BodyPlan {
  readonly bodyBytes: number;
  readonly records: PaxRecords;
  readonly window: Window;
  readonly isFile: boolean;
}

async function readBodyOf(at: EntryAt, plan: BodyPlan): Promise<Body> {
  const { bodyBytes, records, window, isFile } = plan;
  if (!isFile) return new Body(window, bodyBytes, undefined);
  if (at.typeflag === "S") {
    const map = await readOldSparse(at.block, at.offset, window);
    checkSparseMap(map, bodyBytes, at.offset);
    return new Body(window, bodyBytes, map);
  }
  const sparse = await readPaxSparse(records, { offset: at.offset, bodyBytes }, window);
  if (sparse === undefined) return new Body(window, bodyBytes, undefined);
  checkSparseMap(sparse.map, bodyBytes - sparse.mapBytes, at.offset);
  return new Body(window, bodyBytes - sparse.mapBytes, sparse.map);
}
