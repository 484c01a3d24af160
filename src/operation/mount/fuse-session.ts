import { closeSync } from "node:fs";
import { statfs } from "node:fs/promises";
import { withDeadline } from "../../base/async.ts";
import { viewOf } from "../../base/bytes.ts";
import { asNydusError, NydusError } from "../../base/errors.ts";
import { ErofsReader } from "../../format/erofs/reader.ts";
import { OutHeader } from "../../format/fuse/abi.ts";
import {
  abortFuseConnection,
  mountFuse as mountFuseDevice,
  setReadAhead,
  writeFuseReply,
} from "../../os/fuse-device.ts";
import { shareMapping } from "../../os/mmap.ts";
import { checkMountpoint, findMount, MNT_DETACH, MNT_FORCE, readMountInfo, unmount } from "../../os/mount.ts";
import { chunkTableOf } from "./chunk-table.ts";
import { DemandReader } from "./demand.ts";
import {
  type HostOptions,
  MOUNT_DEFAULTS,
  MOUNT_TYPE,
  type MountHost,
  type MountOptions,
  type MountSession,
  type SessionStats,
} from "./engine.ts";
import { type DeviceData, FileData } from "./file-data.ts";
import { encodeReplyHeader, type PendingRead, readerErrno } from "./fuse-server.ts";
import type { FuseThreadMessage } from "./fuse-thread.ts";
import { FuseThreads, type ThreadListener } from "./fuse-threads.ts";
import { ImageFs } from "./image-fs.ts";
import { DEFAULT_MOUNT_FLAGS, type MountFlags } from "./mount-flags.ts";
import { type CounterMemory, Counters, endedStats, makeCounters, sumCounters } from "./session-counters.ts";

/** How far the kernel may read ahead: long runs are faster, but a page fault far from any other fetches this much. */
const READ_AHEAD_BYTES = 512 * 1024;
/** How long a new mount may take to answer, and a forced end to come. */
const START_TIMEOUT_MS = 10_000;
const END_TIMEOUT_MS = 5_000;

/** The mounts of this process through /dev/fuse, over threads that they share. */
class FuseHost implements MountHost {
  readonly #threads: FuseThreads;

  constructor(threads: number) {
    this.#threads = new FuseThreads(threads);
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
    const session = new FuseSession(mountpoint, options, this.#threads);
    try {
      await session.start();
      return session;
    } catch (error) {
      session.fail(asNydusError(error));
      await session[Symbol.asyncDispose]();
      throw error;
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#threads.close();
  }
}

/**
 * Opens the way to mount through /dev/fuse. Its sessions' callers close devices and bootstrap after `done`.
 * @throws ENOTSUP another runtime than Bun on Linux
 */
export function openFuseHost({ threads = MOUNT_DEFAULTS.threads }: HostOptions = {}): MountHost {
  return new FuseHost(threads);
}

function isOurType(type: string, flags: MountFlags | undefined): boolean {
  return type === MOUNT_TYPE || (flags !== undefined && type === `fuse.${flags.subtype}`);
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
  #settle: (() => void) | undefined;

  constructor(mountpoint: string, options: MountOptions, threads: FuseThreads) {
    this.mountpoint = mountpoint;
    this.#options = options;
    this.#threads = threads;
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
    this.#counters = this.#threads.add({ fd, bootstrap: shared, devices: this.#devices }, this);
    await withDeadline(START_TIMEOUT_MS, "mount: the new file system gives", () => statfs(this.mountpoint));
    setReadAhead(this.#minor, READ_AHEAD_BYTES);
  }

  #findMinor(): number {
    const minor = findMount(this.mountpoint)?.minor;
    if (minor !== undefined) return minor;
    unmount(this.mountpoint, MNT_FORCE | MNT_DETACH);
    throw new NydusError("EFAULT", "Cannot mount: the mount does not show up in mountinfo", { path: this.mountpoint });
  }

  onMessage(message: FuseThreadMessage): void {
    if (message.kind === "missing") void this.#serveMissing(message.read);
    else if (message.kind === "error") this.#report(new NydusError(message.code, message.message, message.at));
  }

  onFailure(error: NydusError): void {
    this.fail(error);
  }

  onEnded(): void {
    this.#end();
  }

  async #serveMissing(read: PendingRead): Promise<void> {
    const counted = this.#counters && new Counters(this.#counters, this.#threads.count).startWaiting();
    let failure: unknown;
    try {
      await this.#demand.ensure(read);
    } catch (error) {
      failure = error;
    }
    if (this.#ended || this.#fd === undefined) return; // the descriptor's number may be another file's by now
    const found = this.#readReply(read, failure);
    counted?.(found);
    const result = typeof found === "number" ? found : -readerErrno(found);
    try {
      writeFuseReply(
        this.#fd,
        this.#threads.reply,
        encodeReplyHeader(viewOf(this.#threads.reply), read.unique, result),
      );
    } catch (error) {
      this.fail(asNydusError(error));
    }
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
      await within(
        END_TIMEOUT_MS,
        this.done.catch(() => undefined),
      )
    )
      return;
    throw new NydusError("EFAULT", "Cannot end mount: its threads go on", { path: this.mountpoint });
  }
}

/** Whether `work` ends within the time. */
async function within(timeoutMs: number, work: Promise<unknown>): Promise<boolean> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<boolean>((resolve) => {
    timer = setTimeout(() => resolve(false), timeoutMs);
  });
  try {
    return await Promise.race([work.then(() => true), late]);
  } finally {
    clearTimeout(timer);
  }
}
