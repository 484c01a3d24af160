import { BLOCK_BYTES } from "../../../base/bytes.ts";
import { asNydusError, NydusError } from "../../../base/errors.ts";
import type { Inode } from "../../../format/erofs/inode.ts";
import { ErofsReader } from "../../../format/erofs/reader.ts";
import { FUSE_ROOT_ID } from "../../../format/fuse/abi.ts";
import { type NativeFuse, type NativeHandlers, type NativeStat, openNativeFuse } from "../../../os/fuse-native.ts";
import { checkMountpoint, findMount } from "../../../os/mount.ts";
import { chunkTableOf } from "../chunk-table.ts";
import {
  MOUNT_DEFAULTS,
  MOUNT_TYPE,
  type MountHost,
  type MountOptions,
  type MountSession,
  type SessionStats,
} from "../engine.ts";
import { DEFAULT_MOUNT_FLAGS } from "../mount-flags.ts";
import { type CounterMemory, Counters, makeCounters, sumCounters } from "../session-counters.ts";
import { DemandReader } from "./demand.ts";
import { FileData } from "./file-data.ts";
import { ImageFs, rdevOf, stModeOf } from "./image-fs.ts";
import { readerErrno } from "./server.ts";

const ENOENT = 2;
const SECTOR_BYTES = 512;
const TWO_32 = 2 ** 32;
/** How often the mount table is looked at: libfuse does not say when someone else unmounts. */
const WATCH_MS = 500;

/** Names in text; a name that is no UTF-8 cannot go through the package's strings and is not shown. */
const strictUtf8 = new TextDecoder("utf-8", { fatal: true });
const encoder = new TextEncoder();

/** Opens the way to mount through fuse-native: its mounts share nothing. */
export function openFuseNativeHost(): MountHost {
  return { isBroken: false, mount: mountFuseNative, [Symbol.asyncDispose]: async () => undefined };
}

/**
 * Mounts an image through the optional package fuse-native (libfuse 2), under Node only. What it cannot carry: names
 * and link targets that are no UTF-8, parts of a time below a millisecond and times before 1970; `suid` and `dev`.
 * @returns when the mount answers
 * @throws as `mountFuse`; ENOTSUP in Bun, or where the package is not installed
 */
async function mountFuseNative(options: MountOptions): Promise<MountSession> {
  const mountpoint = checkMountpoint(options.mountpoint);
  if (findMount(mountpoint)?.type === MOUNT_TYPE) {
    throw new NydusError("EBUSY", "Cannot mount: an image is mounted there already", { path: mountpoint });
  }
  const fs = new ImageFs(new ErofsReader(options.bootstrap.bytes));
  const devices = options.devices.map(({ fd, ready, chunks }) => ({ fd, ready, chunks: chunkTableOf(chunks) }));
  const timeoutMs = options.readTimeoutMs ?? MOUNT_DEFAULTS.readTimeoutMs;
  const demand = new DemandReader(new FileData(fs, devices, options.trace), options.devices, timeoutMs);
  const counters = makeCounters(0);
  const count = new Counters(counters, 0);
  const onError = (error: unknown): void => {
    count.addError(error);
    options.onError?.(asNydusError(error, { path: mountpoint }));
  };
  const { fsname, subtype } = options.flags ?? DEFAULT_MOUNT_FLAGS;
  const native = await openNativeFuse(mountpoint, handlersOf(fs, demand, { onError, count }), {
    source: fsname,
    subtype,
  });
  await native.mount();
  return new NativeSession({ mountpoint, native, demand, counters });
}

/** What a session holds. */
interface NativeParts {
  readonly mountpoint: string;
  readonly native: NativeFuse;
  readonly demand: DemandReader;
  readonly counters: CounterMemory;
}

class NativeSession implements MountSession {
  readonly mountpoint: string;
  readonly done: Promise<void>;
  readonly #parts: NativeParts;
  readonly #watch: ReturnType<typeof setInterval>;
  #settle: (() => void) | undefined;
  #ended: Promise<void> | undefined;

