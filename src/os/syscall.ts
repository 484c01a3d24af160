import { constants } from "node:os";
import { asNydusError, type ErrorPlace, NydusError } from "../base/errors.ts";
import { runtime } from "./runtime.ts";

/** The part of libc that Node's API does not reach. Plain calls, no callbacks; a call returns 0 or an errno. */
export interface Libc {
  /** mount(2). Strings must hold no NUL. */
  mount(request: MountRequest): number;
  /** umount2(2) with the flags MNT_FORCE, MNT_DETACH, UMOUNT_NOFOLLOW. */
  umount(target: string, flags: number): number;
  /** ioctl(2) with a pointer to one u32. */
  ioctlU32(fd: number, request: number, value: number): number;
  /** mmap(2) of a whole file, private and copy-on-write: what JavaScript writes by mistake never reaches the file. */
  mapFile(fd: number, lengthBytes: number): { readonly errno: number; readonly mapping?: Mapping };
}

/** Arguments of mount(2). */
export interface MountRequest {
  readonly source: string;
  readonly target: string;
  readonly type: string;
  /** MS_ flags. */
  readonly flags: number;
  /** Options of the file system, comma-separated. */
  readonly data: string;
}

/** Mapped bytes; touching `bytes` after `unmap` kills the process. */
export interface Mapping {
  readonly bytes: Uint8Array;
  unmap(): void;
}

const PROT_READ = 1;
const PROT_WRITE = 2;
const MAP_PRIVATE = 2;
/** Above every address that mmap gives: MAP_FAILED is the highest one. */
const LOWEST_NON_ADDRESS = 2 ** 52;

let loaded: Libc | undefined;

/**
 * libc by Bun's FFI, loaded at the first call.
 * @throws ENOTSUP under another runtime
 */
export function libc(): Libc {
  loaded ??= loadLibc();
  return loaded;
}

/** Whether {@link libc} can be had here. */
export function hasLibc(): boolean {
  return runtime() === "bun" && process.platform === "linux";
}

function loadLibc(): Libc {
  if (!hasLibc())
    throw new NydusError("ENOTSUP", `Cannot call libc: ${runtime()} on ${process.platform} has no way to`);
  // Not an import statement: the bundle for Node must load this module too.
  const ffi = (process.getBuiltinModule as (id: string) => unknown)("bun:ffi") as typeof import("bun:ffi");
  const call = ffi.dlopen("libc.so.6", {
    mount: { args: ["ptr", "ptr", "ptr", "u64", "ptr"], returns: "i32" },
    umount2: { args: ["ptr", "i32"], returns: "i32" },
    ioctl: { args: ["i32", "u64", "ptr"], returns: "i32" },
    mmap: { args: ["ptr", "u64", "i32", "i32", "i32", "i64"], returns: "ptr" },
    munmap: { args: ["ptr", "u64"], returns: "i32" },
    __errno_location: { args: [], returns: "ptr" },
  }).symbols;
  const errno = (): number => ffi.read.i32(call.__errno_location() as never, 0);
  const errnoOf = (result: number): number => (result === 0 ? 0 : errno());
  return {
    mount: ({ source, target, type, flags, data }) =>
      errnoOf(call.mount(cString(source), cString(target), cString(type), flags, cString(data))),
    umount: (target, flags) => errnoOf(call.umount2(cString(target), flags)),
    ioctlU32: (fd, request, value) => errnoOf(call.ioctl(fd, request, new Uint32Array([value]))),
    mapFile: (fd, lengthBytes) => {
      const address = call.mmap(null, lengthBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
      if (address === null || Number(address) > LOWEST_NON_ADDRESS) return { errno: errno() };
      const bytes = new Uint8Array(ffi.toArrayBuffer(address, 0, lengthBytes));
      return { errno: 0, mapping: { bytes, unmap: () => void call.munmap(address, lengthBytes) } };
    },
  };
}

function cString(text: string): Uint8Array {
  return new TextEncoder().encode(`${text}\0`);
}

/** `ENOENT` for 2; `errno 9999` for a number that has no name. */
export function errnoName(errno: number): string {
  const row = Object.entries(constants.errno).find(([, number]) => number === errno);
  return row?.[0] ?? `errno ${errno}`;
}

/** The error of a failed call. @param action what was tried: "Cannot <action>: ENOENT" */
export function systemFailure(errno: number, action: string, place: ErrorPlace = {}): NydusError {
  const code = errnoName(errno);
  return asNydusError(Object.assign(new Error(`Cannot ${action}: ${code}`), { code }), place);
}
