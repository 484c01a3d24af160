import { closeSync } from "node:fs";
import { statfs } from "node:fs/promises";
import { endsWithin, withDeadline } from "../../../base/async.ts";
import { viewOf } from "../../../base/bytes.ts";
import { asNydusError, NydusError } from "../../../base/errors.ts";
import { ErofsReader } from "../../../format/erofs/reader.ts";
import { OutHeader } from "../../../format/fuse/abi.ts";
import {
  abortFuseConnection,
  mountFuse as mountFuseDevice,
  resendFuseRequests,
  setReadAhead,
  writeFuseReply,
} from "../../../os/fuse-device.ts";
import { type SharedMapping, shareMapping } from "../../../os/mmap.ts";
import { checkMountpoint, findMount, MNT_DETACH, MNT_FORCE, readMountInfo, unmount } from "../../../os/mount.ts";
import { chunkTableOf } from "../chunk-table.ts";
import {
  type HandedMount,
  type HostOptions,
  MOUNT_DEFAULTS,
  MOUNT_TYPE,
  type MountHost,
  type MountOptions,
  type MountSession,
  type SessionStats,
} from "../engine.ts";
import type { HolderClient } from "../holder/client.ts";
import { DEFAULT_MOUNT_FLAGS, type MountFlags } from "../mount-flags.ts";
import { type CounterMemory, Counters, endedStats, makeCounters, sumCounters } from "../session-counters.ts";
import { DemandReader } from "./demand.ts";
import { type DeviceData, FileData } from "./file-data.ts";
import { FuseHolding, takeFuseMount } from "./handing.ts";
import { ImageFs } from "./image-fs.ts";
import { encodeReplyHeader, type PendingRead, readerErrno } from "./server.ts";
import type { FuseThreadMessage } from "./thread.ts";
import { FuseThreads, type ThreadListener } from "./threads.ts";

/** How far the kernel may read ahead: long runs are faster, but a page fault far from any other fetches this much. */
const READ_AHEAD_BYTES = 512 * 1024;
const EIO = 5;
/** How long a new mount may take to answer, and a forced end to come. */
const START_TIMEOUT_MS = 10_000;
const END_TIMEOUT_MS = 5_000;
/** How long reads that wait for data may go on when another process is to take the mount over. */
const FINISH_TIMEOUT_MS = 2_000;

/** The mounts of this process through /dev/fuse, over threads that they share. */
class FuseHost implements MountHost {
  readonly #threads: FuseThreads;
  readonly #holder: HolderClient | undefined;
  /** Sessions that have stopped to serve, by the key of their mount: one of them may go on here. */
  readonly #handedOver = new Map<string, FuseSession>();

  constructor(threads: number, holder: HolderClient | undefined) {
    this.#threads = new FuseThreads(threads);
    this.#holder = holder;
  }

  get isBroken(): boolean {
    return this.#threads.isBroken;
  }

  async mount(options: MountOptions): Promise<MountSession> {
    const mountpoint = checkMountpoint(options.mountpoint);
    const here = findMount(mountpoint);
    if (here !== undefined && isOurType(here.type, options.flags)) {
      throw new NydusError("EBUSY", "Cannot mount: an image is mounted there already", { path: mountpoint });
    }
    const session = this.#session(mountpoint, options);
    try {
      await session.start();
      return session;
    } catch (error) {
      session.fail(asNydusError(error));
      await session[Symbol.asyncDispose]();
      throw error;
    }
  }

  #session(mountpoint: string, options: MountOptions): FuseSession {
    const onHandedOver = (key: string, session: FuseSession): void => void this.#handedOver.set(key, session);
    return new FuseSession(mountpoint, options, { threads: this.#threads, holder: this.#holder, onHandedOver });
  }

  async resume(options: MountOptions, mount: HandedMount): Promise<MountSession> {
    const { mountpoint } = mount.data;
    const session = this.#session(mountpoint, options);
    session.resume(mount);
    this.#handedOver.get(mount.key)?.forget();
    this.#handedOver.delete(mount.key);
    return session;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#threads.close();
  }
}

/**
 * Opens the way to mount through /dev/fuse. Its sessions' callers close devices and bootstrap after `done`.
 * @throws ENOTSUP another runtime than Bun on Linux
 */
export function openFuseHost({ threads = MOUNT_DEFAULTS.threads, holder }: HostOptions = {}): MountHost {
  return new FuseHost(threads, holder);
}

function isOurType(type: string, flags: MountFlags | undefined): boolean {
  return type === MOUNT_TYPE || (flags !== undefined && type === `fuse.${flags.subtype}`);
}

/** What sessions of a host share. */
interface FuseShared {
  readonly threads: FuseThreads;
  readonly holder: HolderClient | undefined;
  readonly onHandedOver: (key: string, session: FuseSession) => void;
}

class FuseSession implements MountSession, ThreadListener {
  readonly mountpoint: string;
  readonly done: Promise<void>;
  readonly #options: MountOptions;
  readonly #threads: FuseThreads;
  readonly #demand: DemandReader;
  readonly #devices: readonly DeviceData[];
  #fd: number | undefined;
  #counters: CounterMemory | undefined;
  #minor: number | undefined;
  #failure: NydusError | undefined;
  #ended = false;
  #isHandedOver = false;
  #settle: (() => void) | undefined;
  readonly #holding: FuseHolding | undefined;
  readonly #onHandedOver: FuseShared["onHandedOver"];
  /** In the threads. */
  #id: number | undefined;
  /** Reads that wait for data. */
  readonly #waiting = new Set<Promise<void>>();
  /** Set when another process is to go on with the mount. */
  #onLetGo: (() => void) | undefined;

