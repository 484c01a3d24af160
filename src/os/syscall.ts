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
  /** The bytes of a mapping that another thread of this process has made, and keeps. */
  viewMapping(address: number, lengthBytes: number): Uint8Array;
  /** posix_fadvise(2) with POSIX_FADV_WILLNEED: begins to read a part of a file into the page cache. */
  adviseWillNeed(fd: number, position: number, sizeBytes: number): void;
  /** eventfd(2), counting from 0, closed on exec, not blocking. */
  eventFd(): FdResult;
  /** read(2). @returns bytes, or a negated errno: for what often finds nothing, where an exception would cost more */
  readInto(fd: number, buffer: Uint8Array): number;
  /** epoll_create1(2), closed on exec. */
  epollCreate(): FdResult;
  /** epoll_ctl(2). @param event a struct epoll_event */
  epollControl(call: { epollFd: number; operation: number; fd: number; event: Uint8Array }): number;
  /**
   * epoll_wait(2).
   * @param timeoutMs -1 for no end
   * @returns how many events were written; 0 when time is up, -1 when a signal came
   */
  epollWait(call: { epollFd: number; events: Uint8Array; maxEvents: number; timeoutMs: number }): number;
  /**
   * socketpair(2) of connected unix sockets; the first is closed on exec. Packets (SOCK_SEQPACKET) come as they were
   * sent.
   */
  socketPair(type?: "stream" | "packets"): { readonly errno: number; readonly fds?: readonly [number, number] };
  /** recvmsg(2) without waiting: bytes, of a packet those that fit, and the descriptor that comes with them. */
  receive(socket: number, buffer: Uint8Array): Received;
  /** sendmsg(2) without waiting, with a descriptor if one is given. */
  send(socket: number, bytes: Uint8Array, fd?: number): number;
  /** Sends one datagram to a unix socket, without waiting. @param address a path, or `@` and an abstract name */
  sendDatagram(address: string, data: Uint8Array): number;
  /** fcntl(2): O_NONBLOCK on. */
  setNonBlocking(fd: number): number;
  /** memfd_create(2): an empty file in memory, closed on exec. */
  memoryFile(name: string): FdResult;
  /** mmap(2) of a whole file, shared: what is written is seen by all who map it. */
  mapShared(fd: number, lengthBytes: number): { readonly errno: number; readonly mapping?: Mapping };
  /** Takes note of children that have ended (waitpid(2) with WNOHANG), for a process whose event loop does not run. */
  reapChildren(): void;
  /** fcntl(2): another number for the same open file, closed on exec. */
  /** @param least the lowest number that it may get; 0 unless given */
  duplicateFd(fd: number, least?: number): FdResult;
  /** fcntl(2) with a struct flock, which it may change. */
  lockControl(fd: number, command: number, lock: Uint8Array): number;
  /** fanotify_init(2). */
  fanotifyInit(flags: number, eventFlags: number): FdResult;
  /** fanotify_mark(2) of an open file. */
  fanotifyMark(mark: { group: number; flags: number; mask: number; fd: number }): number;
  /** fsopen(2), closed on exec. */
  fsOpen(type: string): FdResult;
  /** fsconfig(2): one setting, a flag where it has no value; without a key, the end of settings. */
  fsConfig(context: number, key?: string, value?: string): number;
  /** fsmount(2) with MOUNT_ATTR_ flags, closed on exec. */
  fsMountFd(context: number, attributes: number): FdResult;
  /** move_mount(2) of a mount in no tree to a path. */
  moveMount(mountFd: number, target: string): number;
}

type MountCalls = Pick<
  Libc,
  | "memoryFile"
  | "mapShared"
  | "reapChildren"
  | "duplicateFd"
  | "lockControl"
  | "fanotifyInit"
  | "fanotifyMark"
  | "fsOpen"
  | "fsConfig"
  | "fsMountFd"
  | "moveMount"
>;

/** A new descriptor, or why there is none. */
export type FdResult = { readonly errno: number; readonly fd?: number };

/** What {@link Libc.receive} has got; 0 bytes and no errno when the other end is closed. */
export interface Received extends FdResult {
  readonly length: number;
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
  readonly address: number;
  unmap(): void;
}

