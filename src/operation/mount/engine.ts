import type { ByteRange } from "../../base/bytes.ts";
import type { NydusError } from "../../base/errors.ts";
import type { ReadOptions } from "../../content/store/source.ts";
import type { ChunkMap } from "../../format/rafs/chunk-map.ts";
import type { MappedFile } from "../../os/mmap.ts";
import type { MountFlags } from "./mount-flags.ts";

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
  /** Hears of every failed read and of what else goes wrong while the mount lives. */
  readonly onError?: ((error: NydusError) => void) | undefined;
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
}

/** A mounted image. Disposing unmounts it whatever it takes: readers that are left get errors. */
export interface MountSession extends AsyncDisposable {
  /** Absolute, without symlinks. */
  readonly mountpoint: string;
  /** The engine's name and the file system type in /proc/self/mountinfo, where they are not what was asked for. */
  readonly kind?: { readonly engine: "fuse" | "erofs"; readonly type: string } | undefined;
  /** Resolves when the mount has ended and everything it held is released; rejects when it ended by a failure. */
  readonly done: Promise<void>;
  /**
   * Takes the mount out of the tree. Where files are open it goes on serving them, and `done` comes when the last one
   * is closed.
   */
  unmount(): Promise<void>;
  stats(): SessionStats;
}

/** What the mounts of one process share. Disposing ends it; its sessions must have ended. */
export interface MountHost extends AsyncDisposable {
  /** What it is made of has failed: its mounts have ended, and it can make no more. */
  readonly isBroken: boolean;
  /** @returns when the mount answers @throws ENOENT, EINVAL, EBUSY mount point; EPERM; ENOTSUP no such way here */
  mount(options: MountOptions): Promise<MountSession>;
}

/** How a {@link MountHost} is made. */
export interface HostOptions {
  /** Threads that answer the kernel, for all mounts together; 2 unless given. */
  readonly threads?: number | undefined;
  /** Reads that wait for data at once, by EROFS; 1,024 unless given, each with a descriptor. */
  readonly pendingReads?: number | undefined;
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

/** What mount(8) shows as the source of our mounts, and as subtype, unless asked otherwise. */
export const MOUNT_SOURCE = "nydus";
/** File system type of our mounts in /proc/self/mountinfo. */
export const MOUNT_TYPE = `fuse.${MOUNT_SOURCE}`;
/** The same of mounts by the kernel's EROFS driver. */
export const EROFS_TYPE = "erofs";