  constructor(mountpoint: string, options: MountOptions, { threads, holder, onHandedOver }: FuseShared) {
    this.mountpoint = mountpoint;
    this.#options = options;
    this.#threads = threads;
    this.#onHandedOver = onHandedOver;
    this.#holding = holder && options.handing && new FuseHolding(holder, options.handing);
    this.#devices = options.devices.map(({ fd, ready, chunks }) => ({ fd, ready, chunks: chunkTableOf(chunks) }));
    const reader = new ErofsReader(options.bootstrap.bytes);
    const { length } = this.#devices;
    if (reader.devices.length !== length) {
      throw new NydusError("EINVAL", `Cannot mount: ${length} devices given, the image has ${reader.devices.length}`);
    }
    const files = new FileData(new ImageFs(reader), this.#devices);
    this.#demand = new DemandReader(files, options.devices, options.readTimeoutMs ?? MOUNT_DEFAULTS.readTimeoutMs);
    this.done = new Promise((resolve, reject) => {
      this.#settle = () => (this.#failure === undefined ? resolve() : reject(this.#failure));
    });
    this.done.catch(() => undefined); // who does not look at it is not to crash
  }

  /** Mounts, hands the mount to the threads and waits until it answers. */
  async start(): Promise<void> {
    const { bootstrap, flags = DEFAULT_MOUNT_FLAGS } = this.#options;
    const shared = shareMapping(bootstrap);
    const fd = mountFuseDevice(this.mountpoint, {
      ...flags,
      source: flags.fsname,
      allowOther: flags.allowOther ?? process.geteuid?.() === 0,
    });
    this.#fd = fd;
    this.#minor = this.#findMinor();
    this.#serve(fd, shared);
    await withDeadline(START_TIMEOUT_MS, "mount: the new file system gives", () => statfs(this.mountpoint));
    setReadAhead(this.#minor, READ_AHEAD_BYTES);
    this.#hold(fd, this.#minor);
  }

  #serve(fd: number, bootstrap: SharedMapping): void {
    const { id, counters } = this.#threads.add(
      { fd, bootstrap, devices: this.#devices, trace: this.#options.trace },
      this,
    );
    this.#id = id;
    this.#counters = counters;
  }

  #hold(fd: number, minor: number): void {
    try {
      const { bootstrap, readTimeoutMs = MOUNT_DEFAULTS.readTimeoutMs } = this.#options;
      const { journal } = this.#threads;
      this.#holding?.hold({ fd, minor, mountpoint: this.mountpoint, bootstrap, readTimeoutMs, journal });
    } catch (error) {
      this.#report(error); // it serves all the same
    }
  }

