import { asNydusError, NydusError } from "../../base/errors.ts";
import type { FetchStats } from "../../content/cache/fetch-meter.ts";
import { Closers } from "../../content/store/closers.ts";
import type { MappedFile } from "../../os/mmap.ts";
import { checkMountpoint, MNT_DETACH, resolveMountpoint, unmount } from "../../os/mount.ts";
import type { ProcessIdentity } from "../../os/process.ts";
import type { HandedMount, MountDevice, MountHost, MountOptions, MountSession } from "./engine.ts";
import type { EngineName } from "./engines.ts";
import type { HolderClient } from "./holder/client.ts";
import { DEFAULT_MOUNT_FLAGS } from "./mount-flags.ts";
import {
  claimMount,
  findRecord,
  isLost,
  isOurMount,
  type MountRecord,
  markReady,
  ownRecord,
  recordPath,
  removeRecord,
  rewriteRecord,
} from "./mount-record.ts";
import { AccessTrace } from "./trace/access-trace.ts";
import { TraceFile } from "./trace/file.ts";

/** An image opened for mounting; disposing closes its devices. */
export interface MountSource extends AsyncDisposable {
  readonly bootstrap: MappedFile;
  /** `devices[slot - 1]`. */
  readonly devices: readonly MountDevice[];
  /** What opens the same image again, whatever its name means by then; JSON. */
  readonly pin?: unknown;
  /** Hex digits of the blobs behind the devices. */
  readonly blobs?: readonly string[];
  /** What has been fetched because of this mount. */
  readonly fetched?: () => FetchStats;
}

/** What a mount is served with, whoever has made it. */
interface HostedOptions extends Pick<MountOptions, "readTimeoutMs" | "flags" | "onError"> {
  /** Directory of all state. */
  readonly root: string;
  /** Of the engine that the mount has. */
  readonly host: MountHost;
  /** Opens the image; called once the mount point is ours. */
  readonly open: () => Promise<MountSource>;
  /** Ends the start, if it is aborted before the mount is made. */
  readonly signal: AbortSignal;
  /** Keeps the mount, and what {@link callOf} says, for a successor of this process. */
  readonly holder?: HolderClient | undefined;
  /** What a successor needs to open the image again; JSON. Without it there is none. */
  readonly callOf?: ((source: MountSource) => unknown) | undefined;
}

/** What {@link startServing} needs. */
export interface ServingOptions extends HostedOptions {
  readonly mountpoint: string;
  /** What the user called the image, for `nydus mounts`. */
  readonly image: string;
  readonly engine: EngineName;
  /** Absolute path of a file to write first accesses to, as `AccessTrace` has it. */
  readonly trace?: string | undefined;
}

/** What {@link resumeServing} needs. */
export interface ResumeOptions extends HostedOptions {
  readonly mount: HandedMount;
}

/** {@link MountHanding.call} of all mounts. */
interface HandedCall {
  readonly record: MountRecord;
  /** What {@link HostedOptions.callOf} said. */
  readonly call: unknown;
}

/** What `callOf` said about a mount that is handed over. */
export function handedCall({ data }: HandedMount): { readonly body?: unknown; readonly pin?: unknown } {
  const { call } = (data.call ?? {}) as Partial<HandedCall>;
  return typeof call === "object" && call !== null ? call : {};
}

/** A mount that answers. */
export interface ServedMount {
  readonly record: MountRecord;
  readonly session: MountSession;
  /** What has been fetched because of it. */
  readonly fetched?: (() => FetchStats) | undefined;
  /** Resolves when the mount has ended and image and record are gone too; rejects when serving broke down. */
  readonly ended: Promise<void>;
  /** Stops to serve, so that another process can; {@link goOn} undoes it. @throws EBUSY nobody holds the mount */
  handOver(): Promise<void>;
  goOn(): Promise<void>;
  /** Another process serves the mount: all that is left of it here is released. */
  leave(): void;
  /** Another process holds the mount. */
  heldBy(holder: ProcessIdentity): void;
}

/** So many messages each so long reach the log; a broken disk must not fill another. */
const REPORT_LIMIT = 50;
const REPORT_WINDOW_MS = 60_000;

/**
 * Mounts an image in this process, with a record of it. A start that fails leaves neither mount nor record.
 * @returns when the mount answers
 * @throws EBUSY, ENOENT, EINVAL mount point; EPERM; the signal's reason; what `open` and `TraceFile.open` throw
 */
export async function startServing(options: ServingOptions): Promise<ServedMount> {
  const { root, image, engine, signal, flags = DEFAULT_MOUNT_FLAGS } = options;
  removeDeadMount(root, options.mountpoint);
  const mountpoint = checkMountpoint(options.mountpoint);
  const record = claimMount(root, { mountpoint, image, engine, type: `fuse.${flags.subtype}` });
  await using stack = new Closers();
  stack.defer(() => removeRecord(root, record));
  const file = options.trace === undefined ? undefined : stack.use(await TraceFile.open(options.trace));
  const source = stack.use(await options.open());
  const trace = file && stack.use(new AccessTrace({ file, source, onError: options.onError }));
  signal.throwIfAborted();
  const mountOptions = { ...mountOptionsOf(options, record, source), trace: trace?.memory };
  const session = await options.host.mount(mountOptions);
  trace?.start();
  const held = { ...record, ...session.kind, holder: options.holder?.identity };
  const ready = markReady(root, held, source.blobs);
  return new Served({ options, mountOptions, source, record: ready, session, trace, owned: stack.move() });
}

