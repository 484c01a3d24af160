import type { ByteRange } from "../../base/bytes.ts";
import type { NydusError } from "../../base/errors.ts";
import type { ReadOptions } from "../../content/store/source.ts";
import type { ChunkMap } from "../../format/rafs/chunk-map.ts";

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
}

/** What every engine is started with. */
export interface MountOptions {
  /** An existing directory. */
  readonly mountpoint: string;
  /** The EROFS metadata of the image; it must not change or shrink while it is mounted. */
  readonly bootstrapPath: string;
  /** `devices[slot - 1]`, as the bootstrap's device table has them. */
  readonly devices: readonly MountDevice[];
  /** Threads that answer requests; 2 unless given. */
  readonly threads?: number | undefined;
  /** After this long a read that waits for data fails with EIO; 30 s unless given. */
  readonly readTimeoutMs?: number | undefined;
  /** Honour set-user-id bits and file capabilities of the image; off unless given. */
  readonly suid?: boolean | undefined;
  /** Let the image's device nodes be opened; off unless given. */
  readonly dev?: boolean | undefined;
  /** Hears of every failed read and of what else goes wrong while the mount lives. */
  readonly onError?: ((error: NydusError) => void) | undefined;
}

/** A mounted image. Disposing unmounts it whatever it takes: readers that are left get errors. */
export interface MountSession extends AsyncDisposable {
  /** Absolute, without symlinks. */
  readonly mountpoint: string;
  /** Resolves when the mount has ended and everything it held is released; rejects when it ended by a failure. */
  readonly done: Promise<void>;
  /**
   * Takes the mount out of the tree. Where files are open it goes on serving them, and `done` comes when the last one
   * is closed.
   */
  unmount(): Promise<void>;
}

/** A way to show an image to the kernel. */
export interface MountEngine {
  readonly name: string;
  /** @returns when the mount answers @throws ENOENT, EINVAL, EBUSY mount point; EPERM; ENOTSUP no such way here */
  mount(options: MountOptions): Promise<MountSession>;
}

/** Defaults of {@link MountOptions}. */
export const MOUNT_DEFAULTS = { threads: 2, readTimeoutMs: 30_000 } as const;

/** What mount(8) shows as the source of our mounts, and as subtype: how `nydus mounts` tells its own. */
export const MOUNT_SOURCE = "nydus";
/** File system type of our mounts in /proc/self/mountinfo. */
export const MOUNT_TYPE = `fuse.${MOUNT_SOURCE}`;