/** Numbers of system calls that older C libraries have no functions for; the same on every architecture. */
const SYS = { moveMount: 429, fsopen: 430, fsconfig: 431, fsmount: 432 } as const;
const FS_CLOEXEC = 1;
const FSCONFIG_SET_FLAG = 0;
const FSCONFIG_SET_STRING = 1;
const FSCONFIG_CMD_CREATE = 6;
const MOVE_MOUNT_F_EMPTY_PATH = 4;
const AT_FDCWD = -100;

/** The same on x86-64 and arm64. */
const O_NONBLOCK = 0o4000;
const CLOEXEC = 0o2000000;
const F_SETFL = 4;
const F_GETFL = 3;
const F_SETFD = 2;
const F_DUPFD_CLOEXEC = 1030;
const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOCK_DGRAM = 2;
const SOCK_SEQPACKET = 5;
const WNOHANG = 1;
const MFD_CLOEXEC = 1;
const MSG_NOSIGNAL = 0x4000;
const MSG_DONTWAIT = 0x40;
const MSG_CMSG_CLOEXEC = 0x40000000;
const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;
/** Of a control message with one descriptor, without padding. */
const CMSG_FD_BYTES = 20;

const POSIX_FADV_WILLNEED = 3;
const PROT_READ = 1;
const PROT_WRITE = 2;
const MAP_PRIVATE = 2;
const MAP_SHARED = 1;
/** Above every address that mmap gives: MAP_FAILED is the highest one. */
const LOWEST_NON_ADDRESS = 2 ** 52;

/** The functions of libc that are called, and their types. */
const FUNCTIONS = {
  mount: { args: ["ptr", "ptr", "ptr", "u64", "ptr"], returns: "i32" },
  umount2: { args: ["ptr", "i32"], returns: "i32" },
  ioctl: { args: ["i32", "u64", "ptr"], returns: "i32" },
  flock: { args: ["i32", "i32"], returns: "i32" },
  syscall: { args: ["i64", "i64", "i64", "i64", "i64", "i64"], returns: "i64" },
  close: { args: ["i32"], returns: "i32" },
  mmap: { args: ["ptr", "u64", "i32", "i32", "i32", "i64"], returns: "ptr" },
  munmap: { args: ["ptr", "u64"], returns: "i32" },
  posix_fadvise: { args: ["i32", "i64", "i64", "i32"], returns: "i32" },
  eventfd: { args: ["u32", "i32"], returns: "i32" },
  epoll_create1: { args: ["i32"], returns: "i32" },
  epoll_ctl: { args: ["i32", "i32", "i32", "ptr"], returns: "i32" },
  epoll_wait: { args: ["i32", "ptr", "i32", "i32"], returns: "i32" },
  socketpair: { args: ["i32", "i32", "i32", "ptr"], returns: "i32" },
  socket: { args: ["i32", "i32", "i32"], returns: "i32" },
  memfd_create: { args: ["ptr", "u32"], returns: "i32" },
  waitpid: { args: ["i32", "ptr", "i32"], returns: "i32" },
  sendto: { args: ["i32", "ptr", "u64", "i32", "ptr", "u32"], returns: "i64" },
  recvmsg: { args: ["i32", "ptr", "i32"], returns: "i64" },
  sendmsg: { args: ["i32", "ptr", "i32"], returns: "i64" },
  fcntl: { args: ["i32", "i32", "i64"], returns: "i32" },
  fanotify_init: { args: ["u32", "u32"], returns: "i32" },
  fanotify_mark: { args: ["i32", "u32", "u64", "i32", "ptr"], returns: "i32" },
  read: { args: ["i32", "ptr", "u64"], returns: "i64" },
  __errno_location: { args: [], returns: "ptr" },
} as const;

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

/** What calls are made with. */
function loadTools() {
  if (!hasLibc())
    throw new NydusError("ENOTSUP", `Cannot call libc: ${runtime()} on ${process.platform} has no way to`);
  // Not an import statement: the bundle for Node must load this module too.
  const ffi = (process.getBuiltinModule as (id: string) => unknown)("bun:ffi") as typeof import("bun:ffi");
  const call = ffi.dlopen("libc.so.6", FUNCTIONS).symbols;
  const errno = (): number => ffi.read.i32(call.__errno_location() as never, 0);
  const system = (number: number, ...args: number[]): number =>
    Number(call.syscall(number, ...([...args, 0, 0, 0, 0, 0].slice(0, 5) as [number, number, number, number, number])));
  const errnoOf = (result: number): number => (result === 0 ? 0 : errno());
  const fdOf = (fd: number): FdResult => (fd < 0 ? { errno: errno() } : { errno: 0, fd });
  return { ffi, call, system, errno, errnoOf, fdOf };
}

