import type { ByteRange } from "../../base/bytes.ts";
import type { NydusError } from "../../base/errors.ts";
import type { ReadOptions } from "../../content/store/source.ts";
import type { ChunkMap } from "../../format/rafs/chunk-map.ts";
import type { MappedFile } from "../../os/mmap.ts";
import type { HandedEntry, HolderClient } from "./holder/client.ts";
import { MOUNT_SOURCE, type MountFlags } from "./mount-flags.ts";
import type { TraceMemory } from "./trace/memory.ts";

/** One device of a mounted image: its bytes so far, and the way to more. The caller opens and closes it. */
export interface MountDevice {
  readonly chunks: ChunkMap;
  /** Descriptor of the sparse data file: byte `i` is device byte `i`, and true where its chunk is ready. */
  readonly fd: number;
  /** Bit `i` (of byte `i >> 3`, from the lowest) is set once chunk `i` is verified and in the file; shared memory. */
  readonly ready: Uint8Array;
  /**
   * Resolves when every chunk of the range is ready.
   * @throws NydusError when one of them cannot be had or verified
   */
  ensure(range: ByteRange, options: ReadOptions): Promise<void>;
  /** Makes durable what is ready; what cannot be is not ready any more. Without it everything ready counts as durable. */
  flush?(): Promise<void>;
}

/** What every engine is started with. */
export interface MountOptions {
  /** An existing directory. */
  readonly mountpoint: string;
  /** The EROFS metadata of the image; the caller closes it after the session's end. */
  readonly bootstrap: MappedFile;
  /** `devices[slot - 1]`, as the bootstrap's device table has them. */
  readonly devices: readonly MountDevice[];
  /** After this long a read that waits for data fails with EIO; 30 s unless given. */
  readonly readTimeoutMs?: number | undefined;
  /** {@link DEFAULT_MOUNT_FLAGS} unless given. */
  readonly flags?: MountFlags | undefined;
  /** Directory of all state: what was found out about a bootstrap is kept there. */
  readonly root?: string | undefined;
  /** Notes first accesses; of the same devices. */
  readonly trace?: TraceMemory | undefined;
  /** What a successor is to know of the mount, should this process die. */
  readonly handing?: MountHanding | undefined;
  /** Hears of every failed read and of what else goes wrong while the mount lives. */
  readonly onError?: ((error: NydusError) => void) | undefined;
}

/** What an engine adds to a mount's entry in the holder (holder/protocol.ts). */
export interface MountHanding {
  /** Names the mount among all of its process. */
  readonly id: string;
  /** The file that says who serves it. */
  readonly recordPath: string;
  /** What the caller needs to open the image again; JSON. */
  readonly call: unknown;
}

/** {@link HeldEntry.data} of a mount, as version {@link MOUNT_ENTRY_VERSION} has it; an engine adds fields of its own. */
export interface MountEntryData {
  readonly engine: "fuse" | "erofs";
  readonly mountpoint: string;
  readonly minor: number;
  /** Key of the entry that has the mapped bootstrap's descriptor. */
  readonly bootstrap: string;
  readonly call: unknown;
}

/** A mount that a process which has died has left, or that one which gives way hands over. */
export interface HandedMount {
  /** Key of its entry. */
  readonly key: string;
  readonly data: MountEntryData & Readonly<Record<string, unknown>>;
  /** An entry that {@link data} names, or undefined. */
  entry(key: string): HandedEntry | undefined;
}

/** What a mount has done so far. */
export interface SessionStats {
  /** Requests of the kernel that were answered, of any kind. */
  readonly requests: number;
  readonly errors: number;
  /** Reads whose data was there, and reads that had to wait for some. */
  readonly readyReads: number;
  readonly waitingReads: number;
  /** File data given to readers, bytes. */
  readonly readBytes: number;
  /** Time taken by all ready reads, and by all waiting ones; seconds. */
  readonly readySec: number;
  readonly waitingSec: number;
  /** Reads that wait now. */
  readonly waitingNow: number;
  /** Waiting reads by how long they took, in the buckets of `LATENCY_BOUNDS_SEC`; not cumulative. */
  readonly waitBuckets: readonly number[];
  /** Reads that failed, by why: of the errors above. */
  readonly fetchErrors: number;
  readonly digestErrors: number;
  readonly decodeErrors: number;
  readonly deadlineErrors: number;
  readonly noSpaceErrors: number;
}

/** How an image came to be mounted. */
export interface MountKind {
  readonly engine: "fuse" | "erofs";
  /** File system type in /proc/self/mountinfo. */
  readonly type: string;
  /** Why this engine, where one was chosen: a line. */
  readonly why?: string | undefined;
}

/** A mounted image. Disposing unmounts it whatever it takes: readers that are left get errors. */
export interface MountSession extends AsyncDisposable {
  /** Absolute, without symlinks. */
  readonly mountpoint: string;
  /** How it is mounted, where that is not what was asked for. */
  readonly kind?: MountKind | undefined;
  /** Resolves when the mount has ended and everything it held is released; rejects when it ended by a failure. */
  readonly done: Promise<void>;
  /**
   * Takes the mount out of the tree. Where files are open it goes on serving them, and `done` comes when the last one
   * is closed.
   */
  unmount(): Promise<void>;
  stats(): SessionStats;
  /**
   * Stops to serve, so that another process can go on with the mount: what is in hand is finished, what comes waits in
   * the kernel. `done` does not come, and descriptors stay open; `MountHost.resume` undoes it.
   */
  handOver?(): Promise<HandedMount>;
}

/** What the mounts of one process share. Disposing ends it; its sessions must have ended. */
export interface MountHost extends AsyncDisposable {
  /** What it is made of has failed: its mounts have ended, and it can make no more. */
  readonly isBroken: boolean;
  /** Which way it takes where it has a choice, and why, once that is known: a line. */
  readonly choice?: string | undefined;
  /** Resolves when it can make mounts: a successor goes on with those that there are first. */
  readonly ready?: Promise<void> | undefined;
  /** @returns when the mount answers @throws ENOENT, EINVAL, EBUSY mount point; EPERM; ENOTSUP no such way here */
  mount(options: MountOptions): Promise<MountSession>;
  /** Serves a mount that there is. @throws EFAULT it cannot go on; its readers get errors then */
  resume?(options: MountOptions, mount: HandedMount): Promise<MountSession>;
}

/** How a {@link MountHost} is made. */
export interface HostOptions {
  /** Threads that answer the kernel, for all mounts together; 2 unless given. */
  readonly threads?: number | undefined;
  /** Reads that wait for data at once, by EROFS; 1,024 unless given, each with a descriptor. */
  readonly pendingReads?: number | undefined;
  /** Keeps what a successor of this process needs. */
  readonly holder?: HolderClient | undefined;
  /** Hears which way was chosen, and why, where there is a choice. */
  readonly onChoice?: ((line: string) => void) | undefined;
}

/** A way to show images to the kernel. */
export interface MountEngine {
  readonly name: string;
  open(options?: HostOptions): MountHost;
}

/** Defaults of {@link MountOptions} and {@link HostOptions}. */
export const MOUNT_DEFAULTS = { threads: 2, readTimeoutMs: 30_000 } as const;

/** Version of {@link MountEntryData}: it grows with every change that a successor of another version must know of. */
export const MOUNT_ENTRY_VERSION = 1;

/** File system type of our mounts in /proc/self/mountinfo. */
export const MOUNT_TYPE = `fuse.${MOUNT_SOURCE}`;
/** The same of mounts by the kernel's EROFS driver. */
export const EROFS_TYPE = "erofs";
