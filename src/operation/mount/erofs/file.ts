import { closeSync, fstatSync, readSync } from "node:fs";
import { Semaphore, withDeadline } from "../../../base/async.ts";
import type { ByteRange } from "../../../base/bytes.ts";
import { asNydusError, NydusError } from "../../../base/errors.ts";
import { orAborted, throwIfAborted } from "../../../content/store/abort.ts";
import { type FanotifyGroup, markFile, unmarkFile } from "../../../os/fanotify.ts";
import { duplicate, forgetQuiet, keepQuiet, lockMarks, unlockMarks } from "../../../os/quiet-file.ts";
import { chunkCount, chunkTableOf, coveringTable } from "../chunk-table.ts";
import { MOUNT_DEFAULTS, type MountDevice } from "../engine.ts";
import { Counters, makeCounters } from "../session-counters.ts";
import type { TracedDevice } from "../trace/memory.ts";
import { dataEnd, type FileChunks, firstMissing, missingRuns, type RangeState, rangeState } from "./ranges.ts";
import type { WatchedFile } from "./thread.ts";

/** A mount's share in a data file. */
export interface FileUse {
  /** Undefined once its mount has been given up: what is ready may still be read. */
  readonly device: MountDevice | undefined;
  readonly data: FileChunks;
  readonly readTimeoutMs: number;
  readonly onError: (error: NydusError) => void;
  /** Notes reads of the file, whichever mount they come from. */
  readonly traced?: TracedDevice | undefined;
}

/** Reads that wait for data at once; more wait in order before they ask for any. */
const DEMAND_LIMIT = 64;
/** How much later than the main thread the other one gives up. */
const LAST_RESORT_MS = 5_000;
const MAIN_ROW = 1;

/**
 * One data file: its mark, and all mounts that have it as a device. The kernel does not say which of them reads, so
 * what any image knows of the file counts.
 */
export class MarkedFile {
  readonly id: number;
  readonly dev: number;
  readonly ino: number;
  /** Opened before the mark. */
  readonly fd: number;
  readonly uses = new Set<FileUse>();
  readonly counters = makeCounters(1);
  readonly #group: FanotifyGroup;
  readonly #places: Semaphore;
  readonly #beyond = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT));
  /** Where each use's first missing chunk was last seen. */
  readonly #cursors = new WeakMap<FileUse, number>();
  #isMarked = false;
  #marks = 0;

  /** @throws EBUSY another process has marked the file */
  constructor(id: number, fd: number, { group, places }: { group: FanotifyGroup; places: Semaphore }) {
    this.id = id;
    this.#group = group;
    this.#places = places;
    const { dev, ino } = fstatSync(fd);
    [this.dev, this.ino] = [dev, ino];
    this.fd = duplicate(fd);
    try {
      if (!lockMarks(this.fd)) {
        throw new NydusError("EBUSY", "Cannot mount by EROFS: another process has the kernel ask it about this data");
      }
      keepQuiet(this.fd);
    } catch (error) {
      closeSync(this.fd);
      throw error;
    }
  }

  /** Has the kernel ask before it reads. The thread must know the file. @throws ENOTSUP; EBUSY as {@link probe} */
  mark(fd: number): void {
    this.markAgain();
    this.#probe(fd);
  }