/**
 * Opens the image of a mount that another process has served.
 * @returns goes on with the mount; to be called once
 * @throws EUCLEAN what was handed over makes no sense; ENOTSUP its engine cannot; what `open` throws
 */
export async function resumeServing(options: ResumeOptions): Promise<() => Promise<ServedMount>> {
  const { root, host, mount, holder } = options;
  const record = recordOf(root, mount);
  const { resume } = host;
  if (resume === undefined) throw new NydusError("ENOTSUP", "Cannot take mount over: its engine cannot");
  await using stack = new Closers();
  let own: MountRecord | undefined;
  stack.defer(() => own && removeRecord(root, own));
  const source = stack.use(await options.open());
  const mountOptions = mountOptionsOf(options, record, source);
  const owned = stack.move();
  return async () => {
    try {
      const session = await resume.call(host, mountOptions, mount);
      const taken = { ...record, ...session.kind, blobs: source.blobs ?? [] };
      own = rewriteRecord(root, ownRecord(taken, holder?.identity));
      return new Served({ options, mountOptions, source, record: own, session, owned });
    } catch (error) {
      await owned[Symbol.asyncDispose]();
      throw error;
    }
  };
}

/** As it is on disk, if it is: there it says more than what was handed over when the mount was made. */
function recordOf(root: string, { data }: HandedMount): MountRecord {
  const { record } = data.call as HandedCall;
  const { state: _, ...found } = findRecord(root, record.mountpoint) ?? { ...record, state: undefined };
  return found.startedAt === record.startedAt ? found : record;
}

function mountOptionsOf(options: HostedOptions, record: MountRecord, source: MountSource): MountOptions {
  const { root, readTimeoutMs, flags, callOf } = options;
  const onError = limitReports(options.onError);
  const { mountpoint } = record;
  const call: HandedCall | undefined = callOf && { record, call: callOf(source) };
  const handing = call && { id: record.id + record.startedAt, recordPath: recordPath(root, record.id), call };
  return {
    root,
    mountpoint,
    bootstrap: source.bootstrap,
    devices: source.devices,
    readTimeoutMs,
    flags,
    handing,
    onError,
  };
}

interface ServedParts {
  readonly options: HostedOptions;
  readonly mountOptions: MountOptions;
  readonly source: MountSource;
  readonly record: MountRecord;
  readonly session: MountSession;
  readonly trace?: AccessTrace | undefined;
  /** Closes the image and removes the record. */
  readonly owned: Closers;
}

class Served implements ServedMount {
  record: MountRecord;
  session: MountSession;
  readonly fetched: ServedMount["fetched"];
  readonly ended: Promise<void>;
  readonly #parts: ServedParts;
  #handed: HandedMount | undefined;
  #settle: (done: Promise<void>) => void = () => undefined;

  constructor(parts: ServedParts) {
    this.#parts = parts;
    this.record = parts.record;
    this.session = parts.session;
    this.fetched = parts.source.fetched;
    const done = new Promise<void>((resolve) => {
      this.#settle = resolve;
    });
    this.ended = done.finally(() => parts.owned[Symbol.asyncDispose]());
    this.ended.catch(() => undefined); // who does not look at it is not to crash
    this.#follow();
  }

  /** A session that is handed over does not end. */
  #follow(): void {
    const { done } = this.session;
    const settle = (): void => this.#settle(done);
    done.then(settle, settle);
  }

  async handOver(): Promise<void> {
    const { session } = this;
    if (session.handOver === undefined) throw new NydusError("ENOTSUP", "Cannot hand mount over: its engine cannot");
    this.#handed = await session.handOver();
    await this.#parts.trace?.flush();
  }

  async goOn(): Promise<void> {
    const { options, mountOptions } = this.#parts;
    if (this.#handed === undefined) return;
    const session = await options.host.resume?.(mountOptions, this.#handed);
    this.#handed = undefined;
    if (session === undefined) return;
    this.session = session;
    this.#follow();
  }

  leave(): void {
    this.#settle(Promise.resolve());
  }

  heldBy(holder: ProcessIdentity): void {
    this.record = rewriteRecord(this.#parts.options.root, { ...this.record, holder });
  }
}

/** A mount whose process was killed is in the way of its successor, and of no use to anyone. */
function removeDeadMount(root: string, path: string): void {
  const mountpoint = resolveMountpoint(path);
  const record = findRecord(root, mountpoint);
  if (record === undefined || !isLost(record.state)) return;
  unmount(mountpoint, MNT_DETACH);
  removeRecord(root, record);
}

/** Takes the mount of a record away should the program exit with it: without a server it would fail everyone. */
export function leaveNothing(root: string, record: MountRecord): void {
  if (isOurMount(record)) unmount(record.mountpoint, MNT_DETACH);
  removeRecord(root, record);
}

/** Passes on so many errors in each span of time and drops the rest. */
function limitReports(report: ((error: NydusError) => void) | undefined): ((error: NydusError) => void) | undefined {
  if (report === undefined) return undefined;
  let windowStart = 0;
  let count = 0;
  return (error) => {
    const now = performance.now();
    if (count === 0 || now - windowStart > REPORT_WINDOW_MS) {
      windowStart = now;
      count = 0;
    }
    count++;
    if (count <= REPORT_LIMIT) report(asNydusError(error));
  };
}
