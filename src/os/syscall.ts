import { constants } from "node:os";
import { asNydusError, type ErrorPlace, NydusError } from "../base/errors.ts";
import { runtime } from "./runtime.ts";

/** The part of libc that Node's API does not reach. Plain calls, no callbacks; a call returns 0 or an errno. */
export interface Libc {
  /** mount(2). Strings must hold no NUL. */
  mount(request: MountRequest): number;
  /** umount2(2) with the flags MNT_FORCE, MNT_DETACH, UMOUNT_NOFOLLOW. */
  umount(target: string, flags: number): number;
  /**
   * Makes a mount that is in no directory tree (fsopen(2), fsconfig(2), fsmount(2)): it is reached through its
   * descriptor, `/proc/self/fd/N/…`, and gone when that is closed.
   */
  fsMount(type: string): { readonly errno: number; readonly fd?: number };
  /** ioctl(2) with a pointer to one u32. */
  ioctlU32(fd: number, request: number, value: number): number;
  /** flock(2); the lock ends with the last copy of the descriptor, so with the process. */
  flock(fd: number, operation: number): number;
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

/** Numbers of system calls that older C libraries have no functions for; the same on every architecture. */
const SYS = { fsopen: 430, fsconfig: 431, fsmount: 432 } as const;
const FS_CLOEXEC = 1;
const FSCONFIG_CMD_CREATE = 6;

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
    flock: { args: ["i32", "i32"], returns: "i32" },
    syscall: { args: ["i64", "i64", "i64", "i64", "i64", "i64"], returns: "i64" },
    close: { args: ["i32"], returns: "i32" },
    mmap: { args: ["ptr", "u64", "i32", "i32", "i32", "i64"], returns: "ptr" },
    munmap: { args: ["ptr", "u64"], returns: "i32" },
    __errno_location: { args: [], returns: "ptr" },
  }).symbols;
  const errno = (): number => ffi.read.i32(call.__errno_location() as never, 0);
  const system = (number: number, ...args: number[]): number =>
    Number(call.syscall(number, ...([...args, 0, 0, 0, 0, 0].slice(0, 5) as [number, number, number, number, number])));
  const errnoOf = (result: number): number => (result === 0 ? 0 : errno());
  return {
    mount: ({ source, target, type, flags, data }) =>
      errnoOf(call.mount(cString(source), cString(target), cString(type), flags, cString(data))),
    umount: (target, flags) => errnoOf(call.umount2(cString(target), flags)),
    fsMount: (type) => {
      const name = cString(type);
      const context = system(SYS.fsopen, ffi.ptr(name), FS_CLOEXEC);
      if (context < 0) return { errno: errno() };
      const created = system(SYS.fsconfig, context, FSCONFIG_CMD_CREATE);
      const fd = created < 0 ? created : system(SYS.fsmount, context, FS_CLOEXEC);
      const failure = errno();
      call.close(context);
      return fd < 0 ? { errno: failure } : { errno: 0, fd };
    },
    ioctlU32: (fd, request, value) => errnoOf(call.ioctl(fd, request, new Uint32Array([value]))),
    flock: (fd, operation) => errnoOf(call.flock(fd, operation)),
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
