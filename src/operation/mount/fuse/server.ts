import { BLOCK_BYTES, readU64, setSafe64, viewOf } from "../../../base/bytes.ts";
import { NydusError } from "../../../base/errors.ts";
import type { Inode } from "../../../format/erofs/inode.ts";
import {
  Attr,
  AttrOut,
  DIRENT_ALIGN,
  Dirent,
  DirentType,
  EntryOut,
  FUSE_MAJOR,
  FUSE_MINOR,
  FUSE_OLDEST_MINOR,
  GetxattrIn,
  GetxattrOut,
  InHeader,
  InitFlag,
  InitIn,
  InitOut,
  OutHeader,
  ReadIn,
  StatfsOut,
} from "../../../format/fuse/abi.ts";
import { FUSE_OPCODES, type FuseHandler, handlerOf } from "../../../format/fuse/opcode.ts";
import type { ReadRequest } from "./file-data.ts";
import { type ImageFs, rdevOf, stModeOf } from "./image-fs.ts";

/** Longest READ that is negotiated, bytes. */
export const MAX_READ_BYTES = 1 << 20;
/** Bytes that a request buffer needs: no request of a read-only file system is longer than this. */
export const REQUEST_BYTES = 64 * 1024;
/** Bytes that a reply buffer needs. */
export const REPLY_BYTES = OutHeader.sizeBytes + MAX_READ_BYTES;

/** Names and attributes never change while an image is mounted: the kernel may keep them for ever. */
const VALID_SEC = 0x7fff_ffff;
/** Reads that the kernel may have under way by read-ahead, and from how many on it holds back. */
const MAX_BACKGROUND = 64;
const CONGESTION_THRESHOLD = 48;
const MAX_WRITE_BYTES = 4096;
const SECTOR_BYTES = 512;

const WANTED_FLAGS =
  InitFlag.ASYNC_READ |
  InitFlag.EXPORT_SUPPORT |
  InitFlag.DO_READDIRPLUS |
  InitFlag.ASYNC_DIO |
  InitFlag.NO_OPEN_SUPPORT |
  InitFlag.PARALLEL_DIROPS |
  InitFlag.POSIX_ACL |
  InitFlag.MAX_PAGES |
  InitFlag.CACHE_SYMLINKS |
  InitFlag.NO_OPENDIR_SUPPORT;

const Errno = { EIO: 5, ENOSPC: 28, EROFS: 30, ERANGE: 34, ENOSYS: 38, ENODATA: 61, EPROTO: 71 } as const;

/** What a handler gives instead of a length: someone else replies, or nobody. */
const NO_REPLY = Number.MIN_SAFE_INTEGER;

const DIRENT_TYPES = {
  file: DirentType.FILE,
  dir: DirentType.DIR,
  symlink: DirentType.SYMLINK,
  char: DirentType.CHAR,
  block: DirentType.BLOCK,
  fifo: DirentType.FIFO,
  socket: DirentType.SOCKET,
} as const;

/** A READ whose bytes are not all there yet. */
export interface PendingRead extends ReadRequest {
  readonly unique: bigint;
}

/** What a server asks of its surroundings. */
export interface FuseServerOptions {
  readonly fs: ImageFs;
  /**
   * Reads file data that is ready.
   * @returns bytes written to `target` from `at` on, or undefined when some of the data is missing
   */
  readonly readReady: (request: ReadRequest, target: Uint8Array, at: number) => number | undefined;
  /** Takes over a READ whose data is missing; the reply goes another way. */
  readonly onMissing: (request: PendingRead) => void;
  /** A request that failed for a reason worth a line in the log. */
  readonly onError: (error: unknown) => void;
  /** Where replies are written, {@link REPLY_BYTES}: servers of one thread share it. */
  readonly reply: Uint8Array;
}

/** The errno that a reader sees for a failure: what is not for lack of space is an input or output error. */
export function readerErrno(error: unknown): number {
  return error instanceof NydusError && error.code === "ENOSPC" ? Errno.ENOSPC : Errno.EIO;
}

