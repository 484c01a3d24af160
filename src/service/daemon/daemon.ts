import { mapBounded, withDeadline } from "../../base/async.ts";
import { asNydusError, formatError, NydusError } from "../../base/errors.ts";
import { NOTHING_FETCHED } from "../../content/cache/fetch-meter.ts";
import { type ImagePin, type MountSourceOptions, MountSources } from "../../operation/image/mount-source.ts";
import {
  type HandedMount,
  MOUNT_DEFAULTS,
  MOUNT_ENTRY_VERSION,
  type MountHost,
  type SessionStats,
} from "../../operation/mount/engine.ts";
import { DEFAULT_ENGINE, ENGINES, type EngineName } from "../../operation/mount/engines.ts";
import type { HandedEntry, HolderClient } from "../../operation/mount/holder/client.ts";
import type { HeldEntry } from "../../operation/mount/holder/protocol.ts";
import { findRecord, listMounts, type MountRecord, rewriteRecord } from "../../operation/mount/mount-record.ts";
import { type EndSignals, endAtSignals } from "../../operation/mount/serve.ts";
import {
  handedCall,
  leaveNothing,
  type MountSource,
  resumeServing,
  type ServedMount,
  startServing,
} from "../../operation/mount/served-mount.ts";
import { sumStats } from "../../operation/mount/session-counters.ts";
import { umountMount } from "../../operation/mount/umount.ts";
import { abortFuseConnection } from "../../os/fuse-device.ts";
import { watchMemory } from "../../os/memory.ts";
import { mapOpenFile } from "../../os/mmap.ts";
import { findMount, MNT_DETACH, unmount } from "../../os/mount.ts";
import type { ProcessIdentity } from "../../os/process.ts";
import { API_NUMBER, type DaemonStatus, type MountCall, type MountInfo, parseMountBody } from "./api.ts";
import type { DaemonLog } from "./daemon-log.ts";
import { formatMetrics, processUse } from "./metrics.ts";

/** What a {@link Daemon} is made of. */
export interface DaemonOptions {
  /** Directory of all state. */
  readonly root: string;
  /** Of this program. */
  readonly version: string;
  readonly log: DaemonLog;
  readonly threads?: number | undefined;
  /** Keeps what outlives this process; without one its mounts end with it. */
  readonly holder?: HolderClient | undefined;
  /** How long without a mount until {@link Daemon.idle}. */
  readonly idleMs: number;
}

/** How many mounts are taken over at once, and how long one may take. */
const RESUMES_AT_ONCE = 4;
const RESUME_TIMEOUT_MS = 60_000;

/** What the daemon adds to a mount in the holder. */
interface HandedMountCall {
  readonly body: unknown;
  readonly pin: unknown;
}

type PinnedSource = MountSourceOptions["pinned"];

/** All mounts of a state directory: they share codec threads, FUSE threads, open images and caches. */
export class Daemon {
  /** Resolves when nothing has been mounted for the idle time. */
  readonly idle: Promise<void>;
  readonly #options: DaemonOptions;
  readonly #startedAt = new Date().toISOString();
  readonly #sources: MountSources;
  readonly #hosts = new Map<EngineName, MountHost>();
  readonly #mounts = new Map<string, ServedMount>();
  /** Starts under way. */
  readonly #starting = new Set<Promise<unknown>>();
  readonly #closing = new AbortController();
  readonly #memory: Disposable;
  /** Resolves when a successor has all mounts. */
  readonly handedOver: Promise<void>;
  #isHandedOver = false;
  #onHandedOver: () => void = () => undefined;
  #onIdle: () => void = () => undefined;
  #idleTimer: ReturnType<typeof setTimeout> | undefined;
  #ended: SessionStats = sumStats([]);
  /** Set while mounts are given to a successor. */
  #handingOver: Promise<void> | undefined;
  #started = 0;
  #failed = 0;

  constructor(options: DaemonOptions) {
    this.#options = options;
    this.#sources = new MountSources(options.root);
    this.idle = new Promise((resolve) => {
      this.#onIdle = resolve;
    });
    this.handedOver = new Promise((resolve) => {
      this.#onHandedOver = resolve;
    });
    this.#memory = watchMemory(() => this.#started + this.#stats().requests);
    this.#watchIdle();
  }

