import { closeSync } from "node:fs";
import { statfs } from "node:fs/promises";
import { withDeadline } from "../../base/async.ts";
import { viewOf } from "../../base/bytes.ts";
import { asNydusError, NydusError } from "../../base/errors.ts";
import { ErofsReader } from "../../format/erofs/reader.ts";
import { OutHeader } from "../../format/fuse/abi.ts";
import {
  abortFuseConnection,
  cloneFuseDevice,
  mountFuse as mountFuseDevice,
  openFuseDevice,
  setReadAhead,
  writeFuseReply,
} from "../../os/fuse-device.ts";
import { type MappedFile, mapFile } from "../../os/mmap.ts";
import { checkMountpoint, findMount, MNT_DETACH, MNT_FORCE, readMountInfo, unmount } from "../../os/mount.ts";
import { spawnThread, type Thread } from "../../os/thread.ts";
import { buildChunkTable } from "./chunk-table.ts";
import { DemandReader } from "./demand.ts";
import { MOUNT_DEFAULTS, MOUNT_SOURCE, MOUNT_TYPE, type MountOptions, type MountSession } from "./engine.ts";
import { type DeviceData, FileData } from "./file-data.ts";
import { encodeReplyHeader, MAX_READ_BYTES, type PendingRead, readerErrno } from "./fuse-server.ts";
import { FUSE_ROLE, type FuseThreadData, type FuseThreadMessage, fuseThreadUrl } from "./fuse-thread.ts";
import { ImageFs } from "./image-fs.ts";

/** How far the kernel may read ahead: long runs are faster, but a page fault far from any other fetches this much. */
const READ_AHEAD_BYTES = 512 * 1024;
/** How long a new mount may take to answer, and a forced end to come. */
const START_TIMEOUT_MS = 10_000;
const END_TIMEOUT_MS = 5_000;

/**
 * Mounts an image through /dev/fuse.
 * @returns when the mount answers; the caller closes the devices after `done`
 * @throws ENOENT, EINVAL, EBUSY the mount point; EPERM without root; ENOTSUP no FUSE; EUCLEAN a damaged bootstrap
 */
export async function mountFuse(options: MountOptions): Promise<MountSession> {
  const mountpoint = checkMountpoint(options.mountpoint);
  if (findMount(mountpoint)?.type === MOUNT_TYPE) {
    throw new NydusError("EBUSY", "Cannot mount: an image is mounted there already", { path: mountpoint });
  }
  const session = new FuseSession(mountpoint, options);
  try {
    await session.start();
    return session;
  } catch (error) {
    session.fail(asNydusError(error));
    await session[Symbol.asyncDispose]();
    throw error;
  }
}

class FuseSession implements MountSession {
  readonly mountpoint: string;
  readonly done: Promise<void>;
  readonly #options: MountOptions;
  readonly #bootstrap: MappedFile;
  readonly #demand: DemandReader;
  readonly #devices: readonly DeviceData[];
  readonly #threads = new Set<Thread>();
  readonly #fds: number[] = [];
  #minor: number | undefined;
  #failure: NydusError | undefined;
  #ended = false;
  #settle: (() => void) | undefined;

  constructor(mountpoint: string, options: MountOptions) {
    this.mountpoint = mountpoint;
    this.#options = options;
    this.#devices = options.devices.map(({ fd, ready, chunks }) => ({ fd, ready, chunks: buildChunkTable(chunks) }));
    this.#bootstrap = mapFile(options.bootstrapPath);
    this.#demand = this.#openDemand();
    this.done = new Promise((resolve, reject) => {
      this.#settle = () => (this.#failure === undefined ? resolve() : reject(this.#failure));
    });
    this.done.catch(() => undefined); // who does not look at it is not to crash
  }