  /** The same for who has not opened the file, but got a descriptor that asks nobody. @throws ENOTSUP */
  markAgain(): void {
    if (!this.#isMarked) markFile(this.#group, this.fd);
    this.#isMarked = true;
    this.#marks++;
  }

  /** Whether a range may be read. */
  stateOf(range: ByteRange): RangeState {
    return rangeState(this.#data(), range);
  }

  /** Reading behind the data asks too: who would ask itself when it writes must not fill the file. */
  #probe(fd: number): void {
    const asked = Atomics.load(this.#beyond, 0);
    readSync(fd, new Uint8Array(1), 0, 1, fstatSync(fd).size);
    if (Atomics.load(this.#beyond, 0) === asked) return;
    throw new NydusError("EBUSY", "Cannot mount by EROFS: its data was opened while another process had marked it");
  }

  get isMarked(): boolean {
    return this.#isMarked;
  }

  /** End of what any image knows of the file. */
  get dataEnd(): number {
    return Math.max(0, ...[...this.uses].map(({ data }) => dataEnd(data.chunks)));
  }

  /** What the thread is to know. */
  watched(): WatchedFile {
    const timeouts = [...this.uses].map(({ readTimeoutMs }) => readTimeoutMs);
    const images = [...new Map([...this.uses].map(({ data }) => [data.ready, data])).values()];
    const { id, dev, ino, counters } = this;
    const lastResortMs = Math.max(0, ...timeouts) + LAST_RESORT_MS;
    const traced = [...this.uses].flatMap((use) => use.traced ?? []);
    return { id, dev, ino, images, counters, beyond: this.#beyond, lastResortMs, traced };
  }

  /** Takes the mark away when nothing is missing in any image, durably; it comes back with the next mount. */
  async unmarkIfComplete(): Promise<void> {
    if (!this.#isMarked || !this.#isComplete()) return;
    const marks = this.#marks;
    try {
      for (const { device } of this.uses) await device?.flush?.();
    } catch {
      return; // tried again the next time
    }
    // What could not be made durable is not ready any more; a mount may have come meanwhile.
    for (const use of this.uses) this.#cursors.delete(use);
    if (!this.#isMarked || marks !== this.#marks || !this.#isComplete()) return;
    unmarkFile(this.#group, this.fd);
    this.#isMarked = false;
  }

  #isComplete(): boolean {
    return [...this.uses].every((use) => {
      const first = firstMissing(use.data, this.#cursors.get(use) ?? 0);
      this.#cursors.set(use, first);
      // A trace wants to be asked for what is ready, too.
      return use.device !== undefined && use.traced === undefined && first === chunkCount(use.data.chunks);
    });
  }

  /**
   * Brings what a read wants.
   * @returns whether it may go on; each failure has been reported
   */
  async fill(range: ByteRange): Promise<boolean> {
    const counted = new Counters(this.counters, MAIN_ROW).startWaiting();
    const failure = await this.#fill(range);
    counted(failure ?? range.end - range.start);
    return failure === undefined;
  }

  /** @returns why the read must fail */
  async #fill(range: ByteRange): Promise<NydusError | undefined> {
    const timeoutMs = Math.min(...[...this.uses].map(({ readTimeoutMs }) => readTimeoutMs));
    let failure: NydusError | undefined;
    try {
      await withDeadline(timeoutMs, "read file data", (signal) =>
        this.#places.hold(() => orAborted(this.#bring(range, signal), signal)),
      );
    } catch (error) {
      failure = asNydusError(error, { offset: range.start, length: range.end - range.start });
    }
    // Another image may have brought what this one could not.
    if (rangeState(this.#data(), range) === "ready") return undefined;
    failure ??= new NydusError("EFAULT", "Cannot read file data: fetched, but not ready");
    this.report(failure);
    return failure;
  }

  async #bring(range: ByteRange, signal: AbortSignal): Promise<void> {
    throwIfAborted(signal);
    await Promise.all([...this.uses].map((use) => bringOne(use, range, signal)));
  }

  #data(): FileChunks[] {
    return [...this.uses].map(({ data }) => data);
  }

  report(error: NydusError): void {
    for (const { onError } of this.uses) onError(error);
  }

  /** Closes the descriptors only: mark and lock are another process's. */
  leave(): void {
    forgetQuiet(this.fd);
    closeSync(this.fd);
  }

  /** Nobody reads it any more. */
  close(): void {
    try {
      if (this.#isMarked) unmarkFile(this.#group, this.fd);
    } finally {
      this.#isMarked = false;
      forgetQuiet(this.fd);
      unlockMarks(this.fd);
      closeSync(this.fd);
    }
  }
}

async function bringOne({ device, data }: FileUse, range: ByteRange, signal: AbortSignal): Promise<void> {
  const runs = missingRuns(data, range);
  if (runs.length === 0) return;
  if (device === undefined) throw new NydusError("ECANCELED", "Cannot read file data: its mount has been given up");
  await Promise.all(runs.map((run) => device.ensure(run, { why: "demand", signal })));
}

/** A device as a mount uses it. */
export function useOf(device: MountDevice, rest: Pick<FileUse, "readTimeoutMs" | "onError" | "traced">): FileUse {
  return { device, data: { chunks: chunkTableOf(device.chunks), ready: device.ready }, ...rest };
}

/** Of a mount that nobody serves any more: all that no other mount has ready fails. @param fd of the data file */
export function useOfLost(fd: number): FileUse {
  const { size } = fstatSync(fd);
  const chunks = coveringTable(size);
  const ready = new Uint8Array(new SharedArrayBuffer(Math.ceil(chunkCount(chunks) / 8)));
  const data = { chunks, ready };
  return { device: undefined, data, readTimeoutMs: MOUNT_DEFAULTS.readTimeoutMs, onError: () => undefined };
}

/** Places for reads that wait for data, of one process. */
export function demandPlaces(): Semaphore {
  return new Semaphore(DEMAND_LIMIT);
}
