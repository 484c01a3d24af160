import { closeSync } from "node:fs";
import { asNydusError, NydusError } from "../../base/errors.ts";
import { isSuperblockAlive } from "../../os/erofs-mount.ts";
import { type FanotifyGroup, openFanotify } from "../../os/fanotify.ts";
import { checkMountpoint, findMount } from "../../os/mount.ts";
import { EROFS_TYPE, type HostOptions, type MountHost, type MountOptions, type MountSession } from "./engine.ts";
import { MarkedFiles } from "./erofs-files.ts";
import { Guardian } from "./erofs-guardian.ts";
import { type AbandonedMount, ErofsSession } from "./erofs-session.ts";
import type { ErofsMessage } from "./erofs-thread.ts";
import { ErofsWatch, type WatchListener } from "./erofs-watch.ts";
import type { HolderClient } from "./holder-client.ts";

/** How often it is looked whether given-up mounts are still in use. */
const ABANDONED_MS = 1_000;
const EIO = 5;

interface Opened {
  readonly group: FanotifyGroup;
  readonly watch: ErofsWatch;
  readonly guardian: Guardian;
  readonly files: MarkedFiles;
}

/** The mounts of this process by the kernel's EROFS driver. Opened at the first mount. */
class ErofsHost implements MountHost {
  readonly #pendingReads: number | undefined;
  readonly #holder: HolderClient | undefined;
  readonly #sessions = new Set<ErofsSession>();
  readonly #abandoned = new Set<AbandonedMount>();
  #opened: Opened | undefined;
  #failure: NydusError | undefined;
  #nextId = 1;
  #timer: ReturnType<typeof setInterval> | undefined;

  constructor({ pendingReads, holder }: HostOptions) {
    this.#pendingReads = pendingReads;
    this.#holder = holder;
  }

  get isBroken(): boolean {
    return this.#failure !== undefined;
  }

  async mount(options: MountOptions): Promise<MountSession> {
    if (this.#failure !== undefined) throw this.#failure;
    const mountpoint = checkMountpoint(options.mountpoint);
    if (findMount(mountpoint)?.type === EROFS_TYPE) {
      throw new NydusError("EBUSY", "Cannot mount: an image is mounted there already", { path: mountpoint });
    }
    const { files, guardian } = this.#open();
    const onAbandoned = (mount: AbandonedMount): void => this.#keep(mount);
    const session = new ErofsSession(this.#nextId++, mountpoint, options, { files, guardian, onAbandoned });
    await session.start();
    this.#sessions.add(session);
    void session.done.catch(() => undefined).then(() => this.#sessions.delete(session));
    // A thread that failed while this was starting has not failed this session.
    if (this.#failure !== undefined) session.fail(this.#failure);
    return session;
  }

  #open(): Opened {
    if (this.#opened !== undefined) return this.#opened;
    const group = openFanotify();
    let watch: ErofsWatch | undefined;
    try {
      const fail = (error: NydusError): void => this.#fail(error);
      const onMessage: WatchListener["onMessage"] = (message) => this.#onMessage(message);
      watch = new ErofsWatch(group, { onMessage, onFailure: fail }, this.#pendingReads);
      const guardian = new Guardian(group, fail, this.#holder);
      const files = new MarkedFiles({ group, watch, guardian });
      this.#opened = { group, watch, guardian, files };
      return this.#opened;
    } catch (error) {
      void watch?.close().finally(() => closeSync(group.fd));
      throw asNydusError(error);
    }
  }

  #onMessage(message: Exclude<ErofsMessage, { kind: "done" | "closed" }>): void {
    if (message.kind === "missing") void this.#fill(message);
    else if (message.kind === "mounts") for (const session of this.#sessions) session.look();
    else if (message.kind === "overflow") {
      this.#fail(new NydusError("EFAULT", "Cannot serve mounts: the kernel has lost events, so reads may be wrong"));
    } else if (message.kind === "refused") {
      const error = new NydusError("EIO", `Cannot read file data: ${message.message}`, { offset: message.offset });
      const file = message.id === undefined ? undefined : this.#opened?.files.find(message.id);
      if (file !== undefined) file.report(error);
      else this.#opened?.files.reportAll(error);
    }
  }

  async #fill({ id, ticket, eventFd, range }: Extract<ErofsMessage, { kind: "missing" }>): Promise<void> {
    let isReady = false;
    try {
      isReady = (await this.#opened?.files.find(id)?.fill(range)) ?? false;
    } finally {
      try {
        this.#opened?.watch.answer(ticket, eventFd, isReady ? 0 : EIO);
      } catch (error) {
        this.#fail(asNydusError(error));
      }
    }
  }

  /** Ends all mounts: what they would show can no longer be trusted, or not be brought. */
  #fail(error: NydusError): void {
    this.#failure ??= error;
    for (const session of this.#sessions) session.fail(error);
  }

  #keep(mount: AbandonedMount): void {
    this.#abandoned.add(mount);
    this.#timer ??= setInterval(() => void this.#look(), ABANDONED_MS);
    this.#timer.unref();
  }

  async #look(): Promise<void> {
    for (const mount of this.#abandoned) {
      if (isSuperblockAlive(mount.names) !== false) continue;
      this.#abandoned.delete(mount);
      for (const share of mount.shares) await this.#opened?.files.release(share);
      this.#opened?.guardian.remove(mount.id);
    }
  }

  /** Where somebody still has files of given-up mounts open, the guard process goes on to fail their reads. */
  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer);
    if (this.#opened === undefined) return;
    const { group, watch, guardian, files } = this.#opened;
    await Promise.all([...this.#sessions].map((session) => session[Symbol.asyncDispose]()));
    await this.#look();
    files.close();
    await watch.close();
    await guardian.close();
    closeSync(group.fd);
    this.#opened = undefined;
  }
}

interface SharedErofs {
  readonly host: ErofsHost;
  users: number;
}

/** All hosts of a process are one: two groups that mark one file would each be asked about what the other one mounts. */
let current: SharedErofs | undefined;

class ErofsHostShare implements MountHost {
  readonly #shared: SharedErofs;
  #isOpen = true;

  constructor(shared: SharedErofs) {
    this.#shared = shared;
    shared.users++;
  }

  get isBroken(): boolean {
    return this.#shared.host.isBroken;
  }

  mount(options: MountOptions): Promise<MountSession> {
    return this.#shared.host.mount(options);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    if (--this.#shared.users > 0) return;
    if (current === this.#shared) current = undefined;
    await this.#shared.host[Symbol.asyncDispose]();
  }
}

/**
 * Opens the way to mount by the kernel's EROFS driver. Its sessions' callers close devices and bootstrap after `done`.
 * @param options of the first that is open
 */
export function openErofsHost(options: HostOptions = {}): MountHost {
  if (current === undefined || current.host.isBroken) current = { host: new ErofsHost(options), users: 0 };
  return new ErofsHostShare(current);
}