  #openDemand(): DemandReader {
    try {
      const reader = new ErofsReader(this.#bootstrap.bytes);
      const { length } = this.#devices;
      if (reader.devices.length !== length) {
        throw new NydusError("EINVAL", `Cannot mount: ${length} devices given, the image has ${reader.devices.length}`);
      }
      const files = new FileData(new ImageFs(reader), this.#devices);
      return new DemandReader(
        files,
        this.#options.devices,
        this.#options.readTimeoutMs ?? MOUNT_DEFAULTS.readTimeoutMs,
      );
    } catch (error) {
      this.#bootstrap.close();
      throw asNydusError(error, { path: this.#options.bootstrapPath });
    }
  }

  /** Mounts, starts the threads and waits until the mount answers. */
  async start(): Promise<void> {
    const { suid = false, dev = false, threads = MOUNT_DEFAULTS.threads } = this.#options;
    const first = openFuseDevice();
    this.#fds.push(first);
    mountFuseDevice(first, this.mountpoint, {
      source: MOUNT_SOURCE,
      subtype: MOUNT_SOURCE,
      maxReadBytes: MAX_READ_BYTES,
      suid,
      dev,
    });
    this.#minor = this.#findMinor();
    for (let i = 1; i < threads; i++) this.#fds.push(cloneFuseDevice(first));
    for (const fd of this.#fds) this.#startThread(fd);
    await withDeadline(START_TIMEOUT_MS, "mount: the new file system gives", () => statfs(this.mountpoint));
    if (this.#minor !== undefined) setReadAhead(this.#minor, READ_AHEAD_BYTES);
  }

  #findMinor(): number {
    const minor = findMount(this.mountpoint)?.minor;
    if (minor !== undefined) return minor;
    unmount(this.mountpoint, MNT_FORCE | MNT_DETACH);
    throw new NydusError("EFAULT", "Cannot mount: the mount does not show up in mountinfo", { path: this.mountpoint });
  }

  #startThread(fd: number): void {
    const data: FuseThreadData = { fd, bootstrapPath: this.#options.bootstrapPath, devices: this.#devices };
    const thread = spawnThread(fuseThreadUrl, FUSE_ROLE, data);
    this.#threads.add(thread);
    thread.worker.on("message", (message: FuseThreadMessage) => this.#onMessage(fd, message));
    thread.worker.on("error", (error) => this.fail(asNydusError(error)));
    thread.worker.on("exit", () => this.#onExit(thread));
  }

  #onMessage(fd: number, message: FuseThreadMessage): void {
    if (message.kind === "missing") void this.#serveMissing(fd, message.read);
    else if (message.kind === "error") this.#report(new NydusError(message.code, message.message, message.at));
    else if (message.failed) this.fail(new NydusError("EFAULT", "Cannot serve mount: a thread failed"));
  }

  async #serveMissing(fd: number, read: PendingRead): Promise<void> {
    const reply = new Uint8Array(OutHeader.sizeBytes + read.sizeBytes);
    let result: number;
    try {
      result = await this.#demand.read(read, reply, OutHeader.sizeBytes);
    } catch (error) {
      this.#report(error);
      result = -readerErrno(error);
    }
    if (this.#ended) return; // the descriptor's number may be another file's by now
    const length = encodeReplyHeader(viewOf(reply), read.unique, result);
    try {
      writeFuseReply(fd, reply.subarray(0, length));
    } catch (error) {
      this.fail(asNydusError(error));
    }
  }

  #report(error: unknown): void {
    if (!this.#ended) this.#options.onError?.(asNydusError(error, { path: this.mountpoint }));
  }

  /** Ends the mount because it cannot go on; `done` rejects with the first failure. */
  fail(error: NydusError): void {
    this.#failure ??= error;
    this.#force();
  }

  #onExit(thread: Thread): void {
    this.#threads.delete(thread);
    if (this.#threads.size === 0) this.#end();
  }

  /** Releases everything; comes after the last thread. */
  #end(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#demand.end();
    for (const fd of this.#fds) closeSync(fd);
    this.#bootstrap.close();
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
    if (this.#threads.size === 0) return this.#end();
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