function loadLibc(): Libc {
  const tools = loadTools();
  const { ffi, call, system, errno, errnoOf, fdOf } = tools;
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
    mapFile: (fd, lengthBytes) => map(tools, { fd, lengthBytes, flags: MAP_PRIVATE }),
    viewMapping: (address, lengthBytes) => new Uint8Array(ffi.toArrayBuffer(address as never, 0, lengthBytes)),
    adviseWillNeed: (fd, position, sizeBytes) => void call.posix_fadvise(fd, position, sizeBytes, POSIX_FADV_WILLNEED),
    eventFd: () => fdOf(call.eventfd(0, O_NONBLOCK | CLOEXEC)),
    readInto: (fd, buffer) => {
      const count = Number(call.read(fd, buffer, buffer.length));
      return count < 0 ? -errno() : count;
    },
    epollCreate: () => fdOf(call.epoll_create1(CLOEXEC)),
    epollControl: ({ epollFd, operation, fd, event }) => errnoOf(call.epoll_ctl(epollFd, operation, fd, event)),
    epollWait: ({ epollFd, events, maxEvents, timeoutMs }) => call.epoll_wait(epollFd, events, maxEvents, timeoutMs),
    socketPair: (type = "stream") => {
      const fds = new Int32Array(2);
      const kind = type === "stream" ? SOCK_STREAM : SOCK_SEQPACKET;
      if (call.socketpair(AF_UNIX, kind, 0, fds) !== 0) return { errno: errno() };
      const [ours, theirs] = fds as unknown as [number, number];
      call.fcntl(ours, F_SETFD, 1);
      return { errno: 0, fds: [ours, theirs] };
    },
    receive: (socket, buffer) => {
      const message = new DescriptorMessage((bytes) => Number(ffi.ptr(bytes)), buffer, "wanted");
      const length = Number(call.recvmsg(socket, message.header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC));
      return length < 0 ? { errno: errno(), length: 0 } : { errno: 0, length, ...message.fd };
    },
    send: (socket, bytes, fd) => {
      const message = new DescriptorMessage((part) => Number(ffi.ptr(part)), bytes, fd ?? "none");
      return Number(call.sendmsg(socket, message.header, MSG_DONTWAIT | MSG_NOSIGNAL)) < 0 ? errno() : 0;
    },
    sendDatagram: (address, data) => {
      const fd = call.socket(AF_UNIX, SOCK_DGRAM | CLOEXEC, 0);
      if (fd < 0) return errno();
      const target = unixAddress(address);
      const sent = Number(call.sendto(fd, data, data.length, MSG_DONTWAIT | MSG_NOSIGNAL, target, target.length));
      const failure = sent < 0 ? errno() : 0;
      call.close(fd);
      return failure;
    },
    setNonBlocking: (fd) => errnoOf(call.fcntl(fd, F_SETFL, call.fcntl(fd, F_GETFL, 0) | O_NONBLOCK)),
    ...mountCalls(tools),
  };
}

function map(
  { ffi, call, errno }: ReturnType<typeof loadTools>,
  { fd, lengthBytes, flags }: { fd: number; lengthBytes: number; flags: number },
): { readonly errno: number; readonly mapping?: Mapping } {
  const address = call.mmap(null, lengthBytes, PROT_READ | PROT_WRITE, flags, fd, 0);
  if (address === null || Number(address) > LOWEST_NON_ADDRESS) return { errno: errno() };
  const bytes = new Uint8Array(ffi.toArrayBuffer(address, 0, lengthBytes));
  const unmap = (): void => void call.munmap(address, lengthBytes);
  return { errno: 0, mapping: { bytes, address: Number(address), unmap } };
}

