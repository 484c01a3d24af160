import { setTimeout as sleep } from "node:timers/promises";
import { MessageChannel } from "node:worker_threads";
import { asNydusError, NydusError } from "../../../base/errors.ts";
import { closePoll, openPoll, wakePoll } from "../../../os/event-poll.ts";
import { eventBuffer, type FanotifyGroup, readEvents, settleEvent } from "../../../os/fanotify.ts";
import { spawnThread } from "../../../os/thread.ts";
import { type ErofsJournal, JournalView } from "./journal.ts";
import { EventSlots, makeSlots, type SlotTicket } from "./slots.ts";
import {
  EROFS_ROLE,
  type ErofsMessage,
  type ErofsOrder,
  type ErofsThreadData,
  erofsThreadUrl,
  type WatchedFile,
} from "./thread.ts";

/** Hears what the thread says. */
export interface WatchListener {
  onMessage(message: Exclude<ErofsMessage, { kind: "done" | "closed" }>): void;
  /** The thread is gone: from now on every read that is not answered yet fails. */
  onFailure(error: NydusError): void;
}

const EIO = 5;
const DRAIN_MS = 10;
const DRAIN_BATCH = 64;
const FINISH_POLL_MS = 5;

/** How an {@link ErofsWatch} begins. */
export interface WatchOptions {
  /** Events in hand at most. */
  readonly slots: number;
  /** Of so many slots; closed after the watch. */
  readonly journal: ErofsJournal;
  /** Whether events are taken before {@link ErofsWatch.serve}. */
  readonly serves: boolean;
}

/** The thread that answers the group's events, as the main thread sees it. */
export class ErofsWatch {
  readonly #group: FanotifyGroup;
  readonly #listener: WatchListener;
  readonly #poll = openPoll();
  readonly #slots: EventSlots;
  readonly #starved = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT));
  readonly #orders: MessageChannel;
  readonly #thread: ReturnType<typeof spawnThread>;
  readonly #closed: Promise<void>;
  readonly #waiting = new Map<number, () => void>();
  #nextOrder = 1;
  readonly #journal: JournalView;
  #failure: NydusError | undefined;
  /** Another process answers now. */
  #isHandedOver = false;
  #closing = false;
  #drain: ReturnType<typeof setInterval> | undefined;

  constructor(group: FanotifyGroup, listener: WatchListener, { slots, journal, serves }: WatchOptions) {
    this.#group = group;
    this.#slots = new EventSlots(makeSlots(slots));
    this.#journal = new JournalView(journal.shared);
    this.#listener = listener;
    this.#orders = new MessageChannel();
    const { port2 } = this.#orders;
    const data: ErofsThreadData = {
      group,
      poll: this.#poll,
      orders: port2,
      slots: this.#slots.memory,
      starved: this.#starved,
      journal: journal.shared,
      serves,
    };
    this.#thread = spawnThread(erofsThreadUrl, EROFS_ROLE, data, [port2]);
    this.#closed = new Promise((resolve) => {
      this.#thread.worker.on("message", (message: ErofsMessage) => {
        if (message.kind === "closed") resolve();
        else this.#onMessage(message);
      });
      this.#thread.worker.on("error", (error) => this.#fail(asNydusError(error)));
      this.#thread.worker.on("exit", () => {
        if (!this.#closing) this.#fail(new NydusError("EFAULT", "Cannot serve mounts: a thread has ended"));
        resolve();
      });
    });
  }

  get isBroken(): boolean {
    return this.#failure !== undefined;
  }

  /** @returns when the thread knows the file as it is now @throws EFAULT the thread has failed */
  watch(file: WatchedFile): Promise<void> {
    return this.#order((order) => ({ kind: "watch", file, order }));
  }

  /** @returns when reads of the file fail, or the thread is gone */
  async forget(id: number): Promise<void> {
    if (!this.isBroken) await this.#order((order) => ({ kind: "forget", id, order })).catch(() => undefined);
  }

  /** Takes events, or lets them wait in the kernel's queue. */
  serve(isOn: boolean): Promise<void> {
    return this.#order((order) => ({ kind: "serve", isOn, order }));
  }

  /** Takes no more events, and waits until those in hand are answered. @returns whether they were in time */
  async finish(timeoutMs: number): Promise<boolean> {
    await this.serve(false);
    const { length } = this.#slots.memory;
    for (let waited = 0; this.#slots.countFree(length) < length; waited += FINISH_POLL_MS) {
      if (waited >= timeoutMs) return false;
      await sleep(FINISH_POLL_MS);
    }
    return true;
  }

  /** Whether another process answers what is still in hand: nothing must be answered twice. */
  set isHandedOver(isIt: boolean) {
    this.#isHandedOver = isIt;
  }

  /** Answers a read, unless that was done by another. @returns whether this was the answer */
  answer(ticket: SlotTicket, eventFd: number, errno: number): boolean {
    if (this.#isHandedOver || !this.#slots.claim(ticket)) return false;
    try {
      settleEvent(this.#group, eventFd, errno);
    } finally {
      this.#journal.clear(ticket.slot);
      this.#slots.free(ticket);
      if (Atomics.load(this.#starved, 0) === 1) wakePoll(this.#poll);
    }
    return true;
  }

  /** Ends the thread; files must have been forgotten. */
  async close(): Promise<void> {
    this.#closing = true;
    this.#orders.port1.postMessage({ kind: "close" } satisfies ErofsOrder);
    wakePoll(this.#poll);
    await this.#closed;
    clearInterval(this.#drain);
    await this.#thread.close();
    this.#orders.port1.close();
    closePoll(this.#poll);
  }

  async #order(make: (order: number) => ErofsOrder): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    const order = this.#nextOrder++;
    const taken = new Promise<void>((resolve) => this.#waiting.set(order, resolve));
    this.#orders.port1.postMessage(make(order));
    wakePoll(this.#poll);
    await taken;
    if (this.#failure !== undefined) throw this.#failure;
  }

  #onMessage(message: Exclude<ErofsMessage, { kind: "closed" }>): void {
    if (message.kind !== "done") {
      this.#listener.onMessage(message);
      return;
    }
    this.#waiting.get(message.order)?.();
    this.#waiting.delete(message.order);
  }

  #fail(error: NydusError): void {
    if (this.#failure !== undefined) return;
    this.#failure = error;
    for (const resolve of this.#waiting.values()) resolve();
    this.#waiting.clear();
    this.#drain = setInterval(() => this.#refuseAll(), DRAIN_MS);
    this.#listener.onFailure(error);
  }

  /** In the thread's place: nobody is left who knows what is ready. */
  #refuseAll(): void {
    try {
      for (const event of readEvents(this.#group, eventBuffer(DRAIN_BATCH), DRAIN_BATCH)) {
        if (event.kind === "access") settleEvent(this.#group, event.fd, EIO);
      }
    } catch {
      // the next round tries again; should this process end, its guard goes on
    }
  }
}
