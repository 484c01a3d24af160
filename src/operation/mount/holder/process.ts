import { spawn } from "node:child_process";
import { closeSync, existsSync, writeSync } from "node:fs";
import { addToPoll, openPoll, PollWaiter, removeFromPoll } from "../../../os/event-poll.ts";
import { MessageReader, packetPair, sendMessage } from "../../../os/packet-socket.ts";
import { identityOf, killProcess, type ProcessIdentity } from "../../../os/process.ts";
import { serveProcess } from "../../../os/process-role.ts";
import { libc } from "../../../os/syscall.ts";
import { failEverything } from "./failure.ts";
import { failoverLimits, RestartPolicy, SilenceWatch, silenceLimitMs } from "./policy.ts";
import {
  decodeMessage,
  encodeMessage,
  type FailurePlan,
  HOLDER_FD_VARIABLE,
  HOLDER_ROLE,
  HOLDER_SOCKET,
  type HolderNews,
  type HolderOrder,
} from "./protocol.ts";

/** Where {@link HOLDER_ROLE} is served: this module, or the bundle that holds it. */
export const holderModuleUrl = import.meta.url;

/** How often it is looked whether the one who serves is silent, and whether a successor has come up. */
const TICK_MS = 1_000;
const CANDIDATE_TICK_MS = 100;
/** How long a successor may take to serve all mounts while its predecessor waits, ms. */
const TAKEOVER_MS = 60_000;
/** Its socket, behind stdin, stdout and stderr. */
const CHILD_SOCKET = 3;

interface Kept {
  readonly key: string;
  readonly plan: FailurePlan;
  readonly fd: number | undefined;
  /** The message, for a successor: all that this process does not understand is in it. */
  readonly text: string;
}

/** A process at the other end of a socket. */
interface Peer {
  readonly socket: number;
  readonly reader: MessageReader;
  /** Key in the poll set. */
  readonly pollKey: number;
  process: ProcessIdentity | undefined;
  command: readonly string[] | undefined;
}

interface Candidate extends Peer {
  readonly isUpgrade: boolean;
  /** Has it all, though its predecessor may go on yet. */
  hasEntries: boolean;
  /** Killed unless it has gone a step further by then. */
  deadline: number;
}

/**
 * Keeps what must outlive the process that serves mounts: with the last copy of a descriptor the kernel would end a FUSE
 * mount, or let reads of an EROFS mount through unasked. Starts a successor when that process dies, and gives it
 * everything; where none comes up, it ends the mounts so that nobody waits for ever.
 */
class Holder {
  readonly #poll = openPoll();
  readonly #waiter = new PollWaiter(this.#poll);
  readonly #entries = new Map<string, Kept>();
  readonly #limits = failoverLimits(process.env);
  readonly #policy = new RestartPolicy(this.#limits);
  #silence = new SilenceWatch();
  #owner: Peer | undefined;
  #candidate: Candidate | undefined;
  /** What starts a successor. */
  #command: readonly string[] | undefined;
  #startAt: number | undefined;
  #nextPollKey = 1;
  #end: "no" | "fail" | "release" = "no";

