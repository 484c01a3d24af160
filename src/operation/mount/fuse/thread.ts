import { type MessagePort, receiveMessageOnPort } from "node:worker_threads";
import { asNydusError, type ErrorCode, type ErrorPlace, NydusError } from "../../../base/errors.ts";
import { ErofsReader } from "../../../format/erofs/reader.ts";
import { addToPoll, type PollHandle, PollWaiter, removeFromPoll } from "../../../os/event-poll.ts";
import { readFuseRequest, writeFuseReply } from "../../../os/fuse-device.ts";
import { collectYoung, releaseMemory } from "../../../os/memory.ts";
import { type SharedMapping, viewMapping } from "../../../os/mmap.ts";
import { serveThread } from "../../../os/thread.ts";
import { type CounterMemory, Counters } from "../session-counters.ts";
import type { TraceMemory } from "../trace/memory.ts";
import { type DeviceData, FileData, type ReadRequest } from "./file-data.ts";
import { ImageFs } from "./image-fs.ts";
import { JournalPart } from "./journal.ts";
import { FuseServer, type PendingRead, REPLY_BYTES, REQUEST_BYTES } from "./server.ts";

/** The name of this thread's work in `main.ts`' table. */
export const FUSE_ROLE = "fuse";

/** Where {@link FUSE_ROLE} is served: this module, or the bundle that holds it. */
export const fuseThreadUrl = import.meta.url;

/** What a FUSE thread is started with. */
export interface FuseThreadData {
  /** Which of the threads it is, from 0. */
  readonly thread: number;
  readonly poll: PollHandle;
  /** Brings {@link FuseThreadOrder}s, each with a wake-up of the poll set. */
  readonly orders: MessagePort;
  /** Of {@link FuseJournal}, where the kernel does not send requests again. */
  readonly journal: SharedMapping | undefined;
}

/** A mount as a thread serves it. */
export interface FuseThreadMount {
  /** Above 0; no two mounts of a process have the same. */
  readonly id: number;
  /** The FUSE descriptor, the same in all threads; the main thread closes it after the last one's "ended". */
  readonly fd: number;
  readonly bootstrap: SharedMapping;
  readonly devices: readonly DeviceData[];
  readonly counters: CounterMemory;
  readonly trace?: TraceMemory | undefined;
}

/** What the main thread tells a FUSE thread. */
export type FuseThreadOrder =
  | { readonly kind: "add"; readonly mount: FuseThreadMount }
  /** The thread is to let go of a mount that lives. */
  | { readonly kind: "remove"; readonly id: number }
  | { readonly kind: "close" };

/** What a FUSE thread tells the main thread, mostly about one mount. */
export type FuseThreadMessage =
  | { readonly kind: "missing"; readonly id: number; readonly read: PendingRead }
  | {
      readonly kind: "error";
      readonly id: number;
      readonly code: ErrorCode;
      readonly message: string;
      readonly at: ErrorPlace;
    }
  /** The thread has let go of a mount: because it was unmounted, or because it cannot be served. */
  | { readonly kind: "ended"; readonly id: number; readonly failed: boolean }
  | { readonly kind: "closed" };

/** So many requests and entries leave so much garbage that collecting it is cheaper than having the heap grow. */
const ITEMS_PER_COLLECTION = 1024;
/** Requests of one mount that are answered before others have their turn: asking the poll set for each costs a call. */
const REQUESTS_IN_A_ROW = 16;
/** After so long without a request a thread gives memory back. */
const REST_MS = 1_000;

type Post = (message: FuseThreadMessage) => void;

interface ServedMount {
  readonly fd: number;
  readonly server: FuseServer;
  readonly counters: Counters;
}

/** Answers the requests of any number of mounts. Blocks its thread: orders are taken when the poll set is woken. */
class FuseThreadLoop {
  readonly #data: FuseThreadData;
  readonly #post: Post;
  readonly #mounts = new Map<number, ServedMount>();
  readonly #journal: JournalPart | undefined;
  readonly #request: Uint8Array;
  readonly #reply = new Uint8Array(REPLY_BYTES);
  /** Requests since the last rest. */
  #served = 0;
  /** Requests and directory entries since the last collection. */
  #garbage = 0;

  constructor(data: FuseThreadData, post: Post) {
    this.#data = data;
    this.#post = post;
    this.#journal = data.journal && new JournalPart(data.journal, data.thread);
    this.#request = this.#journal?.request ?? new Uint8Array(REQUEST_BYTES);
  }

