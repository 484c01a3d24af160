import type { ErrorPlace } from "../base/errors.ts";
import { NydusError } from "../base/errors.ts";
import { runtime } from "./runtime.ts";
import { hasLibc, systemFailure } from "./syscall.ts";

/** Owner, permissions and time of a file. */
export interface FileStat {
  /** 0 to 0o7777. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtimeSec: number;
  readonly mtimeNsec: number;
}

/**
 * What writing a tree of files takes and node:fs does not have. A file is a name in an open directory, so that no path
 * is ever too long and no symlink is ever followed. Every call throws a NydusError with `place`.
 */
export interface ExtractSyscalls {
  /** Opens a directory in another one (or by a path, with {@link AT_FDCWD}); no symlink. @returns descriptor */
  openDirectory(dirfd: number, name: Uint8Array, place: ErrorPlace): number;
  /** Makes a file that must not exist, for writing. @returns descriptor */
  createFile(dirfd: number, name: Uint8Array, place: ErrorPlace): number;
  makeDirectory(dirfd: number, name: Uint8Array, place: ErrorPlace): void;
  makeSymlink(at: { readonly dirfd: number; readonly name: Uint8Array }, target: Uint8Array, place: ErrorPlace): void;
  /** Makes a device, fifo or socket. @param mode with the bits of its type */
  makeNode(
    at: NodePlace,
    node: { readonly mode: number; readonly major: number; readonly minor: number },
    place: ErrorPlace,
  ): void;
  link(from: NodePlace, to: NodePlace, place: ErrorPlace): void;
  /** Of the name itself, also a symlink's. */
  setOwner(at: NodePlace, stat: FileStat, place: ErrorPlace): void;
  /** Not of a symlink. */
  setMode(at: NodePlace, stat: FileStat, place: ErrorPlace): void;
  /** Of the name itself; access time becomes modification time. */
  setTime(at: NodePlace, stat: FileStat, place: ErrorPlace): void;
  /** Of the name itself. @param name whole: `user.alpha` */
  setXattr(at: NodePlace, xattr: { readonly name: Uint8Array; readonly value: Uint8Array }, place: ErrorPlace): void;
}

/** A name in an open directory. */
export interface NodePlace {
  readonly dirfd: number;
  readonly name: Uint8Array;
}

/** Stands for the current directory, or for "the path is absolute". @see openat(2) */
export const AT_FDCWD = -100;

const AT_SYMLINK_NOFOLLOW = 0x100;
const O_WRONLY = 0o1;
const O_CREAT = 0o100;
const O_EXCL = 0o200;
const O_CLOEXEC = 0o2000000;
/** These two differ between architectures. */
const O_DIRECTORY = process.arch === "arm64" ? 0o40000 : 0o200000;
const O_NOFOLLOW = process.arch === "arm64" ? 0o100000 : 0o400000;

let loaded: ExtractSyscalls | undefined;

/**
 * The calls, by Bun's FFI.
 * @throws ENOTSUP under another runtime
 */
export function extractSyscalls(): ExtractSyscalls {
  loaded ??= loadSyscalls();
  return loaded;
}

function cString(bytes: Uint8Array): Uint8Array {
  const text = new Uint8Array(bytes.length + 1);
  text.set(bytes);
  return text;
}

/** `dev_t` as glibc has it. @see gnu_dev_makedev(3) */
function makeDev(major: number, minor: number): bigint {
  const [high, low] = [BigInt(major), BigInt(minor)];
  return ((high & 0xfffff000n) << 32n) | ((high & 0xfffn) << 8n) | ((low & 0xffffff00n) << 12n) | (low & 0xffn);
}

function timespecs(sec: number, nsec: number): BigInt64Array {
  return BigInt64Array.of(BigInt(sec), BigInt(nsec), BigInt(sec), BigInt(nsec));
}

/** A path that names the file itself for calls that know no directory descriptor. */
function procPath({ dirfd, name }: NodePlace): Uint8Array {
  const directory = new TextEncoder().encode(`/proc/self/fd/${dirfd}/`);
  const path = new Uint8Array(directory.length + name.length + 1);
  path.set(directory);
  path.set(name, directory.length);
  return path;
}

function openLibc() {
  const ffi = (process.getBuiltinModule as (id: string) => unknown)("bun:ffi") as typeof import("bun:ffi");
  const { symbols } = ffi.dlopen("libc.so.6", {
    openat: { args: ["i32", "ptr", "i32", "u32"], returns: "i32" },
    mkdirat: { args: ["i32", "ptr", "u32"], returns: "i32" },
    symlinkat: { args: ["ptr", "i32", "ptr"], returns: "i32" },
    mknodat: { args: ["i32", "ptr", "u32", "u64"], returns: "i32" },
    linkat: { args: ["i32", "ptr", "i32", "ptr", "i32"], returns: "i32" },
    fchownat: { args: ["i32", "ptr", "u32", "u32", "i32"], returns: "i32" },
    fchmodat: { args: ["i32", "ptr", "u32", "i32"], returns: "i32" },
    utimensat: { args: ["i32", "ptr", "ptr", "i32"], returns: "i32" },
    lsetxattr: { args: ["ptr", "ptr", "ptr", "u64", "i32"], returns: "i32" },
    __errno_location: { args: [], returns: "ptr" },
  });
  return { call: symbols, errno: (): number => ffi.read.i32(symbols.__errno_location() as never, 0) };
}

function loadSyscalls(): ExtractSyscalls {
  if (!hasLibc()) {
    const found = `${runtime()} on ${process.platform} cannot set owners, xattrs and devices; use '-' for a tar`;
    throw new NydusError("ENOTSUP", `Cannot unpack to a directory: ${found}`);
  }
  const { call, errno } = openLibc();
  const done = (result: number, action: string, place: ErrorPlace): number => {
    if (result < 0) throw systemFailure(errno(), action, place);
    return result;
  };
  const directoryFlags = O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
  const fileFlags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
  return {
    openDirectory: (dirfd, name, place) =>
      done(call.openat(dirfd, cString(name), directoryFlags, 0), "open directory", place),
    createFile: (dirfd, name, place) => done(call.openat(dirfd, cString(name), fileFlags, 0o600), "create file", place),
    makeDirectory: (dirfd, name, place) =>
      void done(call.mkdirat(dirfd, cString(name), 0o700), "make directory", place),
    makeSymlink: ({ dirfd, name }, target, place) =>
      void done(call.symlinkat(cString(target), dirfd, cString(name)), "make symlink", place),
    makeNode: ({ dirfd, name }, { mode, major, minor }, place) =>
      void done(call.mknodat(dirfd, cString(name), mode, makeDev(major, minor)), "make device, fifo or socket", place),
    link: (from, to, place) =>
      void done(call.linkat(from.dirfd, cString(from.name), to.dirfd, cString(to.name), 0), "make hard link", place),
    setOwner: ({ dirfd, name }, { uid, gid }, place) =>
      void done(
        call.fchownat(dirfd, cString(name), uid, gid, AT_SYMLINK_NOFOLLOW),
        `set owner ${uid}:${gid} (another owner needs root)`,
        place,
      ),
    setMode: ({ dirfd, name }, { mode }, place) =>
      void done(call.fchmodat(dirfd, cString(name), mode, 0), `set mode ${mode.toString(8)}`, place),
    setTime: ({ dirfd, name }, { mtimeSec, mtimeNsec }, place) =>
      void done(
        call.utimensat(dirfd, cString(name), timespecs(mtimeSec, mtimeNsec), AT_SYMLINK_NOFOLLOW),
        "set modification time",
        place,
      ),
    setXattr: (at, xattr, place) => {
      const value = xattr.value.length === 0 ? new Uint8Array(1) : xattr.value.slice();
      const result = call.lsetxattr(procPath(at), cString(xattr.name), value, xattr.value.length, 0);
      done(result, `set xattr ${JSON.stringify(new TextDecoder().decode(xattr.name))}`, place);
    },
  };
}