  run(): void {
    this.#owner = this.#peer(HOLDER_SOCKET);
    while (this.#end === "no") {
      this.#waiter.wait((key) => this.#read(key), this.#timeoutMs());
      libc().reapChildren();
      if (this.#end === "no") this.#tick();
    }
    if (this.#end === "fail" && this.#hasMounts) {
      log(`gives up: the mounts of its process are ended`);
      failEverything([...this.#entries.values()]);
    }
  }

  get #hasMounts(): boolean {
    return [...this.#entries.values()].some(({ plan }) => plan.kind === "mount");
  }

  #peer(socket: number): Peer {
    const pollKey = this.#nextPollKey++;
    addToPoll(this.#poll, socket, pollKey);
    return { socket, reader: new MessageReader(socket), pollKey, process: undefined, command: undefined };
  }

  #leave(peer: Peer): void {
    removeFromPoll(this.#poll, peer.socket);
    closeSync(peer.socket);
  }

  #timeoutMs(): number {
    if (this.#startAt !== undefined) return Math.max(1, Math.ceil(this.#startAt - performance.now()));
    if (this.#candidate !== undefined) return CANDIDATE_TICK_MS;
    return this.#hasMounts ? TICK_MS : -1;
  }

  #tick(): void {
    const now = performance.now();
    if (this.#startAt !== undefined && now >= this.#startAt) {
      this.#startAt = undefined;
      this.#start(this.#command ?? [], false);
    }
    if (this.#candidate !== undefined && now > this.#candidate.deadline) {
      log(`process ${this.#candidate.process?.pid}, the successor, is too slow: it is killed`);
      this.#candidate.deadline = Number.POSITIVE_INFINITY;
      kill(this.#candidate.process);
    }
    this.#watchSilence(now);
  }

  #watchSilence(now: number): void {
    if (this.#owner === undefined) return;
    const silentMs = this.#silence.tick(now);
    if (this.#command === undefined || silentMs === 0) return;
    const timeouts = [...this.#entries.values()].flatMap(({ plan }) => {
      return plan.kind === "mount" ? [plan.readTimeoutMs] : [];
    });
    if (timeouts.length === 0 || silentMs <= silenceLimitMs(this.#limits, timeouts)) return;
    log(`process ${this.#owner.process?.pid} has been silent for ${Math.round(silentMs)} ms: it is killed`);
    this.#silence.heard();
    kill(this.#owner.process);
  }

  #read(pollKey: number): void {
    const peer = [this.#owner, this.#candidate].find((one) => one?.pollKey === pollKey);
    while (peer !== undefined && this.#end === "no") {
      const message = peer.reader.next();
      if (message === "none") return;
      if (message === "closed") {
        this.#onClosed(peer);
        return;
      }
      if (peer === this.#owner) this.#silence.heard();
      const order = decodeMessage<HolderOrder>(message.text);
      if (order?.do === "hold") this.#hold(order, message.text, message.fd);
      else if (message.fd !== undefined) closeSync(message.fd);
      if (order !== undefined && order.do !== "hold") this.#obey(peer, order);
    }
  }

  #hold({ entry: { key, plan } }: Extract<HolderOrder, { do: "hold" }>, text: string, fd: number | undefined): void {
    const known = this.#entries.get(key);
    if (known?.fd !== undefined && fd !== undefined) closeSync(known.fd);
    this.#entries.set(key, { key, plan, fd: fd ?? known?.fd, text });
  }

  #drop(key: string): void {
    const known = this.#entries.get(key);
    this.#entries.delete(key);
    if (known?.fd !== undefined) closeSync(known.fd);
  }

  #obey(peer: Peer, order: Exclude<HolderOrder, { do: "hold" }>): void {
    if (order.do === "hello") this.#onHello(peer, order);
    else if (order.do === "drop") this.#drop(order.key);
    else if (order.do === "resumed") this.#onResumed(peer);
    else if (peer === this.#owner && order.do === "bye") this.#end = "fail";
    else if (peer === this.#owner && order.do === "release") this.#end = "release";
    else if (peer === this.#owner && order.do === "upgrade") this.#start(order.command, true);
    else if (peer === this.#owner && order.do === "handover") this.#handOver();
  }

  #onHello(peer: Peer, { pid, pidStart, command }: Extract<HolderOrder, { do: "hello" }>): void {
    peer.process = { pid, pidStart };
    peer.command = command;
    if (peer !== this.#candidate) {
      this.#command = command;
      return;
    }
    this.#candidate.deadline = performance.now() + TAKEOVER_MS;
    if (this.#candidate.isUpgrade) this.#tellOwner({ do: "candidate", pid });
    else {
      this.#sendEntries(peer);
      this.#become(this.#candidate);
    }
  }

  #handOver(): void {
    if (this.#candidate === undefined) this.#tellOwner({ do: "failed", why: "the successor has ended" });
    else {
      this.#candidate.hasEntries = true;
      this.#sendEntries(this.#candidate);
    }
  }

  #onResumed(peer: Peer): void {
    this.#policy.resumed(performance.now());
    if (peer !== this.#candidate) return;
    const predecessor = this.#owner;
    if (predecessor !== undefined) {
      this.#tellOwner({ do: "taken", pid: peer.process?.pid ?? 0 });
      this.#leave(predecessor);
    }
    this.#become(this.#candidate);
  }

  #become(candidate: Candidate): void {
    this.#owner = candidate;
    this.#candidate = undefined;
    this.#command = candidate.command;
    this.#silence = new SilenceWatch();
  }

  #sendEntries(peer: Peer): void {
    for (const { text, fd } of this.#entries.values()) this.#send(peer, text, fd);
    this.#send(peer, encodeMessage({ do: "all", upgrade: this.#candidate?.isUpgrade ?? false }));
  }

  #tellOwner(news: HolderNews): void {
    if (this.#owner !== undefined) this.#send(this.#owner, encodeMessage(news));
  }

  /** Who does not take a message for seconds is stuck. That one has died is told by its socket. */
  #send(peer: Peer, text: string, fd?: number): void {
    try {
      sendMessage(peer.socket, text, fd);
    } catch {
      kill(peer.process);
    }
  }

  #onClosed(peer: Peer): void {
    this.#leave(peer);
    if (peer === this.#candidate) this.#onCandidateGone(this.#candidate);
    else this.#onOwnerGone();
  }

  #onCandidateGone({ isUpgrade }: Candidate): void {
    this.#candidate = undefined;
    if (!isUpgrade || this.#owner === undefined) this.#restart();
    else {
      log("the successor has ended before it served: no upgrade");
      this.#tellOwner({ do: "failed", why: "the successor has ended; the log says why" });
    }
  }

  #onOwnerGone(): void {
    const pid = this.#owner?.process?.pid;
    this.#owner = undefined;
    if (!this.#hasMounts || this.#command === undefined) {
      this.#end = "fail";
      return;
    }
    log(`process ${pid} has ended while it served mounts`);
    const candidate = this.#candidate;
    if (candidate?.hasEntries === true) return; // it goes on by itself
    if (candidate !== undefined) {
      this.#candidate = undefined;
      kill(candidate.process);
      this.#leave(candidate);
    }
    this.#restart();
  }

  #restart(): void {
    const waitMs = this.#policy.died(performance.now());
    if (waitMs === "give up") this.#end = "fail";
    else this.#startAt = performance.now() + waitMs;
  }

  #start(command: readonly string[], isUpgrade: boolean): void {
    if (this.#candidate !== undefined) {
      this.#tellOwner({ do: "failed", why: "another successor is under way" });
      return;
    }
    const child = isUpgrade && !existsSync(command[0] ?? "") ? undefined : spawnSuccessor(command);
    if (child === undefined) {
      log(`cannot start ${command[0]}`);
      if (isUpgrade) this.#tellOwner({ do: "failed", why: `cannot start ${command[0]}` });
      else this.#restart();
      return;
    }
    const deadline = performance.now() + this.#limits.startMs;
    const peer = Object.assign(this.#peer(child.socket), { isUpgrade, hasEntries: false, deadline });
    peer.process = identityOf(child.pid);
    this.#candidate = peer;
    log(`starts ${isUpgrade ? "an upgrade" : "a successor"}, process ${child.pid}`);
  }
}

/** Starts a successor, of the program that this one is where the file is gone. */
function spawnSuccessor(command: readonly string[]): { readonly pid: number; readonly socket: number } | undefined {
  const [program = "", ...args] = command;
  const [socket, theirs] = packetPair();
  let pid: number | undefined;
  try {
    ({ pid } = spawn(existsSync(program) ? program : "/proc/self/exe", args, {
      detached: true,
      cwd: "/",
      stdio: ["ignore", 1, 2, theirs],
      env: { ...process.env, [HOLDER_FD_VARIABLE]: String(CHILD_SOCKET) },
    }));
  } catch {
    // as if it had ended at once
  } finally {
    closeSync(theirs);
  }
  if (pid !== undefined) return { pid, socket };
  closeSync(socket);
  return undefined;
}

function kill(target: ProcessIdentity | undefined): void {
  if (target !== undefined) killProcess(target);
}

/** A line in the log of the process that serves, whose stderr this one has. */
function log(message: string): void {
  try {
    writeSync(2, `${new Date().toISOString()} holder, process ${process.pid}: ${message}\n`);
  } catch {
    // closed, or a full disk
  }
}

serveProcess(HOLDER_ROLE, () => {
  for (const signal of ["SIGTERM", "SIGINT", "SIGHUP", "SIGPIPE"]) process.on(signal, () => undefined);
  new Holder().run();
});
