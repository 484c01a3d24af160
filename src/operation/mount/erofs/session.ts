import { fstatSync } from "node:fs";
import { endsWithin } from "../../../base/async.ts";
import { asNydusError, NydusError } from "../../../base/errors.ts";
import { ErofsReader } from "../../../format/erofs/reader.ts";
import {
  isSuperblockAlive,
  type MadeErofs,
  mountErofs,
  type SuperblockNames,
  setErofsReadAhead,
} from "../../../os/erofs-mount.ts";
import { findMount, MNT_DETACH, MNT_FORCE, readMountInfo, unmount } from "../../../os/mount.ts";
import { chunkTableOf } from "../chunk-table.ts";
import {
  EROFS_TYPE,
  type HandedMount,
  MOUNT_DEFAULTS,
  type MountOptions,
  type MountSession,
  type SessionStats,
} from "../engine.ts";
import { DEFAULT_MOUNT_FLAGS } from "../mount-flags.ts";
import { endedStats, statsSince, sumCounters, sumStats } from "../session-counters.ts";
import { checkForKernel } from "./bootstrap-check.ts";
import { useOf } from "./file.ts";
import type { FileShare, MarkedFiles } from "./files.ts";
import { erofsDataOf, type Guardian, type MountHold } from "./guardian.ts";

/** How far the kernel may read ahead. */
const READ_AHEAD_BYTES = 512 * 1024;
/** How often it is looked whether a detached mount is still in use: at first, and at last. */
const FIRST_LOOK_MS = 20;
const LAST_LOOK_MS = 1_000;
/** How long a forced end may take before the mount is given up. */
const END_TIMEOUT_MS = 500;

/** What sessions of a process share. */
export interface ErofsShared {
  readonly files: MarkedFiles;
  readonly guardian: Guardian;
  /** Has what a given-up mount holds released once its file system is gone. */
  readonly onAbandoned: (mount: AbandonedMount) => void;
  /** Has no session answered any more, and waits until what is in hand is. */
  readonly finish: () => Promise<void>;
  readonly onHandedOver: (key: string, session: ErofsSession) => void;
}

/** A mount whose owner has let go of it while its file system may still be read. */
export interface AbandonedMount {
  readonly hold: MountHold | undefined;
  readonly names: SuperblockNames;
  readonly shares: readonly FileShare[];
}

/** One image, mounted by the kernel's EROFS driver over marked files. */
export class ErofsSession implements MountSession {
  readonly mountpoint: string;
  readonly kind = { engine: "erofs", type: EROFS_TYPE } as const;
  readonly done: Promise<void>;
  readonly #options: MountOptions;
  readonly #shared: ErofsShared;
  #shares: FileShare[] = [];
  #hold: MountHold | undefined;
  #names: SuperblockNames = [];
  #minor: number | undefined;
  #before: SessionStats = sumStats([]);
  #last: SessionStats | undefined;
  #ended = false;
  #isHandedOver = false;
  #failure: NydusError | undefined;
  #settle: (() => void) | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #lookMs = FIRST_LOOK_MS;

  constructor(mountpoint: string, options: MountOptions, shared: ErofsShared) {
    this.mountpoint = mountpoint;
    this.#options = options;
    this.#shared = shared;
    const { length } = new ErofsReader(options.bootstrap.bytes).devices;
    if (length !== options.devices.length) {
      throw new NydusError("EINVAL", `Cannot mount: ${options.devices.length} devices given, the image has ${length}`);
    }
    this.done = new Promise((resolve, reject) => {
      this.#settle = () => (this.#failure === undefined ? resolve() : reject(this.#failure));
    });
    this.done.catch(() => undefined); // who does not look at it is not to crash
  }

