import type { ByteRange } from "../../../base/bytes.ts";
import { decodeEvents, EventMetadata, RANGE_EVENT_BYTES } from "../../../format/fanotify/event.ts";
import { makeSharedMemory, mapShared, type SharedMapping, type SharedMemory, viewMapping } from "../../../os/mmap.ts";
import type { HandedEntry } from "../holder/client.ts";
import { freshKey, type HeldEntry, plainEntry } from "../holder/protocol.ts";

/** Kind of the holder's entries for journals. */
export const JOURNAL_KIND = "events";
const JOURNAL_VERSION = 1;
/** Events read at once. */
export const JOURNAL_BATCH = 64;
/** In front: the highest number that an event's descriptor had. */
const BATCH_AT = 64;
const SLOTS_AT = 4096;
/** A descriptor's number (0 for none), then device, inode, start and end, each a double. */
const SLOT_BYTES = 40;

/** An event that has been read, and perhaps not answered. */
export interface JournaledEvent {
  /** Of its descriptor, in the process that has read it. */
  readonly fd: number;
  /** Undefined where the event does not say. */
  readonly range: ByteRange | undefined;
  /** Which file; undefined where nobody has looked yet. */
  readonly file: { readonly dev: number; readonly ino: number } | undefined;
}

/**
 * Events in hand, in memory that the holder process has too. They are read into it, so that there is no moment in which
 * one is known to nobody: the kernel does not send it again.
 */
export class ErofsJournal implements Disposable {
  readonly entry: HeldEntry;
  /** For the thread. */
  readonly shared: SharedMapping;
  readonly fd: number;
  readonly #memory: SharedMemory;

  /** @param slots as `EventSlots` @throws EIO no memory or descriptor left */
  constructor(slots: number) {
    this.#memory = makeSharedMemory("nydus-events", SLOTS_AT + slots * SLOT_BYTES);
    this.fd = this.#memory.fd;
    this.shared = this.#memory.mapping;
    this.entry = plainEntry(freshKey(JOURNAL_KIND), JOURNAL_VERSION, { slots });
  }

  [Symbol.dispose](): void {
    this.#memory[Symbol.dispose]();
  }
}

/** A journal, as a thread reads and writes it. */
export class JournalView {
  /** Events are read into this. */
  readonly batch: Uint8Array;
  readonly #highest: Int32Array;
  readonly #slots: DataView;

  constructor(shared: SharedMapping) {
    const { buffer, byteOffset, length } = viewMapping(shared);
    this.#highest = new Int32Array(buffer, byteOffset, 1);
    this.batch = new Uint8Array(buffer, byteOffset + BATCH_AT, JOURNAL_BATCH * RANGE_EVENT_BYTES);
    this.#slots = new DataView(buffer, byteOffset + SLOTS_AT, length - SLOTS_AT);
  }

  /** The highest number that an event's descriptor had. */
  get highestFd(): number {
    return this.#highest[0] ?? 0;
  }

  /** An event of the batch has been taken. */
  noteFd(fd: number): void {
    if (fd > this.highestFd) this.#highest[0] = fd;
  }

  /** An event waits for data. */
  add(slot: number, fd: number, file: { readonly dev: number; readonly ino: number }, range: ByteRange): void {
    const at = slot * SLOT_BYTES;
    this.#slots.setFloat64(at + 8, file.dev, true);
    this.#slots.setFloat64(at + 16, file.ino, true);
    this.#slots.setFloat64(at + 24, range.start, true);
    this.#slots.setFloat64(at + 32, range.end, true);
    this.#slots.setInt32(at, fd, true);
  }

  /** It has been answered. Before that it must not be cleared: who is then killed would have it forgotten. */
  clear(slot: number): void {
    this.#slots.setInt32(slot * SLOT_BYTES, 0, true);
  }

  /** All events of the batch have been answered or added. */
  clearBatch(): void {
    this.batch.fill(0);
  }

  /** An event has been answered, wherever it is. */
  forget(fd: number): void {
    for (let slot = 0; slot < this.#count; slot++) if (this.#fdOf(slot) === fd) this.clear(slot);
  }

  get #count(): number {
    return Math.floor(this.#slots.byteLength / SLOT_BYTES);
  }

  #fdOf(slot: number): number {
    return this.#slots.getInt32(slot * SLOT_BYTES, true);
  }

  /** All that may not have been answered. One number may be there twice: the one that waits is one of the two. */
  left(): JournaledEvent[] {
    const events: JournaledEvent[] = [];
    for (let slot = 0; slot < this.#count; slot++) {
      const fd = this.#fdOf(slot);
      const at = slot * SLOT_BYTES;
      const [dev, ino, start, end] = [8, 16, 24, 32].map((field) => this.#slots.getFloat64(at + field, true));
      if (fd !== 0 && dev !== undefined && ino !== undefined && start !== undefined && end !== undefined) {
        events.push({ fd, file: { dev, ino }, range: { start, end } });
      }
    }
    for (const event of decodeEvents(this.batch.subarray(0, this.#batchLength()))) {
      if (event.kind === "access") events.push({ fd: event.fd, range: event.range, file: undefined });
    }
    return events;
  }

  /** Up to the first event that is not there. */
  #batchLength(): number {
    const view = new DataView(this.batch.buffer, this.batch.byteOffset, this.batch.length);
    let at = 0;
    while (at + EventMetadata.sizeBytes <= this.batch.length) {
      const length = view.getUint32(at + EventMetadata.at.eventLen, true);
      if (length === 0 || at + length > this.batch.length) break;
      at += length;
    }
    return at;
  }
}

/** The journal of a process that has died. Its memory stays mapped. @returns undefined: of a version that is not known */
export function openJournal({ entry, fd }: HandedEntry): JournalView | undefined {
  const { slots } = (entry.data ?? {}) as { readonly slots?: unknown };
  if (entry.version !== JOURNAL_VERSION || fd === undefined || typeof slots !== "number") return undefined;
  const { address, bytes } = mapShared(fd);
  if (bytes.length !== SLOTS_AT + slots * SLOT_BYTES) return undefined;
  return new JournalView({ address, sizeBytes: bytes.length });
}
