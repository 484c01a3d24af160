import { closeSync } from "node:fs";
import { asNydusError, NydusError } from "../../../base/errors.ts";
import { isSuperblockAlive } from "../../../os/erofs-mount.ts";
import { type FanotifyGroup, openFanotify } from "../../../os/fanotify.ts";
import { checkMountpoint, findMount } from "../../../os/mount.ts";
import { duplicate, keepQuiet } from "../../../os/quiet-file.ts";
import {
  EROFS_TYPE,
  type HandedMount,
  type HostOptions,
  type MountHost,
  type MountOptions,
  type MountSession,
} from "../engine.ts";
import type { HandedEntry, HolderClient } from "../holder/client.ts";
import { useOfLost } from "./file.ts";
import { type FileShare, MarkedFiles } from "./files.ts";
import { DATA_KIND, type ErofsEntryData, GROUP_KIND, Guardian } from "./guardian.ts";
import { ErofsJournal } from "./journal.ts";
import { type AbandonedMount, ErofsSession } from "./session.ts";
import { MAX_SLOTS } from "./slots.ts";
import { ErofsTakeover } from "./takeover.ts";
import type { ErofsMessage } from "./thread.ts";
import { ErofsWatch, type WatchListener } from "./watch.ts";

/** How often it is looked whether given-up mounts are still in use. */
const ABANDONED_MS = 1_000;
const EIO = 5;

/** How long reads that wait for data may go on when another process is to take over. */
const FINISH_TIMEOUT_MS = 2_000;

interface Opened {
  readonly group: FanotifyGroup;
  readonly journal: ErofsJournal;
  readonly watch: ErofsWatch;
  readonly guardian: Guardian;
  readonly files: MarkedFiles;
}

/**
 * The mounts of this process by the kernel's EROFS driver. Opened at the first mount, or at once in a successor, which
 * answers nothing before it has all mounts: what one reads is known only then.
 */
class ErofsHost implements MountHost {
  readonly #pendingReads: number;
  readonly #holder: HolderClient | undefined;
  readonly #sessions = new Set<ErofsSession>();
  readonly #abandoned = new Set<AbandonedMount>();
  /** Sessions that have stopped to serve, by the key of their mount. */
  readonly #handedOver = new Map<string, ErofsSession>();
  /** In a successor: resolves when it answers. */
  #ready: Promise<void> = Promise.resolve();
  #opened: Opened | undefined;
  #failure: NydusError | undefined;
  #timer: ReturnType<typeof setInterval> | undefined;

  constructor({ pendingReads = MAX_SLOTS, holder }: HostOptions) {
    this.#holder = holder;
    this.#pendingReads = pendingReads;
    const [group] = holder?.unclaimed(GROUP_KIND) ?? [];
    if (holder !== undefined && group !== undefined) this.#takeOver(group, holder);
  }

  get isBroken(): boolean {
    return this.#failure !== undefined;
  }

  get ready(): Promise<void> {
    return this.#ready;
  }

  async mount(options: MountOptions): Promise<MountSession> {
    await this.#ready;
    if (this.#failure !== undefined) throw this.#failure;
    const mountpoint = checkMountpoint(options.mountpoint);
    if (findMount(mountpoint)?.type === EROFS_TYPE) {
      throw new NydusError("EBUSY", "Cannot mount: an image is mounted there already", { path: mountpoint });
    }
    const session = this.#session(mountpoint, options);
    await session.start();
    return this.#serve(session);
  }

  /** @throws as `ErofsSession.resume` */
  async resume(options: MountOptions, mount: HandedMount): Promise<MountSession> {
    const known = this.#handedOver.get(mount.key);
    if (known !== undefined) return this.#goOn(mount.key, known);
    if (this.#failure !== undefined) throw this.#failure;
    const session = this.#session(mount.data.mountpoint, options);
    await session.resume(mount);
    this.#serve(session);
    session.look(); // it may have ended while nobody served it
    return session;
  }

  async #goOn(key: string, session: ErofsSession): Promise<MountSession> {
    this.#handedOver.delete(key);
    session.goOn();
    if (this.#handedOver.size === 0 && this.#opened !== undefined) {
      const { watch, files } = this.#opened;
      watch.isHandedOver = false;
      files.mayUnmark = true;
      await watch.serve(true);
    }
    return session;
  }

  #session(mountpoint: string, options: MountOptions): ErofsSession {
    const { files, guardian } = this.#open();
    return new ErofsSession(mountpoint, options, {
      files,
      guardian,
      onAbandoned: (mount) => this.#keep(mount),
      finish: () => this.#finish(),
      onHandedOver: (key, session) => void this.#handedOver.set(key, session),
    });
  }

