import { availableParallelism } from "node:os";
import { NydusError } from "../base/errors.ts";
import { type CompiledCore, compileCore } from "../format/codec/kernels.ts";
import type {
  CodecPool,
  DecodeFailure,
  DecodeJob,
  EncodedPieces,
  EncodeJob,
  FillJob,
  FillUrgency,
} from "./codec-pool.ts";
import {
  CODEC_ROLE,
  type CodecReply,
  type CodecRequest,
  type CodecResult,
  type CodecStart,
  codecThreadUrl,
} from "./codec-thread.ts";
import { spawnThread, type Thread } from "./thread.ts";

interface Call {
  resolve(result: CodecResult): void;
  reject(error: NydusError): void;
}

/** One thread and the calls that it has in hand. */
class PoolThread {
  readonly #thread: Thread;
  readonly calls = new Map<number, Call>();

  constructor(core: Promise<CompiledCore | undefined>, onDeath: (thread: PoolThread, error: NydusError) => void) {
    this.#thread = spawnThread(codecThreadUrl, CODEC_ROLE, null);
    this.#thread.worker.on("message", (reply: CodecReply) => this.#settle(reply));
    this.#thread.worker.on("error", (error: Error) =>
      onDeath(this, new NydusError("EFAULT", `Codec thread failed: ${error.message}`, {}, { cause: error })),
    );
    this.#thread.worker.on("exit", () => onDeath(this, new NydusError("EFAULT", "Codec thread ended too early")));
    this.#thread.worker.unref();
    // A thread that gets no core loads it by itself, and says what is wrong with it.
    void core.then((compiled) => this.#thread.post({ kind: "start", compiled } satisfies CodecStart));
  }

  post(request: CodecRequest): void {
    // While calls are in hand the thread keeps the program alive, an idle one does not.
    if (this.calls.size === 1) this.#thread.worker.ref();
    this.#thread.post(request, buffersOf(request));
  }

  #settle(reply: CodecReply): void {
    const call = this.calls.get(reply.id);
    this.calls.delete(reply.id);
    if (this.calls.size === 0) this.#thread.worker.unref();
    if (reply.ok) call?.resolve(reply.result);
    else call?.reject(new NydusError(reply.failure.code, reply.failure.message));
  }

  close(): Promise<void> {
    return this.#thread.close();
  }
}

/** What is handed over with a request. */
function buffersOf({ kind, job }: CodecRequest): ArrayBuffer[] {
  const data = job.data instanceof Uint8Array ? [job.data.buffer as ArrayBuffer] : [];
  return kind === "fill" ? [...data, job.units.buffer, job.chunks.buffer, job.digests.buffer] : data;
}

interface PlacedJob {
  readonly urgency: FillUrgency;
  readonly start: () => void;
}

/** Starts threads as they are needed, at most as many as asked for; each call goes to the least busy one. */
class ThreadedCodecPool implements CodecPool {
  readonly threads: number;
  readonly #started: PoolThread[] = [];
  /** Jobs that fill, and those that wait to: here and not with a thread, so that an urgent one can overtake. */
  readonly #filling = new Set<PlacedJob>();
  readonly #waiting: PlacedJob[] = [];
  #nextId = 0;
  #core: Promise<CompiledCore | undefined> | undefined;
  #closed = false;

  constructor(threads: number) {
    this.threads = threads;
  }