  /** Checks the image, marks its data and mounts. Nothing is left of a start that fails. */
  async start(): Promise<void> {
    const { bootstrap, devices, root, flags = DEFAULT_MOUNT_FLAGS } = this.#options;
    const { fd: imageFd } = bootstrap;
    if (imageFd === undefined) throw new NydusError("ENOTSUP", "Cannot mount by EROFS: the bootstrap is not a file");
    await checkForKernel(bootstrap, root);
    try {
      await this.#acquire(false);
      const deviceFds = devices.map(({ fd }) => fd);
      const { suid, dev, exec } = flags;
      const onMade = (made: MadeErofs): void => this.#keep(made);
      const { minor } = mountErofs({ mountpoint: this.mountpoint, imageFd, deviceFds, suid, dev, exec, onMade });
      this.#minor = minor;
      if (findMount(this.mountpoint)?.minor !== minor) {
        throw new NydusError("EFAULT", "Cannot mount: the mount does not show up in mountinfo");
      }
      setErofsReadAhead(this.#names, READ_AHEAD_BYTES);
    } catch (error) {
      if (this.#minor !== undefined) unmount(this.mountpoint, MNT_DETACH);
      await this.#release();
      this.#hold?.drop();
      throw asNydusError(error, { path: this.mountpoint });
    }
  }

  /** Before anybody can read it: from then on it must not be without one that answers. */
  #keep({ names, minor }: MadeErofs): void {
    if (names.length === 0) {
      throw new NydusError("ENOTSUP", "Cannot mount by EROFS: /sys/fs/erofs does not say which file systems live");
    }
    const { bootstrap, devices, handing, readTimeoutMs = MOUNT_DEFAULTS.readTimeoutMs } = this.#options;
    const { mountpoint } = this;
    const deviceFds = devices.map(({ fd }) => fd);
    const mount = { mountpoint, minor, names, bootstrap, deviceFds, readTimeoutMs, handing };
    this.#hold = this.#shared.guardian.add(mount);
    this.#names = names;
  }

  /**
   * Goes on with a mount that another process has served.
   * @throws EFAULT its data is not what it had; ENOTSUP, EUCLEAN what was handed over is not understood
   */
  async resume(mount: HandedMount): Promise<void> {
    const { names, minor, devices: keys } = erofsDataOf(mount);
    const { devices } = this.#options;
    for (const [i, { fd }] of devices.entries()) {
      const held = mount.entry(keys[i] ?? "")?.fd;
      if (held === undefined || !isSameFile(held, fd)) {
        throw new NydusError("EFAULT", "Cannot take mount over: the cache that it reads has been replaced");
      }
    }
    try {
      await this.#acquire(true);
      this.#keep({ names, minor });
      this.#minor = minor;
    } catch (error) {
      await this.#release();
      throw asNydusError(error, { path: this.mountpoint });
    }
  }

  async handOver(): Promise<HandedMount> {
    const mount = this.#hold?.mount;
    if (mount === undefined || this.#ended) {
      throw new NydusError("EBUSY", "Cannot hand mount over: no holder process has it", { path: this.mountpoint });
    }
    await this.#shared.finish();
    await Promise.all(this.#options.devices.map((device) => device.flush?.()));
    clearTimeout(this.#timer);
    this.#isHandedOver = true;
    this.#shared.onHandedOver(mount.key, this);
    return mount;
  }

  /** Undoes {@link handOver}. */
  goOn(): void {
    this.#isHandedOver = false;
    this.look();
  }

  async #acquire(isHanded: boolean): Promise<void> {
    const { devices, readTimeoutMs = MOUNT_DEFAULTS.readTimeoutMs, trace } = this.#options;
    const onError = (error: NydusError): void => this.#report(error);
    for (const [i, device] of devices.entries()) {
      const traced = trace && { trace, slot: i + 1, chunks: chunkTableOf(device.chunks) };
      const use = useOf(device, { readTimeoutMs, onError, traced });
      this.#shares.push(await this.#shared.files.acquire(device.fd, use, isHanded));
    }
    this.#before = this.#sum();
  }

  #sum(): SessionStats {
    const files = new Set(this.#shares.map(({ file }) => file));
    return sumStats([...files].map(({ counters }) => sumCounters(counters)));
  }

  stats(): SessionStats {
    return this.#last ?? statsSince(this.#sum(), this.#before);
  }

  #report(error: unknown): void {
    if (!this.#ended) this.#options.onError?.(asNydusError(error, { path: this.mountpoint }));
  }

  /** Something was mounted or unmounted somewhere: looks whether it was this. */
  look(): void {
    if (this.#ended || this.#isHandedOver || this.#minor === undefined) return;
    if (isSuperblockAlive(this.#names) === false) {
      void this.#end();
      return;
    }
    if (this.#isInTree()) return;
    // Open files and other mount namespaces keep it alive; nothing tells when they let go.
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.look(), this.#lookMs);
    this.#lookMs = Math.min(LAST_LOOK_MS, this.#lookMs * 2);
  }

  #isInTree(): boolean {
    return readMountInfo().some(({ mountpoint, minor }) => mountpoint === this.mountpoint && minor === this.#minor);
  }

  async #end(): Promise<void> {
    if (this.#ended) return;
    this.#last = endedStats(this.stats());
    this.#ended = true;
    clearTimeout(this.#timer);
    try {
      await this.#release();
      this.#hold?.drop();
    } catch (error) {
      this.#failure ??= asNydusError(error);
    }
    this.#settle?.();
  }

  async #release(): Promise<void> {
    const shares = this.#shares;
    this.#shares = [];
    for (const share of shares) await this.#shared.files.release(share);
  }

  /** Ends the mount because it cannot go on; `done` rejects with the first failure. */
  fail(error: NydusError): void {
    if (this.#ended || this.#isHandedOver) return;
    this.#failure ??= error;
    this.#report(error);
    void this[Symbol.asyncDispose]();
  }

  async unmount(): Promise<void> {
    if (!this.#isMounted()) return;
    if (unmount(this.mountpoint) === "busy") {
      this.#report(new NydusError("EBUSY", "Unmounting lazily: files are open", { path: this.mountpoint }));
      unmount(this.mountpoint, MNT_DETACH);
    }
    this.look();
  }

  /** Whether our mount is still in the tree. @throws EBUSY when another one covers it */
  #isMounted(): boolean {
    if (this.#ended || this.#minor === undefined) return false;
    if (findMount(this.mountpoint)?.minor === this.#minor) return true;
    if (!this.#isInTree()) return false;
    throw new NydusError("EBUSY", "Cannot unmount: another mount lies over it", { path: this.mountpoint });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#ended || this.#isHandedOver) return;
    if (this.#minor === undefined) return this.#end();
    if (findMount(this.mountpoint)?.minor === this.#minor) unmount(this.mountpoint, MNT_FORCE | MNT_DETACH);
    this.look();
    const done = this.done.catch(() => undefined);
    await endsWithin(END_TIMEOUT_MS, done);
    if (!this.#ended) await this.#abandon();
  }

  /** Lets go of devices and bootstrap although somebody has files open: reads of what is not there fail. */
  async #abandon(): Promise<void> {
    this.#last = endedStats(this.stats());
    this.#ended = true;
    clearTimeout(this.#timer);
    const shares = this.#shares;
    this.#shares = [];
    const kept: FileShare[] = [];
    for (const share of shares) kept.push(await this.#shared.files.abandon(share));
    this.#shared.onAbandoned({ hold: this.#hold, names: this.#names, shares: kept });
    this.#settle?.();
  }
}

function isSameFile(a: number, b: number): boolean {
  const [one, other] = [fstatSync(a), fstatSync(b)];
  return one.dev === other.dev && one.ino === other.ino;
}