  /** Whether it takes no more mounts: it is about to end. */
  get isClosing(): boolean {
    return this.#closing.signal.aborted;
  }

  /** Whether a successor has all mounts. */
  get isHandedOver(): boolean {
    return this.#isHandedOver;
  }

  /** @throws EBUSY the asking program has another API: what it means by a request may differ */
  checkApi(number: string | undefined): void {
    if (number === API_NUMBER) return;
    const { root, version } = this.#options;
    const message = `Cannot use the daemon: it is '${version}' (process ${process.pid}), which this program cannot ask for mounts; end it by 'nydus daemon stop'`;
    throw new NydusError("EBUSY", message, { path: root });
  }

  /** Mounts an image. @param signal ends the attempt @throws as `startServing` */
  async mount(call: MountCall, signal: AbortSignal): Promise<MountRecord> {
    const start = this.#start(call, AbortSignal.any([signal, this.#closing.signal]));
    this.#starting.add(start);
    this.#watchIdle();
    try {
      return (await start).record;
    } catch (error) {
      this.#failed++;
      this.#options.log.write(`cannot mount ${call.shown} at ${call.mountpoint}: ${formatError(asNydusError(error))}`);
      throw error;
    } finally {
      this.#starting.delete(start);
      this.#watchIdle();
    }
  }

