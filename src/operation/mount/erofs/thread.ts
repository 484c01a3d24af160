import { closeSync, fstatSync, openSync } from "node:fs";
import { constants } from "node:os";
import { type MessagePort, receiveMessageOnPort } from "node:worker_threads";
import type { ByteRange } from "../../../base/bytes.ts";
import { asNydusError } from "../../../base/errors.ts";
import type { FanotifyEvent } from "../../../format/fanotify/event.ts";
import { addToPoll, addUrgentToPoll, type PollHandle, PollWaiter, removeFromPoll } from "../../../os/event-poll.ts";
import { type FanotifyGroup, readEvents, settleEvent } from "../../../os/fanotify.ts";
import { collectYoung, releaseMemory } from "../../../os/memory.ts";
import type { SharedMapping } from "../../../os/mmap.ts";
import { serveThread } from "../../../os/thread.ts";
import { type CounterMemory, Counters } from "../session-counters.ts";
import { noteAccess, type TracedDevice } from "../trace/memory.ts";
import { JOURNAL_BATCH, JournalView } from "./journal.ts";
import { dataEnd, type FileChunks, rangeState } from "./ranges.ts";
import { EventSlots, type SlotTicket } from "./slots.ts";

/** The name of this thread's work in `main.ts`' table. */
export const EROFS_ROLE = "erofs";

/** Where {@link EROFS_ROLE} is served: this module, or the bundle that holds it. */
export const erofsThreadUrl = import.meta.url;

/** What the thread is started with. */
export interface ErofsThreadData {
  readonly group: FanotifyGroup;
  readonly poll: PollHandle;
  /** Brings {@link ErofsOrder}s, each with a wake-up of the poll set. */
  readonly orders: MessagePort;
  readonly slots: Int32Array<SharedArrayBuffer>;
  /** Element 0 is 1 while the thread takes no events because all slots are taken: wake it when one is free. */
  readonly starved: Int32Array<SharedArrayBuffer>;
  readonly journal: SharedMapping;
  /** Whether it takes events from the start on. */
  readonly serves: boolean;
}

/** A data file as the thread knows it. */
export interface WatchedFile {
  readonly id: number;
  readonly dev: number;
  readonly ino: number;
  readonly images: readonly FileChunks[];
  readonly counters: CounterMemory;
  /** Counts reads behind all data. */
  readonly beyond: Int32Array<SharedArrayBuffer>;
  /** After so long the thread itself fails a read that the main thread has not answered. */
  readonly lastResortMs: number;
  /** Whose mounts are traced. */
  readonly traced: readonly TracedDevice[];
}

/** What the main thread tells. */
export type ErofsOrder =
  /** Takes the place of what was known under the id. */
  | { readonly kind: "watch"; readonly file: WatchedFile; readonly order: number }
  /** From now on reads of it fail. */
  | { readonly kind: "forget"; readonly id: number; readonly order: number }
  /** Whether events are taken; until then they wait in the kernel's queue. */
  | { readonly kind: "serve"; readonly isOn: boolean; readonly order: number }
  | { readonly kind: "close" };

/** What the thread tells the main thread. */
export type ErofsMessage =
  /** An order has been taken. */
  | { readonly kind: "done"; readonly order: number }
  /** A read waits for data: whoever claims the ticket answers. */
  | {
      readonly kind: "missing";
      readonly id: number;
      readonly ticket: SlotTicket;
      readonly eventFd: number;
      readonly range: ByteRange;
    }
  | { readonly kind: "refused"; readonly id: number | undefined; readonly message: string; readonly offset: number }
  /** Something was mounted or unmounted. */
  | { readonly kind: "mounts" }
  /** Reads may have gone on unasked. */
  | { readonly kind: "overflow" }
  | { readonly kind: "closed" };

const GROUP_KEY = 1;
const MOUNTS_KEY = 2;
const EIO = constants.errno.EIO;
const EVENTS_PER_COLLECTION = 1024;
const TICK_MS = 1_000;

/** A file with this thread's part of its counters. */
interface CountedFile extends WatchedFile {
  readonly count: Counters;
}

interface Pending {
  readonly id: number;
  readonly ticket: SlotTicket;
  readonly eventFd: number;
  readonly expiresAt: number;
}

/** Answers reads of what is ready and hands the others to the main thread. Blocks its thread. */
class ErofsThreadLoop {
  readonly #data: ErofsThreadData;
  readonly #post: (message: ErofsMessage) => void;
  readonly #slots: EventSlots;
  readonly #journal: JournalView;
  /** By inode number; of several file systems. */
  readonly #files = new Map<number, CountedFile[]>();
  #pending: Pending[] = [];
  #served = 0;
  #serves: boolean;
  #polls = false;

  constructor(data: ErofsThreadData, post: (message: ErofsMessage) => void) {
    this.#data = data;
    this.#post = post;
    this.#slots = new EventSlots(data.slots);
    this.#journal = new JournalView(data.journal);
    this.#serves = data.serves;
  }

