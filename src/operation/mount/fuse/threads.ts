import { MessageChannel, type MessagePort } from "node:worker_threads";
import { asNydusError, NydusError } from "../../../base/errors.ts";
import { closePoll, openPoll, type PollHandle, wakePoll } from "../../../os/event-poll.ts";
import { canResendFuse } from "../../../os/fuse-device.ts";
import { spawnThread, type Thread } from "../../../os/thread.ts";
import { type CounterMemory, makeCounters } from "../session-counters.ts";
import { FuseJournal } from "./journal.ts";
import { REPLY_BYTES } from "./server.ts";
import {
  FUSE_ROLE,
  type FuseThreadData,
  type FuseThreadMessage,
  type FuseThreadMount,
  type FuseThreadOrder,
  fuseThreadUrl,
} from "./thread.ts";

/** A mount for {@link FuseThreads.add}. */
export type AddedMount = Omit<FuseThreadMount, "id" | "counters">;

/** Hears what the threads say about a mount. */
export interface ThreadListener {
  /** A message of one thread; never "ended". */
  onMessage(message: FuseThreadMessage): void;
  /** The threads cannot serve the mount, or not any more. */
  onFailure(error: NydusError): void;
  /** No thread has the mount any more: its descriptor may be closed. */
  onEnded(): void;
}

interface ListedMount {
  readonly listener: ThreadListener;
  /** Numbers of the threads that have it. */
  readonly threads: Set<number>;
}

interface StartedThread {
  readonly thread: Thread;
  readonly poll: PollHandle;
  readonly orders: MessagePort;
  readonly closed: Promise<void>;
}

/**
 * A few threads that answer the requests of all mounts of a process: each waits on all of their descriptors, and an
 * event wakes one.
 */
export class FuseThreads {
  /** Room for one reply of the main thread; written and sent without a wait in between. */
  readonly reply = new Uint8Array(REPLY_BYTES);
  readonly count: number;
  /** What waits for an answer, where the kernel does not send it again to a successor of this process. */
  readonly journal: FuseJournal | undefined;
  readonly #threads: readonly StartedThread[];
  readonly #mounts = new Map<number, ListedMount>();
  #nextId = 1;
  #failure: NydusError | undefined;
  #closing = false;

  constructor(count: number) {
    this.count = count;
    this.journal = canResendFuse() ? undefined : new FuseJournal(count);
    this.#threads = Array.from({ length: count }, (_, thread) => this.#start(thread));
  }

  /** Whether a thread has ended by itself. */
  get isBroken(): boolean {
    return this.#failure !== undefined;
  }

  /** Has the threads serve a mount. @returns its number and counters @throws EFAULT the threads have failed */
  add(mount: AddedMount, listener: ThreadListener): { readonly id: number; readonly counters: CounterMemory } {
    if (this.#failure !== undefined) throw this.#failure;
    const id = this.#nextId++;
    const counters = makeCounters(this.count);
    this.#mounts.set(id, { listener, threads: new Set(this.#threads.keys()) });
    for (const started of this.#threads) order(started, { kind: "add", mount: { ...mount, id, counters } });
    return { id, counters };
  }

  /** Has the threads let go of a mount that lives; `onEnded` comes when they have. */
  remove(id: number): void {
    for (const started of this.#threads) order(started, { kind: "remove", id });
  }

  /** Ends the threads; mounts must have ended. */
  async close(): Promise<void> {
    this.#closing = true;
    for (const started of this.#threads) order(started, { kind: "close" });
    await Promise.all(this.#threads.map(({ closed }) => closed));
    await Promise.all(this.#threads.map(({ thread }) => thread.close()));
    for (const { poll, orders } of this.#threads) {
      orders.close();
      closePoll(poll);
    }
    this.journal?.[Symbol.dispose]();
  }

  #start(thread: number): StartedThread {
    const poll = openPoll();
    const { port1, port2 } = new MessageChannel();
    const data: FuseThreadData = { thread, poll, orders: port2, journal: this.journal?.shared };
    const started = spawnThread(fuseThreadUrl, FUSE_ROLE, data, [port2]);
    const closed = new Promise<void>((resolve) => {
      started.worker.on("message", (message: FuseThreadMessage) => {
        if (message.kind === "closed") resolve();
        else this.#onMessage(thread, message);
      });
      started.worker.on("exit", () => {
        this.#onExit(thread);
        resolve();
      });
    });
    started.worker.on("error", (error) => this.#fail(asNydusError(error)));
    return { thread: started, poll, orders: port1, closed };
  }

  #onMessage(thread: number, message: Exclude<FuseThreadMessage, { kind: "closed" }>): void {
    const mount = this.#mounts.get(message.id);
    if (mount === undefined) return;
    if (message.kind !== "ended") {
      mount.listener.onMessage(message);
      return;
    }
    if (message.failed) mount.listener.onFailure(new NydusError("EFAULT", "Cannot serve mount: a thread failed"));
    this.#letGo(thread, message.id, mount);
  }

  #letGo(thread: number, id: number, mount: ListedMount): void {
    mount.threads.delete(thread);
    if (mount.threads.size > 0) return;
    this.#mounts.delete(id);
    mount.listener.onEnded();
  }

  #onExit(thread: number): void {
    if (!this.#closing) this.#fail(new NydusError("EFAULT", "Cannot serve mounts: a thread has ended"));
    for (const [id, mount] of [...this.#mounts]) this.#letGo(thread, id, mount);
  }

  /** A thread is gone: what the others serve cannot be told from what it had taken. */
  #fail(error: NydusError): void {
    if (this.#failure !== undefined) return;
    this.#failure = error;
    for (const { listener } of this.#mounts.values()) listener.onFailure(error);
  }
}

function order({ orders, poll }: StartedThread, message: FuseThreadOrder): void {
  orders.postMessage(message);
  wakePoll(poll);
}
