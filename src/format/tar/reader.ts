import { NydusError } from "../../base/errors.ts";
import type { NodeType } from "../tree/node.ts";
import { Body, type TarContent } from "./body.ts";
import {
  dialectOf,
  fieldOf,
  isZeroBlock,
  malformedTar,
  numberOf,
  TAR_BLOCK,
  UstarHeader,
  untilNul,
  verifyChecksum,
} from "./header.ts";
import { cleanPath, MAX_PATH_BYTES } from "./path.ts";
import { decodePax, MAX_PAX_BYTES, type PaxRecords, paxBytes, paxNumber, paxPath, paxTime, paxXattrs } from "./pax.ts";
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
  readonly content: TarContent;
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
/** Headers that only describe the entry to come. */
const EXTENSION_TYPES = "xgXLK";
const SLASH = 0x2f;
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
      if (EXTENSION_TYPES.includes(typeflag)) {
        await readExtension({ block, offset, typeflag }, window, extensions);
        continue;
      }
      const at = describe({ block, offset, typeflag }, extensions);
      if (IGNORED_TYPES.includes(typeflag)) {
        await passOver(at.size, window);
        continue;
      }
      const name = nameOf(at);
      const reading = bodyOf(at, name, window);
      const body = reading instanceof Body ? reading : await reading;
      yield makeEntry(at, name, body);
      if (!body.finishAtHand()) await body.finish();
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

async function passOver(size: number, window: Window): Promise<void> {
  await window.skip(size, "a volume label");
  await window.skipPadding(size);
}

/** Takes in a header that only describes the entry to come. */
async function readExtension(at: EntryAt, window: Window, into: Extensions): Promise<void> {
  const { block, offset, typeflag } = at;
  const size = numberOf(block, "size", offset);
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
}

/** The records of an entry: the global ones, overruled by its own. */
function recordsOf(extensions: Extensions): PaxRecords {
  if (extensions.global.size === 0) return extensions.local;
  return new Map([...extensions.global, ...extensions.local]);
}

interface EntryAt extends HeaderAt {
  readonly typeflag: string;
}

/** A header with all that was said about its entry before it. */
interface Described extends EntryAt {
  readonly records: PaxRecords;
  readonly longName: Uint8Array | undefined;
  readonly longLink: Uint8Array | undefined;
  /** Bytes of the body in the archive, if there is one. */
  readonly size: number;
}

/** Joins a header and its extensions, which are spent then. */
function describe(at: EntryAt, extensions: Extensions): Described {
  const { block, offset, typeflag } = at;
  const { longName, longLink } = extensions;
  const records = recordsOf(extensions);
  if (extensions.bytes > 0) {
    extensions.local = new Map();
    extensions.longName = undefined;
    extensions.longLink = undefined;
    extensions.bytes = 0;
  }
  const size = paxNumber(records, "size", offset) ?? numberOf(block, "size", offset);
  if (size < 0) throw malformedTar(`size ${size} is negative`, offset);
  return { block, offset, typeflag, records, longName, longLink, size };
}

/** The entry of a header whose body is `body`. */
function makeEntry(at: Described, name: Uint8Array, body: Body): TarEntry {
  const { block, offset, records, longLink } = at;
  const type = typeOf(at, name);
  const time = paxTime(records, offset);
  const { rdevMajor, rdevMinor } = type === "char" || type === "block" ? deviceOf(block, offset) : NO_DEVICE;
  return {
    path: cleanPath(name, offset),
    type,
    mode: modeOf(block, offset),
    uid: idOf("uid", at, records),
    gid: idOf("gid", at, records),
    mtimeSec: time?.sec ?? numberOf(block, "mtime", offset),
    mtimeNsec: time?.nsec ?? 0,
    sizeBytes: type === "file" ? body.sizeBytes : 0,
    linkPath: linkPathOf(type, longLink ?? paxPath(records, "linkpath", offset) ?? headerLink(block), offset),
    rdevMajor,
    rdevMinor,
    xattrs: paxXattrs(records, offset),
    offset,
    content: type === "file" ? body : NO_CONTENT,
  };
}

function nameOf({ block, offset, records, longName }: Described): Uint8Array {
  return (
    paxPath(records, "GNU.sparse.name", offset) ?? longName ?? paxPath(records, "path", offset) ?? headerName(block)
  );
}

function typeOf(at: Described, rawName: Uint8Array): TarEntryType {
  const type = TYPES[at.typeflag];
  if (type === undefined) {
    const flag = JSON.stringify(at.typeflag);
    throw new NydusError("ENOTSUP", `Cannot read tar: entry type ${flag} is unknown`, { offset: at.offset });
  }
  const isOldDir =
    rawName[rawName.length - 1] === SLASH && (at.typeflag === "\0" || (at.typeflag === "0" && at.size === 0));
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

function modeOf(block: Uint8Array, offset: number): number {
  const mode = numberOf(block, "mode", offset);
  if (mode < 0) throw malformedTar(`mode ${mode} is negative`, offset);
  return mode % 0o10000; // old writers put the type's bits above
}

function idOf(name: "uid" | "gid", at: HeaderAt, records: PaxRecords): number {
  const id = paxNumber(records, name, at.offset) ?? numberOf(at.block, name, at.offset);
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

const NO_DEVICE = { rdevMajor: 0, rdevMinor: 0 };

function deviceOf(block: Uint8Array, offset: number): typeof NO_DEVICE {
  const rdevMajor = numberOf(block, "devmajor", offset);
  const rdevMinor = numberOf(block, "devminor", offset);
  if (rdevMajor < 0 || rdevMajor > MAX_MAJOR || rdevMinor < 0 || rdevMinor > MAX_MINOR) {
    throw malformedTar(`device ${rdevMajor}:${rdevMinor} is not one of 12 and 20 bits`, offset);
  }
  return { rdevMajor, rdevMinor };
}

const NOTHING = new Uint8Array(0);

const NO_CONTENT: TarContent = {
  take: () => undefined,
  [Symbol.asyncIterator]: () => ({ next: async () => ({ done: true, value: undefined }) }),
};

/** The body behind a header: read on when the header's map of a sparse file goes on there. */
function bodyOf(at: Described, name: Uint8Array, window: Window): Body | Promise<Body> {
  const isFile = typeOf(at, name) === "file";
  if (isFile && (at.typeflag === "S" || at.records.size > 0)) return sparseBody(at, window);
  return new Body(window, isFile || at.typeflag === "D" ? at.size : 0, undefined);
}

async function sparseBody(at: Described, window: Window): Promise<Body> {
  const { block, offset, records, size } = at;
  if (at.typeflag === "S") {
    const map = await readOldSparse(block, offset, window);
    checkSparseMap(map, size, offset);
    return new Body(window, size, map);
  }
  const sparse = await readPaxSparse(records, { offset, bodyBytes: size }, window);
  if (sparse === undefined) return new Body(window, size, undefined);
  checkSparseMap(sparse.map, size - sparse.mapBytes, offset);
  return new Body(window, size - sparse.mapBytes, sparse.map);
}