  /** Returns at the order to close. */
  run(): void {
    const { poll } = this.#data;
    const mounts = openSync("/proc/self/mountinfo", "r");
    this.#resume();
    addUrgentToPoll(poll, mounts, MOUNTS_KEY);
    const waiter = new PollWaiter(poll);
    const onReady = (key: number): void => {
      if (key === GROUP_KEY) this.#takeEvents();
      else if (key === MOUNTS_KEY) this.#post({ kind: "mounts" });
    };
    try {
      for (;;) {
        const end = waiter.wait(onReady, this.#served > 0 || this.#pending.length > 0 || !this.#polls ? TICK_MS : -1);
        if (end === "woken" && !this.#takeOrders()) return;
        if (end === "late") this.#rest();
        this.#resume();
        this.#expire();
      }
    } finally {
      closeSync(mounts);
    }
  }

  #rest(): void {
    if (this.#served > 0) releaseMemory();
    this.#served = 0;
  }

  /** @returns false at the order to close */
  #takeOrders(): boolean {
    for (;;) {
      const order = receiveMessageOnPort(this.#data.orders)?.message as ErofsOrder | undefined;
      if (order === undefined) return true;
      if (order.kind === "close") return false;
      if (order.kind === "serve") this.#setServing(order.isOn);
      else
        this.#setFile(
          order.kind === "watch" ? order.file.id : order.id,
          order.kind === "watch" ? order.file : undefined,
        );
      this.#post({ kind: "done", order: order.order });
    }
  }

  /** @param file undefined: it is not watched any more */
  #setFile(id: number, file: WatchedFile | undefined): void {
    for (const [ino, files] of this.#files) {
      const kept = files.filter((one) => one.id !== id);
      if (kept.length > 0) this.#files.set(ino, kept);
      else this.#files.delete(ino);
    }
    if (file === undefined) return;
    const counted = { ...file, count: new Counters(file.counters, 0) };
    this.#files.set(file.ino, [...(this.#files.get(file.ino) ?? []), counted]);
  }

  #takeEvents(): void {
    if (!this.#polls) return; // the order to stop has come with it
    const free = this.#slots.countFree(JOURNAL_BATCH);
    if (free === 0) {
      this.#pause();
      return;
    }
    for (const event of readEvents(this.#data.group, this.#journal.batch, free)) this.#take(event);
    this.#journal.clearBatch();
  }

  #setServing(isOn: boolean): void {
    this.#serves = isOn;
    if (!isOn && this.#polls) removeFromPoll(this.#data.poll, this.#data.group.fd);
    if (!isOn) this.#polls = false;
  }

  /** All slots are taken: what comes waits in the kernel's queue. */
  #pause(): void {
    if (!this.#polls) return;
    this.#polls = false;
    removeFromPoll(this.#data.poll, this.#data.group.fd);
    Atomics.store(this.#data.starved, 0, 1);
  }

  #resume(): void {
    if (this.#polls || !this.#serves || this.#slots.countFree(1) === 0) return;
    this.#polls = true;
    Atomics.store(this.#data.starved, 0, 0);
    addToPoll(this.#data.poll, this.#data.group.fd, GROUP_KEY);
  }

  #take(event: FanotifyEvent): void {
    if (event.kind === "overflow") {
      this.#post({ kind: "overflow" });
      return;
    }
    this.#journal.noteFd(event.fd);
    if (++this.#served % EVENTS_PER_COLLECTION === 0) collectYoung();
    let errno: number | undefined = EIO;
    try {
      errno = this.#judge(event.fd, event.range);
    } catch (error) {
      this.#refuse(undefined, asNydusError(error).message, event.range?.start ?? 0);
    }
    if (errno !== undefined) settleEvent(this.#data.group, event.fd, errno);
  }

  /** @returns what to answer; undefined when the main thread does */
  #judge(eventFd: number, range: ByteRange | undefined): number | undefined {
    const start = performance.now();
    const { dev, ino } = fstatSync(eventFd);
    const file = this.#files.get(ino)?.find((one) => one.dev === dev);
    if (file === undefined) return EIO;
    if (range === undefined) return this.#refuse(file.id, "the kernel does not say which bytes", 0);
    for (const device of file.traced) noteAccess(device, range, undefined);
    const state = rangeState(file.images, range);
    const { count } = file;
    count.add("requests", 1);
    if (state === "missing") return this.#hand(file, eventFd, range);
    if (state === "foreign") {
      count.add("errors", 1);
      return this.#refuse(file.id, "no chunk of the image holds some of these bytes", range.start);
    }
    if (file.images.every(({ chunks }) => range.start >= dataEnd(chunks))) {
      Atomics.store(file.beyond, 0, Atomics.load(file.beyond, 0) + 1);
      return 0;
    }
    count.add("readyReads", 1);
    count.add("readBytes", range.end - range.start);
    count.add("readySec", (performance.now() - start) / 1000);
    return 0;
  }

  #hand(file: WatchedFile, eventFd: number, range: ByteRange): number | undefined {
    const ticket = this.#slots.take();
    if (ticket === undefined) return this.#refuse(file.id, "too many reads wait for data", range.start);
    const expiresAt = performance.now() + file.lastResortMs;
    this.#journal.add(ticket.slot, eventFd, file, range);
    this.#pending.push({ id: file.id, ticket, eventFd, expiresAt });
    this.#post({ kind: "missing", id: file.id, ticket, eventFd, range });
    return undefined;
  }

  /** Fails what the main thread has left unanswered for too long. */
  #expire(): void {
    if (this.#pending.length === 0) return;
    const now = performance.now();
    this.#pending = this.#pending.filter(({ id, ticket, eventFd, expiresAt }) => {
      if (!this.#slots.isPending(ticket)) return false;
      if (now < expiresAt) return true;
      if (!this.#slots.claim(ticket)) return false;
      settleEvent(this.#data.group, eventFd, EIO);
      this.#journal.clear(ticket.slot);
      this.#slots.free(ticket);
      this.#refuse(id, "this program did not answer in time", 0);
      return false;
    });
  }

  #refuse(id: number | undefined, message: string, offset: number): number {
    this.#post({ kind: "refused", id, message, offset });
    return EIO;
  }
}

serveThread(EROFS_ROLE, (data, port: MessagePort) => {
  new ErofsThreadLoop(data as ErofsThreadData, (message) => port.postMessage(message)).run();
  port.postMessage({ kind: "closed" } satisfies ErofsMessage);
});