/**
 * Answers FUSE requests over one image, in one thread: bytes in, bytes out.
 * A handler gives the length of the payload that it wrote behind the header, a negated errno, or NO_REPLY.
 */
export class FuseServer {
  /** Directory entries that were answered since who counts set it to 0: each leaves garbage as a request does. */
  entries = 0;
  /** The reply of the last {@link handle}. */
  readonly reply: Uint8Array;
  readonly #out: DataView;
  readonly #fs: ImageFs;
  readonly #options: FuseServerOptions;
  #request: Uint8Array = new Uint8Array(0);
  #requestEnd = 0;
  #in: DataView = viewOf(this.#request);
  #nodeid = 0;

  readonly #answers: Readonly<Record<FuseHandler, () => number>> = {
    init: () => this.#init(),
    lookup: () => this.#lookup(),
    getattr: () => this.#getattr(),
    readlink: () => this.#append(this.#fs.readlink(this.#nodeid)),
    read: () => this.#read(),
    statfs: () => this.#statfs(),
    getxattr: () => this.#getxattr(),
    listxattr: () => this.#sized(this.#fs.xattrNames(this.#nodeid)),
    readdir: () => this.#readdir(false),
    readdirplus: () => this.#readdir(true),
    done: () => 0,
    silent: () => NO_REPLY,
    readonly: () => -Errno.EROFS,
    unsupported: () => -Errno.ENOSYS,
  };
  /** By opcode. */
  readonly #handlers: readonly (() => number)[] = HANDLERS.map((handler) => this.#answers[handler]);

  constructor(options: FuseServerOptions) {
    this.#options = options;
    this.#fs = options.fs;
    this.reply = options.reply;
    this.#out = viewOf(options.reply);
  }

  /**
   * Handles one request.
   * @param request begins with the bytes that were read; best the same array for every request
   * @returns bytes of {@link reply} to send; 0 when there is nothing to send
   */
  handle(request: Uint8Array, sizeBytes = request.length): number {
    if (sizeBytes < InHeader.sizeBytes) return 0;
    if (this.#request !== request) this.#in = viewOf(request);
    this.#request = request;
    this.#requestEnd = sizeBytes;
    this.#nodeid = this.#u64(InHeader.at.nodeid);
    const result = this.#run(this.#in.getUint32(InHeader.at.opcode, true));
    if (result === NO_REPLY) return 0;
    const length = OutHeader.sizeBytes + Math.max(0, result);
    const out = this.#out;
    out.setUint32(OutHeader.at.len, length, true);
    out.setInt32(OutHeader.at.error, Math.min(0, result), true);
    // by halves: a bigint would be made for each request
    out.setUint32(OutHeader.at.unique, this.#in.getUint32(InHeader.at.unique, true), true);
    out.setUint32(OutHeader.at.unique + 4, this.#in.getUint32(InHeader.at.unique + 4, true), true);
    return length;
  }

  #run(opcode: number): number {
    try {
      return (this.#handlers[opcode] ?? this.#answers.unsupported)();
    } catch (error) {
      this.#options.onError(error);
      return handlerOf(opcode) === "silent" ? NO_REPLY : -readerErrno(error);
    }
  }

  #init(): number {
    const kernel = InitIn.read(this.#request, InHeader.sizeBytes);
    if (kernel.major !== FUSE_MAJOR || kernel.minor < FUSE_OLDEST_MINOR) {
      const found = `the kernel speaks ${kernel.major}.${kernel.minor}`;
      throw new NydusError(
        "ENOTSUP",
        `Cannot serve FUSE: ${found}, at least ${FUSE_MAJOR}.${FUSE_OLDEST_MINOR} wanted`,
      );
    }
    InitOut.write(this.reply, OutHeader.sizeBytes, {
      major: FUSE_MAJOR,
      minor: FUSE_MINOR,
      maxReadahead: kernel.maxReadahead,
      flags: (kernel.flags & WANTED_FLAGS) >>> 0,
      maxBackground: MAX_BACKGROUND,
      congestionThreshold: CONGESTION_THRESHOLD,
      maxWrite: MAX_WRITE_BYTES,
      timeGran: 1,
      maxPages: MAX_READ_BYTES / BLOCK_BYTES,
    });
    return InitOut.sizeBytes;
  }

  #lookup(): number {
    const name = this.#name(InHeader.sizeBytes);
    const inode = this.#fs.lookup(this.#nodeid, name);
    this.#encodeEntry(OutHeader.sizeBytes, inode);
    return EntryOut.sizeBytes;
  }

  #getattr(): number {
    const at = OutHeader.sizeBytes;
    this.reply.fill(0, at, at + AttrOut.sizeBytes);
    this.#out.setUint32(at + AttrOut.at.attrValid, VALID_SEC, true);
    this.#encodeAttr(at + AttrOut.at.attr, this.#fs.inode(this.#nodeid));
    return AttrOut.sizeBytes;
  }

  #read(): number {
    const request: ReadRequest = {
      nodeid: this.#nodeid,
      offset: this.#u64(InHeader.sizeBytes + ReadIn.at.offset),
      sizeBytes: Math.min(MAX_READ_BYTES, this.#in.getUint32(InHeader.sizeBytes + ReadIn.at.size, true)),
    };
    const length = this.#options.readReady(request, this.reply, OutHeader.sizeBytes);
    if (length !== undefined) return length;
    this.#options.onMissing({ ...request, unique: this.#in.getBigUint64(InHeader.at.unique, true) });
    return NO_REPLY;
  }

  #statfs(): number {
    const { blocks, files } = this.#fs.statfs();
    StatfsOut.write(this.reply, OutHeader.sizeBytes, {
      blocks,
      files,
      bsize: BLOCK_BYTES,
      namelen: 255,
      frsize: BLOCK_BYTES,
    });
    return StatfsOut.sizeBytes;
  }

  #getxattr(): number {
    const name = this.#name(InHeader.sizeBytes + GetxattrIn.sizeBytes);
    const value = this.#fs.xattr(this.#nodeid, name);
    return value === undefined ? -Errno.ENODATA : this.#sized(value);
  }

  /** The answer of GETXATTR and LISTXATTR: the length to who asks with size 0, else the bytes if they fit. */
  #sized(value: Uint8Array): number {
    const size = this.#in.getUint32(InHeader.sizeBytes + GetxattrIn.at.size, true);
    if (size === 0) {
      GetxattrOut.write(this.reply, OutHeader.sizeBytes, { size: value.length });
      return GetxattrOut.sizeBytes;
    }
    return value.length > size ? -Errno.ERANGE : this.#append(value);
  }

  #readdir(plus: boolean): number {
    const offset = this.#u64(InHeader.sizeBytes + ReadIn.at.offset);
    const size = Math.min(MAX_READ_BYTES, this.#in.getUint32(InHeader.sizeBytes + ReadIn.at.size, true));
    const start = OutHeader.sizeBytes;
    const head = (plus ? EntryOut.sizeBytes : 0) + Dirent.sizeBytes;
    let at = start;
    for (const entry of this.#fs.entries(this.#nodeid, offset)) {
      const length = Math.ceil((head + entry.name.length) / DIRENT_ALIGN) * DIRENT_ALIGN;
      if (at + length > start + size) break;
      this.reply.fill(0, at, at + length);
      if (plus) this.#encodeEntryPlus(at, entry.nid, entry.name);
      const dirent = at + head - Dirent.sizeBytes;
      this.#setU64(dirent + Dirent.at.ino, this.#fs.nodeidOf(entry.nid));
      this.#setU64(dirent + Dirent.at.off, entry.next);
      this.#out.setUint32(dirent + Dirent.at.namelen, entry.name.length, true);
      this.#out.setUint32(dirent + Dirent.at.type, entry.type === undefined ? 0 : DIRENT_TYPES[entry.type], true);
      this.reply.set(entry.name, dirent + Dirent.sizeBytes);
      at += length;
      this.entries++;
    }
    return at - start;
  }

  /** Attributes with a name, but not for the two dots, and not for a damaged inode: that one fails when it is used. */
  #encodeEntryPlus(at: number, nid: number, name: Uint8Array): void {
    if (isDots(name)) return;
    try {
      this.#encodeEntry(at, this.#fs.inode(this.#fs.nodeidOf(nid)));
    } catch (error) {
      this.#options.onError(error);
      this.reply.fill(0, at, at + EntryOut.sizeBytes);
    }
  }

  /** @param inode undefined: there is no such name, which the kernel may remember */
  #encodeEntry(at: number, inode: Inode | undefined): void {
    this.reply.fill(0, at, at + EntryOut.sizeBytes);
    this.#out.setUint32(at + EntryOut.at.entryValid, VALID_SEC, true);
    this.#out.setUint32(at + EntryOut.at.attrValid, VALID_SEC, true);
    if (inode === undefined) return;
    this.#setU64(at + EntryOut.at.nodeid, this.#fs.nodeidOf(inode.nid));
    this.#encodeAttr(at + EntryOut.at.attr, inode);
  }

  #encodeAttr(at: number, inode: Inode): void {
    const out = this.#out;
    this.#setU64(at + Attr.at.ino, this.#fs.nodeidOf(inode.nid));
    this.#setU64(at + Attr.at.size, inode.sizeBytes);
    this.#setU64(at + Attr.at.blocks, Math.ceil(inode.sizeBytes / BLOCK_BYTES) * (BLOCK_BYTES / SECTOR_BYTES));
    // EROFS keeps one time; its driver shows that one three times.
    this.#setU64(at + Attr.at.atime, inode.mtimeSec);
    this.#setU64(at + Attr.at.mtime, inode.mtimeSec);
    this.#setU64(at + Attr.at.ctime, inode.mtimeSec);
    out.setUint32(at + Attr.at.atimensec, inode.mtimeNsec, true);
    out.setUint32(at + Attr.at.mtimensec, inode.mtimeNsec, true);
    out.setUint32(at + Attr.at.ctimensec, inode.mtimeNsec, true);
    out.setUint32(at + Attr.at.mode, stModeOf(inode), true);
    out.setUint32(at + Attr.at.nlink, inode.nlink, true);
    out.setUint32(at + Attr.at.uid, inode.uid, true);
    out.setUint32(at + Attr.at.gid, inode.gid, true);
    out.setUint32(at + Attr.at.rdev, rdevOf(inode), true);
    out.setUint32(at + Attr.at.blksize, BLOCK_BYTES, true);
  }

  #append(payload: Uint8Array): number {
    this.reply.set(payload, OutHeader.sizeBytes);
    return payload.length;
  }

  /** The NUL-terminated name at `at` of the request. */
  #name(at: number): Uint8Array {
    const nul = this.#request.indexOf(0, at);
    return this.#request.subarray(at, nul < 0 || nul > this.#requestEnd ? this.#requestEnd : nul);
  }

  #u64(at: number): number {
    return readU64(this.#in, at);
  }

  #setU64(at: number, value: number): void {
    setSafe64(this.#out, at, value);
  }
}

/**
 * Writes the header of a reply.
 * @param result length of the payload, or a negated errno
 * @returns bytes of the whole reply
 */
export function encodeReplyHeader(reply: DataView, unique: bigint, result: number): number {
  const length = OutHeader.sizeBytes + Math.max(0, result);
  reply.setUint32(OutHeader.at.len, length, true);
  reply.setInt32(OutHeader.at.error, Math.min(0, result), true);
  reply.setBigUint64(OutHeader.at.unique, unique, true);
  return length;
}

/** Handlers by opcode. */
const HANDLERS: readonly FuseHandler[] = Array.from(
  { length: Math.max(...Object.values(FUSE_OPCODES).map(({ code }) => code)) + 1 },
  (_, opcode) => handlerOf(opcode),
);

function isDots(name: Uint8Array): boolean {
  return name[0] === 0x2e && (name.length === 1 || (name.length === 2 && name[1] === 0x2e));
}