/** Marks, mounts made of files, and what both hand to other processes. */
function mountCalls(tools: ReturnType<typeof loadTools>): MountCalls {
  const { ffi, call, system, errnoOf, fdOf } = tools;
  return {
    memoryFile: (name) => fdOf(call.memfd_create(cString(name), MFD_CLOEXEC)),
    mapShared: (fd, lengthBytes) => map(tools, { fd, lengthBytes, flags: MAP_SHARED }),
    reapChildren: () => {
      while (call.waitpid(-1, null, WNOHANG) > 0);
    },
    duplicateFd: (fd, least = 0) => fdOf(call.fcntl(fd, F_DUPFD_CLOEXEC, least)),
    lockControl: (fd, command, lock) => errnoOf(call.fcntl(fd, command, Number(ffi.ptr(lock)))),
    fanotifyInit: (flags, eventFlags) => fdOf(call.fanotify_init(flags, eventFlags)),
    fanotifyMark: ({ group, flags, mask, fd }) => errnoOf(call.fanotify_mark(group, flags, mask, fd, null)),
    fsOpen: (type) => {
      const name = cString(type);
      return fdOf(system(SYS.fsopen, ffi.ptr(name), FS_CLOEXEC));
    },
    fsConfig: (context, key, value) => {
      if (key === undefined) return errnoOf(system(SYS.fsconfig, context, FSCONFIG_CMD_CREATE));
      const [name, text] = [cString(key), value === undefined ? undefined : cString(value)];
      const command = text === undefined ? FSCONFIG_SET_FLAG : FSCONFIG_SET_STRING;
      return errnoOf(system(SYS.fsconfig, context, command, ffi.ptr(name), text === undefined ? 0 : ffi.ptr(text)));
    },
    fsMountFd: (context, attributes) => fdOf(system(SYS.fsmount, context, FS_CLOEXEC, attributes)),
    moveMount: (mountFd, target) => {
      const [from, to] = [cString(""), cString(target)];
      return errnoOf(system(SYS.moveMount, mountFd, ffi.ptr(from), AT_FDCWD, ffi.ptr(to), MOVE_MOUNT_F_EMPTY_PATH));
    },
  };
}

/** A struct sockaddr_un without the zeros at its end (unix(7)); `@` stands for the NUL of an abstract name. */
function unixAddress(address: string): Uint8Array {
  const isAbstract = address.startsWith("@");
  const name = new TextEncoder().encode(isAbstract ? `\0${address.slice(1)}` : `${address}\0`);
  return new Uint8Array([AF_UNIX, 0, ...name]);
}

/** A struct msghdr with some bytes and room for one descriptor (cmsg(3), LP64). */
class DescriptorMessage {
  readonly header = new Uint8Array(56);
  readonly #bytes: Uint8Array;
  readonly #vector = new BigUint64Array(2);
  readonly #control = new Uint8Array(24);

  /** @param bytes to be sent, or to be filled @param fd to be sent; "none", or "wanted" with what is received */
  constructor(
    addressOf: (part: Uint8Array | BigUint64Array) => number,
    bytes: Uint8Array,
    fd: number | "none" | "wanted",
  ) {
    // Before addresses are taken: bytes of a small array move when its buffer is first asked for.
    this.#bytes = new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.length);
    if (typeof fd === "number") this.#setFd(fd);
    else void this.#control.buffer;
    this.#vector[0] = BigInt(addressOf(this.#bytes));
    this.#vector[1] = BigInt(bytes.length);
    const view = new DataView(this.header.buffer);
    view.setBigUint64(16, BigInt(addressOf(this.#vector)), true);
    view.setBigUint64(24, 1n, true);
    if (fd === "none") return;
    view.setBigUint64(32, BigInt(addressOf(this.#control)), true);
    view.setBigUint64(40, BigInt(this.#control.length), true);
  }

  #setFd(fd: number): void {
    const control = new DataView(this.#control.buffer);
    control.setBigUint64(0, BigInt(CMSG_FD_BYTES), true);
    control.setInt32(8, SOL_SOCKET, true);
    control.setInt32(12, SCM_RIGHTS, true);
    control.setInt32(16, fd, true);
  }

  /** The descriptor that was received, if one was. */
  get fd(): { readonly fd?: number } {
    const view = new DataView(this.#control.buffer);
    const isRights = view.getInt32(8, true) === SOL_SOCKET && view.getInt32(12, true) === SCM_RIGHTS;
    return isRights && view.getBigUint64(0, true) >= BigInt(CMSG_FD_BYTES) ? { fd: view.getInt32(16, true) } : {};
  }
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