  /** Goes on with a mount that another process has served. What that one had not answered is answered now. */
  resume(mount: HandedMount): void {
    const shared = shareMapping(this.#options.bootstrap);
    const { fd, unanswered } = takeFuseMount(mount);
    const { minor } = mount.data;
    for (const unique of unanswered) this.#reply(fd, unique, -EIO);
    this.#fd = fd;
    this.#minor = minor;
    this.#serve(fd, shared);
    if (mount.data["journal"] === undefined && !resendFuseRequests(fd)) {
      this.#report(new NydusError("EIO", "Reads may hang that were under way: the kernel does not send them again"));
    }
    this.#hold(fd, minor);
  }

  async handOver(): Promise<HandedMount> {
    const id = this.#id;
    const mount = this.#holding?.mount;
    if (id === undefined || mount === undefined || this.#ended) {
      throw new NydusError("EBUSY", "Cannot hand mount over: no holder process has it", { path: this.mountpoint });
    }
    const letGo = new Promise<void>((resolve) => {
      this.#onLetGo = resolve;
    });
    this.#threads.remove(id);
    await letGo;
    // What the kernel sends again need not be waited for.
    const all = Promise.all(this.#waiting);
    await (this.#threads.journal === undefined ? endsWithin(FINISH_TIMEOUT_MS, all) : all);
    this.#isHandedOver = true;
    this.#demand.end();
    await Promise.all(this.#options.devices.map((device) => device.flush?.()));
    this.#onHandedOver(mount.key, this);
    return mount;
  }

  /** Another session of this process goes on with the mount, and has it held itself. */
  forget(): void {
    this.#holding?.drop();
  }

  #findMinor(): number {
    const minor = findMount(this.mountpoint)?.minor;
    if (minor !== undefined) return minor;
    unmount(this.mountpoint, MNT_FORCE | MNT_DETACH);
    throw new NydusError("EFAULT", "Cannot mount: the mount does not show up in mountinfo", { path: this.mountpoint });
  }

  onMessage(message: FuseThreadMessage): void {
    if (message.kind === "missing") {
      const served = this.#serveMissing(message.read).finally(() => this.#waiting.delete(served));
      this.#waiting.add(served);
    } else if (message.kind === "error") this.#report(new NydusError(message.code, message.message, message.at));
  }

  onFailure(error: NydusError): void {
    this.fail(error);
  }

  onEnded(): void {
    if (this.#onLetGo === undefined) this.#end();
    else this.#onLetGo();
  }

  async #serveMissing(read: PendingRead): Promise<void> {
    const counted = this.#counters && new Counters(this.#counters, this.#threads.count).startWaiting();
    let failure: unknown;
    try {
      await this.#demand.ensure(read);
    } catch (error) {
      failure = error;
    }
    if (this.#ended || this.#isHandedOver || this.#fd === undefined) return; // the descriptor's number may be another file's by now
    const found = this.#readReply(read, failure);
    counted?.(found);
    const result = typeof found === "number" ? found : -readerErrno(found);
    try {
      this.#reply(this.#fd, read.unique, result);
      this.#threads.journal?.remove(read.unique);
    } catch (error) {
      this.fail(asNydusError(error));
    }
  }

  /** Sends the shared reply. @param result bytes of data in it, or -errno */
  #reply(fd: number, unique: bigint, result: number): void {
    const { reply } = this.#threads;
    writeFuseReply(fd, reply, encodeReplyHeader(viewOf(reply), unique, result));
  }

  /** Puts the data into the shared reply. @returns its length, or why it is not there */
  #readReply(read: PendingRead, failure: unknown): number | NydusError {
    try {
      if (failure !== undefined) throw failure;
      return this.#demand.readReady(read, this.#threads.reply, OutHeader.sizeBytes);
    } catch (error) {
      this.#report(error);
      return asNydusError(error);
    }
  }

  stats(): SessionStats {
    const stats = sumCounters(this.#counters ?? makeCounters(0));
    return this.#ended ? endedStats(stats) : stats;
  }

  #report(error: unknown): void {
    if (!this.#ended) this.#options.onError?.(asNydusError(error, { path: this.mountpoint }));
  }

  /** Ends the mount because it cannot go on; `done` rejects with the first failure. */
  fail(error: NydusError): void {
    this.#failure ??= error;
    this.#force();
  }

  /** Releases everything; comes when no thread has the mount any more. */
  #end(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#demand.end();
    this.#holding?.drop();
    if (this.#fd !== undefined) closeSync(this.#fd);
    this.#settle?.();
  }

  async unmount(): Promise<void> {
    if (!this.#isMounted()) return;
    if (unmount(this.mountpoint) !== "busy") return;
    this.#report(new NydusError("EBUSY", "Unmounting lazily: files are open", { path: this.mountpoint }));
    unmount(this.mountpoint, MNT_DETACH);
  }

  /** Whether our mount is still in the tree. @throws EBUSY when another one covers it */
  #isMounted(): boolean {
    if (this.#ended || this.#minor === undefined) return false;
    const here = readMountInfo().filter(({ mountpoint }) => mountpoint === this.mountpoint);
    if (here.at(-1)?.minor === this.#minor) return true;
    if (!here.some(({ minor }) => minor === this.#minor)) return false;
    throw new NydusError("EBUSY", "Cannot unmount: another mount lies over it", { path: this.mountpoint });
  }

  /** Unmounts now: what is still under way there fails. */
  #force(): void {
    if (this.#ended || this.#minor === undefined) return;
    if (findMount(this.mountpoint)?.minor === this.#minor) unmount(this.mountpoint, MNT_FORCE | MNT_DETACH);
    abortFuseConnection(this.#minor);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#ended) return;
    this.#force();
    if (this.#counters === undefined) return this.#end(); // no thread has it
    if (
      await endsWithin(
        END_TIMEOUT_MS,
        this.done.catch(() => undefined),
      )
    )
      return;
    throw new NydusError("EFAULT", "Cannot end mount: its threads go on", { path: this.mountpoint });
  }
}