  constructor(parts: NativeParts) {
    this.mountpoint = parts.mountpoint;
    this.#parts = parts;
    this.done = new Promise((resolve) => {
      this.#settle = resolve;
    });
    this.#watch = setInterval(() => {
      if (process.platform !== "linux" || findMount(this.mountpoint)?.type === MOUNT_TYPE) return;
      this.unmount().catch(() => undefined); // it is gone: there is nothing left that could fail
    }, WATCH_MS);
  }

  unmount(): Promise<void> {
    this.#ended ??= this.#end();
    return this.#ended;
  }

  stats(): SessionStats {
    return sumCounters(this.#parts.counters);
  }

  async #end(): Promise<void> {
    clearInterval(this.#watch);
    try {
      await this.#parts.native.unmount();
    } catch (error) {
      // Someone else was faster; else it is a failure.
      if (findMount(this.mountpoint)?.type === MOUNT_TYPE) throw error;
    } finally {
      this.#parts.demand.end();
      this.#settle?.();
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.unmount();
  }
}

/** No inode of that name: the one failure that is an answer. */
class MissingPath extends NydusError {
  constructor(path: string) {
    super("ENOENT", "Cannot find path: no such entry", { path });
  }
}

/** Whom handlers tell what happened. */
interface Watch {
  readonly onError: (error: unknown) => void;
  readonly count: Counters;
}

function handlersOf(fs: ImageFs, demand: DemandReader, { onError, count }: Watch): NativeHandlers {
  const inodeAt = (path: string): Inode => fs.inode(nodeidAt(fs, path));
  return {
    getattr: (path) => statOf(fs, inodeAt(path)),
    readdir: (path) => [...fs.entries(nodeidAt(fs, path), 0)].flatMap(({ name }) => textOf(name) ?? []),
    readlink(path) {
      const target = textOf(fs.readlink(nodeidAt(fs, path)));
      if (target === undefined) throw new NydusError("ENOTSUP", "Cannot show link: its target is no UTF-8", { path });
      return target;
    },
    read: async (path, target, offset) => {
      const counted = count.startWaiting();
      let length = 0;
      try {
        length = await demand.read({ nodeid: nodeidAt(fs, path), offset, sizeBytes: target.length }, target, 0);
      } finally {
        counted(length); // what failed is counted by errnoOf
      }
      return length;
    },
    getxattr: (path, name) => fs.xattr(nodeidAt(fs, path), encoder.encode(name)),
    listxattr: (path) =>
      (textOf(fs.xattrNames(nodeidAt(fs, path))) ?? "").split("\0").filter((name) => name.length > 0),
    statfs: () => ({ ...fs.statfs(), blockBytes: BLOCK_BYTES }),
    errnoOf(error) {
      if (error instanceof MissingPath) return ENOENT;
      onError(error);
      return readerErrno(error);
    },
  };
}

function nodeidAt(fs: ImageFs, path: string): number {
  let nodeid = FUSE_ROOT_ID;
  for (const name of path.split("/")) {
    if (name === "") continue;
    const inode = fs.lookup(nodeid, encoder.encode(name));
    if (inode === undefined) throw new MissingPath(path);
    nodeid = fs.nodeidOf(inode.nid);
  }
  return nodeid;
}

function textOf(bytes: Uint8Array): string | undefined {
  try {
    return strictUtf8.decode(bytes);
  } catch {
    return undefined;
  }
}

function statOf(fs: ImageFs, inode: Inode): NativeStat {
  const timeMs = Math.max(0, inode.mtimeSec * 1000 + Math.floor(inode.mtimeNsec / 1e6));
  return {
    mode: stModeOf(inode),
    uid: inode.uid,
    gid: inode.gid,
    size: inode.sizeBytes,
    nlink: inode.nlink,
    ino: fs.nodeidOf(inode.nid) % TWO_32,
    rdev: rdevOf(inode),
    blksize: BLOCK_BYTES,
    blocks: Math.ceil(inode.sizeBytes / BLOCK_BYTES) * (BLOCK_BYTES / SECTOR_BYTES),
    atime: timeMs,
    mtime: timeMs,
    ctime: timeMs,
  };
}