  async decode(job: DecodeJob): Promise<readonly (Uint8Array | DecodeFailure)[]> {
    return (await this.#call("decode", job)) as readonly (Uint8Array | DecodeFailure)[];
  }

  async fill(job: FillJob, urgency: FillUrgency): Promise<readonly (DecodeFailure | undefined)[]> {
    const waiting = await this.#idleThread(urgency);
    try {
      return (await this.#call("fill", job)) as readonly (DecodeFailure | undefined)[];
    } finally {
      this.#filling.delete(waiting);
      this.reconsider();
    }
  }

  /** Waits for a thread to fill with; is one of those that fill then. */
  #idleThread(urgency: FillUrgency): Promise<PlacedJob> {
    return new Promise((resolve) => {
      const job = { urgency, start: () => resolve(job) };
      this.#waiting.push(job);
      this.reconsider();
    });
  }

  reconsider(): void {
    while (this.#startNext());
  }

  /** @returns whether a job has been started */
  #startNext(): boolean {
    if (this.#filling.size >= this.threads) return false;
    const next = this.#mostUrgent();
    if (next === undefined) return false;
    // Who waits is not to wait for work that nobody has asked for; and with all threads at that, readers, which
    // have work of their own, would get too little of the processors.
    if (next.urgency.rank > 0 && this.#countAhead() >= Math.max(1, this.threads - 1)) return false;
    this.#waiting.splice(this.#waiting.indexOf(next), 1);
    this.#filling.add(next);
    next.start();
    return true;
  }

  /** Jobs that fill, and that nobody waits for now. */
  #countAhead(): number {
    let ahead = 0;
    for (const { urgency } of this.#filling) if (urgency.rank > 0) ahead++;
    return ahead;
  }

  /** Of several the one that has waited longest. */
  #mostUrgent(): PlacedJob | undefined {
    let best: PlacedJob | undefined;
    for (const job of this.#waiting) if (best === undefined || job.urgency.rank < best.urgency.rank) best = job;
    return best;
  }

  async encode(job: EncodeJob): Promise<EncodedPieces> {
    return (await this.#call("encode", job)) as EncodedPieces;
  }

  #call(kind: CodecRequest["kind"], job: CodecRequest["job"]): Promise<unknown> {
    if (this.#closed) throw new NydusError("ECANCELED", "Cannot use codecs: the pool is closed");
    const thread = this.#leastBusy();
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      thread.calls.set(id, { resolve, reject });
      thread.post({ id, kind, job } as CodecRequest);
    });
  }

  #leastBusy(): PoolThread {
    const idlest = this.#started.reduce<PoolThread | undefined>(
      (best, thread) => (best === undefined || thread.calls.size < best.calls.size ? thread : best),
      undefined,
    );
    if (idlest !== undefined && (idlest.calls.size === 0 || this.#started.length >= this.threads)) return idlest;
    return this.#startThread();
  }

  #startThread(): PoolThread {
    this.#core ??= compileCore().catch(() => undefined);
    const thread = new PoolThread(this.#core, (dead, error) => this.#bury(dead, error));
    this.#started.push(thread);
    return thread;
  }

  warmUp(): void {
    while (this.#started.length < this.threads) this.#startThread();
  }

  #bury(dead: PoolThread, error: NydusError): void {
    const at = this.#started.indexOf(dead);
    if (at >= 0) this.#started.splice(at, 1);
    for (const call of dead.calls.values()) call.reject(error);
    dead.calls.clear();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    const ended = [...this.#started];
    await Promise.all(ended.map((thread) => thread.close()));
    for (const thread of ended) this.#bury(thread, new NydusError("ECANCELED", "Codec pool closed"));
  }
}

/** How a pool is opened. */
export interface CodecPoolOptions {
  /** At most so many; by default one a core. */
  readonly threads?: number;
  /** Whether they are started at once; else with the first work for them. */
  readonly eager?: boolean;
}

/** The pool whose threads were started before it was asked for. */
let startedAhead: ThreadedCodecPool | undefined;

/**
 * Starts a thread a core for the pool that is opened next without a number of threads: one that needs them can say so
 * before it has loaded what it needs them for.
 */
export function startCodecThreads(): void {
  startedAhead ??= new ThreadedCodecPool(availableParallelism());
  startedAhead.warmUp();
}

/** Opens a pool of codec threads. */
export function openCodecPool(options: CodecPoolOptions = {}): CodecPool {
  if (options.threads === undefined && startedAhead !== undefined) {
    const pool = startedAhead;
    startedAhead = undefined;
    return pool;
  }
  const pool = new ThreadedCodecPool(Math.max(1, options.threads ?? availableParallelism()));
  if (options.eager === true) pool.warmUp();
  return pool;
}