  #serve(session: ErofsSession): ErofsSession {
    this.#sessions.add(session);
    void session.done.catch(() => undefined).then(() => this.#sessions.delete(session));
    // A thread that failed while this was starting has not failed this session.
    if (this.#failure !== undefined) session.fail(this.#failure);
    return session;
  }

  /** Lets events wait in the kernel's queue. What is not answered in time is left to who takes over. */
  async #finish(): Promise<void> {
    if (this.#opened === undefined) return;
    const { watch, files } = this.#opened;
    files.mayUnmark = false;
    await files.unmarkComplete(); // one that is under way
    await watch.finish(FINISH_TIMEOUT_MS);
    watch.isHandedOver = true;
  }

  #open(): Opened {
    if (this.#opened !== undefined) return this.#opened;
    const group = openFanotify();
    try {
      return this.#openWith(group);
    } catch (error) {
      closeSync(group.fd);
      throw error;
    }
  }

  /** @param groupKey where it is another process's: events are not taken yet */
  #openWith(group: FanotifyGroup, groupKey?: string): Opened {
    const slots = this.#pendingReads;
    const journal = new ErofsJournal(slots);
    let watch: ErofsWatch | undefined;
    try {
      const fail = (error: NydusError): void => this.#fail(error);
      const onMessage: WatchListener["onMessage"] = (message) => this.#onMessage(message);
      watch = new ErofsWatch(
        group,
        { onMessage, onFailure: fail },
        {
          slots,
          journal,
          serves: groupKey === undefined,
        },
      );
      const guardian = new Guardian(group, fail, { holder: this.#holder, groupKey });
      guardian.holdAlong(journal.entry, journal.fd);
      const files = new MarkedFiles({ group, watch, guardian });
      this.#opened = { group, journal, watch, guardian, files };
      return this.#opened;
    } catch (error) {
      void watch?.close();
      throw asNydusError(error);
    }
  }

  /** Takes over the group of a process that is gone, with the reads that it has not answered. */
  #takeOver({ entry, fd }: HandedEntry, holder: HolderClient): void {
    if (fd === undefined) return;
    const group = { fd };
    const takeover = new ErofsTakeover(group, holder);
    const { files, watch, guardian } = this.#openWith(group, entry.key);
    files.mayUnmark = false;
    for (const data of holder.unclaimed(DATA_KIND)) if (data.fd !== undefined) keepQuiet(data.fd);
    this.#ready = new Promise((resolve) => {
      const serve = async (): Promise<void> => {
        await watch.serve(true);
        files.mayUnmark = true;
        resolve();
      };
      const begin = async (): Promise<void> => {
        await this.#keepLost(holder, guardian);
        await takeover.answerAll(files.all(), serve);
      };
      holder.onResumed(() => {
        void begin().catch(async (error) => {
          this.#fail(asNydusError(error));
          await serve().catch(() => undefined); // what waits fails, and does not wait for ever
          resolve();
        });
      });
    });
  }

  /** Mounts that could not be taken over: while somebody may read them, reads of what is not there fail. */
  async #keepLost(holder: HolderClient, guardian: Guardian): Promise<void> {
    const lost = holder
      .unclaimed("mount")
      .filter(({ entry: { plan } }) => plan.kind === "mount" && plan.engine === "erofs");
    // All at once: what nobody holds is dropped when this returns.
    await Promise.all(lost.map((handed) => this.#keepOne(handed, holder, guardian)));
  }

  async #keepOne({ entry }: HandedEntry, holder: HolderClient, guardian: Guardian): Promise<void> {
    if (entry.plan.kind !== "mount") return;
    const hold = guardian.addLost(entry);
    const { devices = [] } = (entry.data ?? {}) as Partial<ErofsEntryData>;
    const fds = devices.flatMap((key) => holder.entry(key)?.fd ?? []).map(duplicate);
    const shares: FileShare[] = [];
    try {
      for (const fd of fds) shares.push(await this.#open().files.acquire(fd, useOfLost(fd), true));
    } finally {
      for (const fd of fds) closeSync(fd);
    }
    this.#keep({ hold, names: entry.plan.names, shares });
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
      mount.hold?.drop();
    }
  }

  /** Where somebody still has files of given-up mounts open, the holder process goes on to fail their reads. */
  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer);
    if (this.#opened === undefined) return;
    const { group, journal, watch, guardian, files } = this.#opened;
    const isLeft = this.#handedOver.size > 0;
    if (!isLeft) {
      await Promise.all([...this.#sessions].map((session) => session[Symbol.asyncDispose]()));
      await this.#look();
      files.close();
    } else files.leave();
    await watch.close();
    if (!isLeft) {
      this.#holder?.drop(journal.entry.key);
      await guardian.close();
    }
    closeSync(group.fd);
    journal[Symbol.dispose]();
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

  get ready(): Promise<void> {
    return this.#shared.host.ready;
  }

  resume(options: MountOptions, mount: HandedMount): Promise<MountSession> {
    return this.#shared.host.resume(options, mount);
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
