import { bytesOfKey, keyOfBytes } from "../base/bytes.ts";
import { type ErrorPlace, NydusError } from "../base/errors.ts";
import { runtime } from "./runtime.ts";
import { hasLibc, systemFailure } from "./syscall.ts";

/** Extended attributes of a path itself, also a symlink's, by whole names as Latin-1 keys. */
export type ReadXattrs = (path: Uint8Array, place: ErrorPlace) => Map<string, Uint8Array>;

/** Largest list of names, and largest value, that Linux has. @see xattr(7) */
const LIST_BYTES = 64 << 10;
const VALUE_BYTES = 64 << 10;
const ENODATA = 61;
const ENOTSUP = 95;

let loaded: ReadXattrs | undefined;

/**
 * llistxattr(2) and lgetxattr(2), by Bun's FFI.
 * @throws ENOTSUP under another runtime
 */
export function xattrReader(): ReadXattrs {
  loaded ??= loadReader();
  return loaded;
}

function loadReader(): ReadXattrs {
  if (!hasLibc()) {
    const found = `${runtime()} on ${process.platform} cannot read xattrs`;
    throw new NydusError("ENOTSUP", `Cannot read a directory: ${found}; give a tar of it`);
  }
  const ffi = (process.getBuiltinModule as (id: string) => unknown)("bun:ffi") as typeof import("bun:ffi");
  const { symbols } = ffi.dlopen("libc.so.6", {
    llistxattr: { args: ["ptr", "ptr", "u64"], returns: "i64" },
    lgetxattr: { args: ["ptr", "ptr", "ptr", "u64"], returns: "i64" },
    __errno_location: { args: [], returns: "ptr" },
  });
  const errno = (): number => ffi.read.i32(symbols.__errno_location() as never, 0);
  const list = new Uint8Array(LIST_BYTES);
  const value = new Uint8Array(VALUE_BYTES);
  const readValue = (path: Uint8Array, key: string, place: ErrorPlace): Uint8Array | undefined => {
    const got = Number(symbols.lgetxattr(path, cString(bytesOfKey(key)), value, value.length));
    if (got >= 0) return value.slice(0, got);
    if (errno() === ENODATA) return undefined; // it has gone meanwhile
    throw systemFailure(errno(), `read xattr ${JSON.stringify(key)}`, place);
  };
  return (path, place) => {
    const name = cString(path);
    const listed = Number(symbols.llistxattr(name, list, list.length));
    if (listed < 0 && errno() === ENOTSUP) return new Map(); // a file system that has none
    if (listed < 0) throw systemFailure(errno(), "list xattrs", place);
    const keys = keyOfBytes(list.subarray(0, listed)).split("\0");
    const found = keys.filter((key) => key !== "").map((key) => [key, readValue(name, key, place)] as const);
    return new Map(found.filter((pair): pair is [string, Uint8Array] => pair[1] !== undefined));
  };
}

function cString(bytes: Uint8Array): Uint8Array {
  const text = new Uint8Array(bytes.length + 1);
  text.set(bytes);
  return text;
}