  async #start(call: MountCall, signal: AbortSignal): Promise<ServedMount> {
    const { shown, mountpoint, engine, trace } = call;
    await this.#handingOver;
    signal.throwIfAborted();
    const hosted = this.#hosted(call, signal);
    const mount = await startServing({ ...hosted, mountpoint, image: shown, engine, trace });
    this.#keep(mount, "mounted");
    if (!signal.aborted) return mount;
    // Whoever asked is gone, and nobody would unmount what came too late.
    await mount.session[Symbol.asyncDispose]();
    throw asNydusError(signal.reason);
  }

  /** What a mount is served with, whoever has made it. @param pinned of a mount that is taken over */
  #hosted(call: MountCall, signal: AbortSignal, pinned?: PinnedSource) {
    const { root, log, holder } = this.#options;
    const { image, shown, mountpoint, engine, readTimeoutMs, flags, prefetch, prefetchBytesPerSec } = call;
    const onError = (error: NydusError): void => log.write(`${shown} at ${mountpoint}: ${formatError(error)}`);
    const options = { readTimeoutMs, signal, prefetch, prefetchBytesPerSec, onError, pinned };
    return {
      ...{ root, flags, readTimeoutMs, signal, onError, holder },
      host: this.#host(engine),
      open: () => this.#sources.open(image, options),
      callOf: ({ pin }: MountSource): HandedMountCall => ({ body: call.body, pin }),
    };
  }

  #keep(mount: ServedMount, how: "mounted" | "took over"): void {
    const { record, ended } = mount;
    const { log } = this.#options;
    this.#mounts.set(record.id + record.startedAt, mount);
    this.#started++;
    log.write(`${how} ${record.image} at ${record.mountpoint}`);
    const forget = (result: string): void => {
      const how = this.#isHandedOver ? "handed over" : result;
      this.#mounts.delete(record.id + record.startedAt);
      this.#ended = sumStats([this.#ended, mount.session.stats()]);
      log.write(`${how} ${record.image} at ${record.mountpoint}`);
      this.#watchIdle();
    };
    ended.then(
      () => forget("unmounted"),
      (error: unknown) => forget(`lost (${formatError(asNydusError(error))})`),
    );
  }

  #host(engine: EngineName): MountHost {
    const known = this.#hosts.get(engine);
    if (known !== undefined && !known.isBroken) return known;
    const { log, holder } = this.#options;
    const host = ENGINES[engine].open({ threads: this.#threads, holder, onChoice: (line) => log.write(line) });
    this.#hosts.set(engine, host);
    return host;
  }

  get #threads(): number {
    return this.#options.threads ?? MOUNT_DEFAULTS.threads;
  }

  /** Unmounts. @throws as `umountMount` */
  umount(mountpoint: string, lazy: boolean): Promise<void> {
    return umountMount({ root: this.#options.root, mountpoint, lazy });
  }

  /** Every mount of the state directory, those of other processes too. */
  mounts(): MountInfo[] {
    return listMounts(this.#options.root).map((mount) => {
      const served = this.#mounts.get(mount.id + mount.startedAt);
      return { ...mount, stats: served?.session.stats(), fetched: served?.fetched?.() };
    });
  }

  async status(): Promise<DaemonStatus> {
    const { root, version, idleMs } = this.#options;
    const { images } = await this.#sources.stats();
    const state = this.isClosing ? "ending" : "running";
    const own = { state, pid: process.pid, version, root, startedAt: this.#startedAt } as const;
    const engine = this.#hosts.get(DEFAULT_ENGINE)?.choice;
    return { ...own, mounts: this.#mounts.size, images, threads: this.#threads, engine, idleMs, ...processUse() };
  }

  /** Prometheus text. */
  async metrics(): Promise<string> {
    const mounts = [...this.#mounts.values()].map(({ record: { mountpoint, image }, session, fetched }) => ({
      ...{ mountpoint, image, stats: session.stats() },
      fetched: fetched?.() ?? NOTHING_FETCHED,
    }));
    const { all, blobs } = await this.#sources.fetched();
    return formatMetrics({
      version: this.#options.version,
      mounts,
      blobs,
      fetched: all,
      totals: this.#stats(),
      mountsStarted: this.#started,
      mountsFailed: this.#failed,
      sources: await this.#sources.stats(),
      process: processUse(),
    });
  }

  /** Of all mounts since the start. */
  #stats(): SessionStats {
    return sumStats([this.#ended, ...[...this.#mounts.values()].map(({ session }) => session.stats())]);
  }

  #watchIdle(): void {
    clearTimeout(this.#idleTimer);
    if (this.#mounts.size > 0 || this.#starting.size > 0) return;
    this.#idleTimer = setTimeout(() => this.#onIdle(), this.#options.idleMs);
  }

  /**
   * Goes on with mounts that another process has served. One that cannot is ended, and its readers get errors: it does
   * not hold the others up.
   * @param entries of the holder
   * @param strict all or nothing: the other process lives, and goes on if this throws
   * @throws with `strict`, why one of them cannot go on; nothing has been served then
   */
  async resume(entries: readonly HandedEntry[], strict: boolean): Promise<void> {
    const mounts = entries.filter(({ entry }) => entry.plan.kind === "mount").map(({ entry }) => entry);
    // Before any image is opened: its data may be marked. And somebody has to answer, even if no mount can go on.
    if (entries.some(({ entry }) => entry.plan.kind === "fanotify")) this.#host("erofs");
    const resumed = this.#resumeAll(mounts, strict);
    this.#starting.add(resumed);
    this.#watchIdle();
    try {
      await resumed;
    } finally {
      this.#starting.delete(resumed);
      this.#watchIdle();
    }
  }

  async #resumeAll(mounts: readonly HeldEntry[], strict: boolean): Promise<void> {
    const goOn: (() => Promise<ServedMount>)[] = [];
    for await (const step of mapBounded(RESUMES_AT_ONCE, mounts, (entry) => this.#prepare(entry, strict))) {
      if (strict) goOn.push(step);
    }
    for (const one of goOn) this.#keep(await one(), "took over");
  }

  /** Opens the image of a mount, and unless all are to go on together, goes on with it. */
  async #prepare(entry: HeldEntry, strict: boolean): Promise<() => Promise<ServedMount>> {
    try {
      const opened = await withDeadline(RESUME_TIMEOUT_MS, "take mount over", (signal) => this.#open(entry, signal));
      if (!strict) this.#keep(await opened(), "took over");
      return opened;
    } catch (error) {
      if (strict) throw error;
      this.#giveUp(entry, asNydusError(error));
      return () => Promise.reject(error);
    }
  }

  async #open({ key, version, data }: HeldEntry, signal: AbortSignal): Promise<() => Promise<ServedMount>> {
    const { holder, log } = this.#options;
    if (version !== MOUNT_ENTRY_VERSION || holder === undefined) {
      throw new NydusError("ENOTSUP", `Cannot take mount over: its version ${version} is not known to this program`);
    }
    const mount = { key, data: data as HandedMount["data"], entry: (name: string) => holder.entry(name) };
    const { body, pin } = handedCall(mount);
    const bootstrap = holder.entry(mount.data.bootstrap)?.fd;
    if (bootstrap === undefined) throw new NydusError("EFAULT", "Cannot take mount over: its bootstrap is gone");
    const call = parseMountBody(body);
    log.write(`takes over ${call.shown} at ${call.mountpoint}`);
    const pinned = { pin: pin as ImagePin, map: () => mapOpenFile(bootstrap) };
    // The signal is that of the attempt; what is opened lives on.
    signal.throwIfAborted();
    return await resumeServing({ ...this.#hosted(call, this.#closing.signal, pinned), mount });
  }

  /** Ends a mount that nobody can serve. */
  #giveUp({ plan }: HeldEntry, error: NydusError): void {
    if (plan.kind !== "mount") return;
    this.#failed++;
    const { root, log } = this.#options;
    log.write(`cannot take over the mount at ${plan.mountpoint}: ${formatError(error)}; its readers get errors`);
    if (plan.engine === "fuse") abortFuseConnection(plan.minor);
    else if (findMount(plan.mountpoint)?.minor === plan.minor) unmount(plan.mountpoint, MNT_DETACH);
    const record = findRecord(root, plan.mountpoint);
    if (record?.state === "recovering") rewriteRecord(root, { ...record, holder: undefined });
  }

  /**
   * Gives all mounts to a successor. What asks for mounts meanwhile waits.
   * @returns the successor's pid: this process has nothing left to do
   * @throws EBUSY it has no holder, a mount cannot be handed over, or no successor serves; everything goes on here then
   */
  async handOver(command: readonly string[]): Promise<number> {
    const { holder, log } = this.#options;
    if (holder === undefined) throw new NydusError("EBUSY", "Cannot upgrade: this daemon has no holder process");
    if (this.#handingOver !== undefined) throw new NydusError("EBUSY", "Cannot upgrade: another upgrade is under way");
    let finish = (): void => undefined;
    this.#handingOver = new Promise((resolve) => {
      finish = resolve;
    });
    const stopped: ServedMount[] = [];
    const stop = async (): Promise<void> => {
      await Promise.allSettled(this.#starting);
      for (const mount of this.#mounts.values()) {
        stopped.push(mount);
        await mount.handOver();
      }
    };
    const goOn = async (): Promise<void> => {
      for (const mount of stopped) await mount.goOn().catch((error) => this.#lose(mount, asNydusError(error)));
    };
    try {
      log.write(`hands over to ${command[0]}`);
      const pid = await holder.handOver(command, { stop, goOn });
      log.write(`process ${pid} has taken over ${stopped.length} mounts`);
      this.#isHandedOver = true;
      this.close();
      this.#mounts.clear(); // they must not be unmounted by this process's end
      for (const mount of stopped) mount.leave();
      await Promise.allSettled(stopped.map(({ ended }) => ended));
      this.#onHandedOver();
      return pid;
    } catch (error) {
      log.write(`goes on: ${formatError(asNydusError(error))}`);
      throw error;
    } finally {
      this.#handingOver = undefined;
      finish();
    }
  }

  #lose({ record }: ServedMount, error: NydusError): void {
    this.#options.log.write(`lost ${record.image} at ${record.mountpoint} (${formatError(error)})`);
  }

  /** Another process is the holder now: says so in the records of mounts. */
  heldBy(holder: ProcessIdentity): void {
    for (const mount of this.#mounts.values()) mount.heldBy(holder);
  }

  /** Takes no more mounts, and ends the attempts under way. */
  close(): void {
    clearTimeout(this.#idleTimer);
    this.#closing.abort(new NydusError("ECANCELED", "Cannot mount: the daemon ends"));
  }

  /** Unmounts everything: at once what nobody uses, the rest when the second signal or the end of grace comes. */
  async end(signals: EndSignals, graceMs: number): Promise<void> {
    this.close();
    this.#memory[Symbol.dispose]();
    await Promise.allSettled(this.#starting);
    const mounts = [...this.#mounts.values()];
    await endAtSignals(mounts, signals, graceMs);
    await Promise.allSettled(mounts.map(({ session }) => session[Symbol.asyncDispose]()));
    await Promise.allSettled(mounts.map(({ ended }) => ended));
    for (const host of this.#hosts.values()) if (!host.isBroken) await host[Symbol.asyncDispose]();
    await this.#sources[Symbol.asyncDispose]();
  }

  /** For a program that exits without {@link end}. */
  leaveNothing(): void {
    for (const { record } of this.#mounts.values()) leaveNothing(this.#options.root, record);
  }
}
