import { NydusError } from "../base/errors.ts";
import { findMount } from "./mount.ts";
import { runtime } from "./runtime.ts";

/** `stat` as fuse-native takes it: whole milliseconds, and `ino` below 2^32. */
export interface NativeStat {
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly size: number;
  readonly nlink: number;
  readonly ino: number;
  readonly rdev: number;
  readonly blksize: number;
  readonly blocks: number;
  readonly atime: number;
  readonly mtime: number;
  readonly ctime: number;
}

/** What a file system answers through libfuse: paths are UTF-8. What a handler throws is turned into an errno. */
export interface NativeHandlers {
  getattr(path: string): NativeStat;
  readdir(path: string): string[];
  readlink(path: string): string;
  /** @returns bytes written to `target`, from its start */
  read(path: string, target: Uint8Array, offset: number): Promise<number>;
  /** @returns undefined when there is no such attribute */
  getxattr(path: string, name: string): Uint8Array | undefined;
  listxattr(path: string): string[];
  statfs(): { readonly blocks: number; readonly files: number; readonly blockBytes: number };
  /** The positive errno of what a handler threw. */
  errnoOf(error: unknown): number;
}

/** A file system on its way through libfuse. */
export interface NativeFuse {
  mount(): Promise<void>;
  /** Takes it out of the tree; ends the native side. */
  unmount(): Promise<void>;
}

const ENODATA = 61;
const ERANGE = 34;
const NAME_BYTES = 255;
/** Nothing of an image ever changes: the kernel may keep it. */
const KEEP_SEC = 86_400;

/**
 * Prepares a read-only file system through the optional package fuse-native (libfuse 2).
 * @param names what mount(8) shows as source and subtype
 * @throws ENOTSUP inside Bun, whose runtime the package aborts, and where the package or libfuse is not installed
 */
export async function openNativeFuse(
  mountpoint: string,
  handlers: NativeHandlers,
  names: { readonly source: string; readonly subtype: string },
): Promise<NativeFuse> {
  const Fuse = await loadPackage();
  forgiveUnmounted(Fuse);
  const fuse = new Fuse(mountpoint, operationsOf(handlers), {
    allowOther: true,
    defaultPermissions: true,
    kernelCache: true,
    entryTimeout: KEEP_SEC,
    attrTimeout: KEEP_SEC,
    fsname: names.source,
    // The package passes no other options on, but what it passes may hold a comma.
    subtype: `${names.subtype},ro,nosuid,nodev,use_ino`,
    timeout: false, // reads have their own deadline
  });
  // Of these two the package's own forms overrun a buffer that is too short.
  fuse._op_getxattr = (signal, path, name, target) =>
    answerSized(signal, target, handlers, () => handlers.getxattr(path, name));
  fuse._op_listxattr = (signal, path, target) =>
    answerSized(signal, target, handlers, () =>
      Buffer.from(
        handlers
          .listxattr(path)
          .map((name) => `${name}\0`)
          .join(""),
      ),
    );
  return {
    mount: () => promised((done) => fuse.mount(done), "mount"),
    unmount: () => promised((done) => fuse.unmount(done), "unmount"),
  };
}

const forgiving = new WeakSet<object>();

/** The package ends its native side only after an unmount that succeeds: someone else's must count as one. */
function forgiveUnmounted(Fuse: typeof import("fuse-native")): void {
  if (forgiving.has(Fuse)) return;
  forgiving.add(Fuse);
  const unmount = Fuse.unmount;
  Fuse.unmount = (mountpoint, done) => {
    const isGone = process.platform === "linux" && findMount(mountpoint) === undefined;
    if (isGone) done(null);
    else unmount(mountpoint, done);
  };
}

async function loadPackage(): Promise<typeof import("fuse-native")> {
  if (runtime() !== "node") {
    const message = `Cannot mount with fuse-native: it runs under Node only, this is ${runtime()}`;
    throw new NydusError("ENOTSUP", message);
  }
  try {
    return (await import("fuse-native")).default;
  } catch (cause) {
    const message = "Cannot load fuse-native: the optional package or libfuse 2 is not installed";
    throw new NydusError("ENOTSUP", message, {}, { cause });
  }
}

type Done = (status: number, ...results: unknown[]) => void;

type ReadArguments = [
  path: string,
  fd: number,
  target: Buffer,
  length: number,
  offset: number,
  done: (countOrErrno: number) => void,
];

function operationsOf(handlers: NativeHandlers): Readonly<Record<string, unknown>> {
  const failed = (error: unknown): number => -handlers.errnoOf(error);
  const answer = (done: Done, work: () => unknown): void => {
    let result: unknown;
    try {
      result = work();
    } catch (error) {
      done(failed(error));
      return;
    }
    done(0, result);
  };
  return {
    getattr: (path: string, done: Done) => answer(done, () => handlers.getattr(path)),
    readdir: (path: string, done: Done) => answer(done, () => handlers.readdir(path)),
    readlink: (path: string, done: Done) => answer(done, () => handlers.readlink(path)),
    statfs: (_: string, done: Done) => answer(done, () => statvfsOf(handlers.statfs())),
    open: (_path: string, _flags: number, done: Done) => done(0, 0),
    // The package has no other word for "an xattr handler is there"; the inner forms answer.
    getxattr: () => undefined,
    listxattr: () => undefined,
    read: (...[path, , target, length, offset, done]: ReadArguments) => {
      handlers.read(path, target.subarray(0, length), offset).then(done, (error) => done(failed(error)));
    },
  };
}

function statvfsOf(size: ReturnType<NativeHandlers["statfs"]>): Readonly<Record<string, number>> {
  const { blocks, files, blockBytes } = size;
  return { bsize: blockBytes, frsize: blockBytes, blocks, files, namemax: NAME_BYTES };
}

/** The length when asked with an empty buffer, else the bytes if they fit. */
function answerSized(signal: Done, target: Buffer, handlers: NativeHandlers, work: () => Uint8Array | undefined): void {
  let status: number;
  try {
    const value = work();
    if (value === undefined) status = -ENODATA;
    else if (target.length > 0 && value.length > target.length) status = -ERANGE;
    else {
      if (target.length > 0) target.set(value);
      status = value.length;
    }
  } catch (error) {
    status = -handlers.errnoOf(error);
  }
  signal(status, target.buffer);
}

function promised(call: (done: (error: Error | null) => void) => void, action: string): Promise<void> {
  return new Promise((resolve, reject) => {
    call((cause) => {
      if (cause === null || cause === undefined) resolve();
      else reject(new NydusError("EIO", `Cannot ${action} with fuse-native: ${cause.message}`, {}, { cause }));
    });
  });
}
