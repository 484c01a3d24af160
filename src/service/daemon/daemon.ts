import { asNydusError, formatError, NydusError } from "../../base/errors.ts";
import { NOTHING_FETCHED } from "../../content/cache/fetch-meter.ts";
import { MountSources } from "../../operation/image/mount-source.ts";
import { MOUNT_DEFAULTS, type MountHost, type SessionStats } from "../../operation/mount/engine.ts";
import { DEFAULT_ENGINE, ENGINES, type EngineName } from "../../operation/mount/engines.ts";
import { listMounts, type MountRecord } from "../../operation/mount/mount-record.ts";
import { type EndSignals, endAtSignals } from "../../operation/mount/serve.ts";
import { leaveNothing, type ServedMount, startServing } from "../../operation/mount/served-mount.ts";
import { sumStats } from "../../operation/mount/session-counters.ts";
import { umountMount } from "../../operation/mount/umount.ts";
import { watchMemory } from "../../os/memory.ts";
import { API_NUMBER, type DaemonStatus, type MountCall, type MountInfo } from "./api.ts";
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
  /** How long without a mount until {@link Daemon.idle}. */
  readonly idleMs: number;
}

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
  #onIdle: () => void = () => undefined;
  #idleTimer: ReturnType<typeof setTimeout> | undefined;
  #ended: SessionStats = sumStats([]);
  #started = 0;
  #failed = 0;

  constructor(options: DaemonOptions) {
    this.#options = options;
    this.#sources = new MountSources(options.root);
    this.idle = new Promise((resolve) => {
      this.#onIdle = resolve;
    });
    this.#memory = watchMemory(() => this.#started + this.#stats().requests);
    this.#watchIdle();
  }

  /** Whether it takes no more mounts: it is about to end. */
  get isClosing(): boolean {
    return this.#closing.signal.aborted;
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
    const { root, log } = this.#options;
    const { image, shown, mountpoint, engine, readTimeoutMs, flags, prefetch, prefetchBytesPerSec, trace } = call;
    const onError = (error: NydusError): void => log.write(`${shown} at ${mountpoint}: ${formatError(error)}`);
    const mount = await startServing({
      root,
      mountpoint,
      image: shown,
      engine,
      flags,
      readTimeoutMs,
      trace,
      host: this.#host(engine),
      open: () => this.#sources.open(image, { readTimeoutMs, signal, prefetch, prefetchBytesPerSec, onError }),
      signal,
      onError,
    });
    this.#keep(mount);
    if (!signal.aborted) return mount;
    // Whoever asked is gone, and nobody would unmount what came too late.
    await mount.session[Symbol.asyncDispose]();
    throw asNydusError(signal.reason);
  }

  #keep(mount: ServedMount): void {
    const { record, session, ended } = mount;
    const { log } = this.#options;
    this.#mounts.set(record.id + record.startedAt, mount);
    this.#started++;
    log.write(`mounted ${record.image} at ${record.mountpoint}`);
    const forget = (how: string): void => {
      this.#mounts.delete(record.id + record.startedAt);
      this.#ended = sumStats([this.#ended, session.stats()]);
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
    const { log } = this.#options;
    const host = ENGINES[engine].open({ threads: this.#threads, onChoice: (line) => log.write(line) });
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
