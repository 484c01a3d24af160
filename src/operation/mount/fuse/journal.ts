import { InHeader } from "../../../format/fuse/abi.ts";
import { makeSharedMemory, mapShared, type SharedMapping, type SharedMemory, viewMapping } from "../../../os/mmap.ts";
import type { HandedEntry } from "../holder/client.ts";
import { freshKey, type HeldEntry, plainEntry } from "../holder/protocol.ts";
import { REQUEST_BYTES } from "./server.ts";

/** Reads of one thread that wait for data; more are refused. */
const SLOTS = 2_048;
const SLOT_BYTES = 8;
const THREAD_BYTES = REQUEST_BYTES + SLOTS * SLOT_BYTES;
const JOURNAL_VERSION = 1;

/**
 * What FUSE threads have read and not answered, in memory that the holder process has too: for kernels that do not send
 * such requests again. A request is read into it, so that there is no moment in which it is known to nobody.
 */
export class FuseJournal implements Disposable {
  readonly entry: HeldEntry;
  /** For the threads: each has its part. */
  readonly shared: SharedMapping;
  readonly fd: number;
  readonly #memory: SharedMemory;
  readonly #parts: readonly JournalPart[];

  /** @throws EIO no memory or descriptor left */
  constructor(threads: number) {
    this.#memory = makeSharedMemory("nydus-fuse-journal", threads * THREAD_BYTES);
    this.fd = this.#memory.fd;
    this.shared = this.#memory.mapping;
    this.#parts = Array.from({ length: threads }, (_, thread) => new JournalPart(this.shared, thread));
    this.entry = plainEntry(freshKey("journal"), JOURNAL_VERSION, { threads });
  }

  /** A read that waited has been answered. */
  remove(unique: bigint): void {
    for (const part of this.#parts) if (part.remove(unique)) return;
  }

  [Symbol.dispose](): void {
    this.#memory[Symbol.dispose]();
  }
}

/** The part of one thread. Only that thread adds to it. */
export class JournalPart {
  /** Requests are read into this. */
  readonly request: Uint8Array;
  readonly #length: Uint32Array;
  readonly #slots: BigUint64Array;

  constructor(shared: SharedMapping, thread: number) {
    const { buffer, byteOffset } = viewMapping(shared);
    const start = byteOffset + thread * THREAD_BYTES;
    this.request = new Uint8Array(buffer, start, REQUEST_BYTES);
    this.#length = new Uint32Array(buffer, start, 1);
    this.#slots = new BigUint64Array(buffer, start + REQUEST_BYTES, SLOTS);
  }

  /** The request in {@link request} waits for data. @returns false when there is no room */
  add(unique: bigint): boolean {
    const slot = this.#slots.indexOf(0n);
    if (slot >= 0) this.#slots[slot] = unique;
    return slot >= 0;
  }

  /** @returns whether it was here */
  remove(unique: bigint): boolean {
    const slot = this.#slots.indexOf(unique);
    if (slot >= 0) this.#slots[slot] = 0n;
    return slot >= 0;
  }

  /** The request in {@link request} has been answered, or added. */
  finish(): void {
    this.#length[0] = 0;
  }

  /** All that has not been answered. */
  left(): bigint[] {
    const view = new DataView(this.request.buffer, this.request.byteOffset, InHeader.sizeBytes);
    const current = this.#length[0] === 0 ? [] : [view.getBigUint64(InHeader.at.unique, true)];
    return [...current, ...this.#slots.filter((unique) => unique !== 0n)];
  }
}

/** What a process that has died has not answered, by its journal. @returns undefined: of a version that is not known */
export function readJournal({ entry, fd }: HandedEntry): bigint[] | undefined {
  const { threads } = (entry.data ?? {}) as { readonly threads?: unknown };
  if (entry.version !== JOURNAL_VERSION || fd === undefined || typeof threads !== "number") return undefined;
  const { address, bytes, unmap } = mapShared(fd);
  try {
    if (bytes.length !== threads * THREAD_BYTES) return undefined;
    const shared = { address, sizeBytes: bytes.length };
    return Array.from({ length: threads }, (_, thread) => new JournalPart(shared, thread).left()).flat();
  } finally {
    unmap();
  }
}