  /** Returns at the order to close. */
  run(): void {
    const waiter = new PollWaiter(this.#data.poll);
    const serve = (id: number): void => this.#serve(id);
    for (;;) {
      const end = waiter.wait(serve, this.#served > 0 ? REST_MS : -1);
      if (end === "woken" && !this.#takeOrders()) return;
      if (end === "late") this.#rest();
    }
  }

  #rest(): void {
    this.#served = 0;
    releaseMemory();
  }

  /** @returns false at the order to close */
  #takeOrders(): boolean {
    for (;;) {
      const order = receiveMessageOnPort(this.#data.orders)?.message as FuseThreadOrder | undefined;
      if (order === undefined) return true;
      if (order.kind === "close") return false;
      if (order.kind === "add") this.#add(order.mount);
      else this.#letGo(order.id);
    }
  }

  #letGo(id: number): void {
    const mount = this.#mounts.get(id);
    if (mount !== undefined) this.#remove(id, mount);
  }

  #add(mount: FuseThreadMount): void {
    const { id, fd, devices } = mount;
    try {
      const fs = new ImageFs(new ErofsReader(viewMapping(mount.bootstrap)));
      const files = new FileData(fs, devices, mount.trace);
      const counters = new Counters(mount.counters, this.#data.thread);
      const server = new FuseServer({
        fs,
        readReady: (read, target, at) => readTimed(files, counters, { read, target, at }),
        onMissing: (read) => this.#onMissing(id, read),
        onError: (error) => {
          counters.addError(error);
          this.#postError(id, error);
        },
        reply: this.#reply,
      });
      this.#mounts.set(id, { fd, server, counters });
      addToPoll(this.#data.poll, fd, id);
    } catch (error) {
      this.#postError(id, error);
      this.#end(id, true);
    }
  }

  #onMissing(id: number, read: PendingRead): void {
    if (this.#journal?.add(read.unique) === false) throw new NydusError("EIO", "Cannot read: too many reads wait");
    this.#post({ kind: "missing", id, read });
  }

  /** Answers a few requests of a mount: the poll set tells of the next ones, in turn with other mounts'. */
  #serve(id: number): void {
    const mount = this.#mounts.get(id);
    if (mount === undefined) return;
    for (let i = 0; i < REQUESTS_IN_A_ROW && this.#serveOne(id, mount); i++);
  }

  /** @returns whether there was a request, and may be more */
  #serveOne(id: number, mount: ServedMount): boolean {
    try {
      const length = readFuseRequest(mount.fd, this.#request);
      if (length < 0) this.#remove(id, mount);
      if (length <= 0) return false;
      const replyBytes = mount.server.handle(this.#request, length);
      mount.counters.add("requests", 1);
      this.#collect(mount.server);
      if (replyBytes > 0) writeFuseReply(mount.fd, this.#reply, replyBytes);
      this.#journal?.finish();
      return true;
    } catch (error) {
      this.#postError(id, error);
      this.#remove(id, mount, true);
      return false;
    }
  }

  #collect(server: FuseServer): void {
    this.#served++;
    this.#garbage += 1 + server.entries;
    server.entries = 0;
    if (this.#garbage < ITEMS_PER_COLLECTION) return;
    this.#garbage = 0;
    collectYoung();
  }

  #remove(id: number, { fd }: ServedMount, failed = false): void {
    removeFromPoll(this.#data.poll, fd);
    this.#end(id, failed);
  }

  #end(id: number, failed: boolean): void {
    this.#mounts.delete(id);
    this.#post({ kind: "ended", id, failed });
  }

  #postError(id: number, error: unknown): void {
    const { code, message, at } = asNydusError(error);
    this.#post({ kind: "error", id, code, message, at });
  }
}

/** Reads what is ready, and counts it. */
function readTimed(
  files: FileData,
  counters: Counters,
  { read, target, at }: { read: ReadRequest; target: Uint8Array; at: number },
): number | undefined {
  const start = performance.now();
  const length = files.readReady(read, target, at);
  if (length === undefined) return undefined;
  counters.add("readyReads", 1);
  counters.add("readBytes", length);
  counters.add("readySec", (performance.now() - start) / 1000);
  return length;
}

serveThread(FUSE_ROLE, (data, port: MessagePort) => {
  new FuseThreadLoop(data as FuseThreadData, (message) => port.postMessage(message)).run();
  port.postMessage({ kind: "closed" } satisfies FuseThreadMessage);
});
