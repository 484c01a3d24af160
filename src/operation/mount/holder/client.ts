import { closeSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { endsWithin } from "../../../base/async.ts";
import { asNydusError, NydusError } from "../../../base/errors.ts";
import { listenToSocket, MessageReader, packetPair, sendMessage, sendNow } from "../../../os/packet-socket.ts";
import { identityOf, killProcess, type ProcessIdentity } from "../../../os/process.ts";
import { spawnRole } from "../../../os/process-role.ts";
import { holderModuleUrl } from "./process.ts";
import {
  decodeMessage,
  encodeMessage,
  type HeldEntry,
  HOLDER_FD_VARIABLE,
  HOLDER_ROLE,
  HOLDER_SOCKET,
  type HolderNews,
  type HolderOrder,
  kindOf,
} from "./protocol.ts";

/** How a {@link HolderClient} is opened. */
export interface HolderOptions {
  /** Starts a successor of this process, should it die; without one a holder only ends the mounts then. */
  readonly command?: readonly string[] | undefined;
}

/** An entry as a successor gets it, with its descriptor, which is the successor's to close. */
export interface HandedEntry {
  readonly entry: HeldEntry;
  readonly fd: number | undefined;
}

interface Held {
  entry: HeldEntry;
  fd: number | undefined;
  users: number;
  /** Has come from the holder, and nobody has held it since: the descriptor is ours. */
  isAdopted: boolean;
}

const BEAT_MS = 1_000;
/** A holder that has had no room for so many beats in a row is stuck. */
const REFUSED_BEATS = 3;
/** How long a holder may take to end, and how often a socket is looked at that is not listened to. */
const CLOSE_TIMEOUT_MS = 3_000;
const POLL_MS = 2;
/** So many holders that die within a minute are enough. */
const REPLACE_LIMIT = 5;
const REPLACE_WINDOW_MS = 60_000;

/**
 * The holder process, as the process that serves mounts sees it. It is started with the first entry. One that dies is
 * replaced, and gets everything again.
 */
export class HolderClient {
  readonly #options: HolderOptions;
  readonly #entries = new Map<string, Held>();
  #socket = -1;
  #identity: ProcessIdentity | undefined;
  #listening: Disposable | undefined;
  #beat: ReturnType<typeof setInterval> | undefined;
  #closed = false;
  #onGone: (() => void) | undefined;
  #onReplaced: ((holder: ProcessIdentity) => void) | undefined;
  #onNews: ((news: HolderNews) => void) | undefined;
  #replacedAt: number[] = [];
  readonly #resumeListeners = new Set<() => void>();
  readonly #failureListeners = new Set<(error: NydusError) => void>();

  constructor(options: HolderOptions = {}) {
    this.#options = options;
  }

  /** Hears that there is no holder any more, and that there can be none. */
  onFailure(listener: (error: NydusError) => void): void {
    this.#failureListeners.add(listener);
  }

  /** Hears that another process is the holder now. */
  onReplaced(listener: (holder: ProcessIdentity) => void): void {
    this.#onReplaced = listener;
  }

  /**
   * Takes over from a process that has died, or that is to give way: in a successor, whose holder has told it a socket.
   * @returns undefined in other processes
   * @throws EFAULT the holder has given up
   */
  static async adopt(
    options: HolderOptions,
    environment: NodeJS.ProcessEnv = process.env,
  ): Promise<{ client: HolderClient; entries: readonly HandedEntry[]; isUpgrade: boolean } | undefined> {
    const named = environment[HOLDER_FD_VARIABLE];
    delete environment[HOLDER_FD_VARIABLE];
    if (named === undefined || !/^\d{1,4}$/.test(named)) return undefined;
    const client = new HolderClient(options);
    client.#socket = Number(named);
    const { entries, isUpgrade } = await client.#takeOver();
    return { client, entries, isUpgrade };
  }

  /** The holder process, or undefined when there is none yet. */
  get identity(): ProcessIdentity | undefined {
    return this.#identity;
  }

  /** Whether a successor comes should this process die. */
  get hasSuccessor(): boolean {
    return this.#identity !== undefined && this.#options.command !== undefined;
  }

  /**
   * Has the holder keep something. The same key may be held several times, and is dropped as often.
   * @param fd stays the caller's, who closes it after {@link drop}
   * @throws EIO no holder can be started, or it does not listen
   */
  hold(entry: HeldEntry, fd?: number): void {
    const known = this.#entries.get(entry.key);
    if (known !== undefined) {
      this.#holdAgain(known, entry, fd);
      return;
    }
    const held = { entry, fd, users: 1, isAdopted: false };
    this.#entries.set(entry.key, held);
    try {
      if (this.#socket < 0) this.#start();
      else this.#sendEntry(held);
    } catch (error) {
      this.#entries.delete(entry.key);
      throw error;
    }
  }

  /** The same for what is worth no holder of its own: it is held as soon as there is one. */
  holdAlong(entry: HeldEntry, fd: number): void {
    if (this.#socket >= 0) this.hold(entry, fd);
    else this.#entries.set(entry.key, { entry, fd, users: 1, isAdopted: false });
  }

  /** A descriptor that has come from the holder gives way to the one that is used; what is said of it may be new. */
  #holdAgain(known: Held, entry: HeldEntry, fd: number | undefined): void {
    known.users++;
    if (JSON.stringify(entry) !== JSON.stringify(known.entry)) {
      known.entry = entry;
      this.#send({ do: "hold", entry });
    }
    if (!known.isAdopted || fd === undefined) return;
    if (known.fd !== undefined && known.fd !== fd) closeSync(known.fd);
    known.fd = fd;
    known.isAdopted = false;
  }

  /** An entry as it is held now. */
  entry(key: string): HandedEntry | undefined {
    return this.#entries.get(key);
  }

  /** Entries of a kind that have come from the holder, and that nobody has held again. */
  unclaimed(kind: string): HandedEntry[] {
    const all = [...this.#entries.values()];
    return all.filter(({ entry, users, isAdopted }) => users === 0 && isAdopted && kindOf(entry.key) === kind);
  }

  /** Calls when {@link resumed} is called, before what is left is dropped. */
  onResumed(listener: () => void): void {
    this.#resumeListeners.add(listener);
  }

  /** Ends one {@link hold}. */
  drop(key: string): void {
    const known = this.#entries.get(key);
    if (known === undefined || --known.users > 0) return;
    this.#entries.delete(key);
    this.#send({ do: "drop", key });
  }

  /** For a successor: it serves all that it could take over. What nobody has held again is dropped, and closed. */
  resumed(): void {
    for (const listener of this.#resumeListeners) listener();
    for (const [key, { users, fd, isAdopted }] of [...this.#entries]) {
      if (users > 0) continue;
      this.#entries.delete(key);
      this.#send({ do: "drop", key });
      if (fd !== undefined && isAdopted) closeSync(fd);
    }
    this.#send({ do: "resumed" });
  }

  /** Has another holder, of this very program, take the place of the one that there is. */
  replace(): void {
    if (this.#socket < 0) return;
    const [socket, listening] = [this.#socket, this.#listening];
    this.#listening = undefined;
    this.#socket = -1;
    this.#start();
    sendMessage(socket, encodeMessage({ do: "release" }));
    listening?.[Symbol.dispose]();
    closeSync(socket);
  }

  /**
   * Gives everything to a successor, while this process lives.
   * @param command starts it
   * @param stop stops to serve; called once the successor has come up
   * @param goOn serves again; called when the successor has ended before it served
   * @returns the successor's pid: from now on nothing is this process's any more
   * @throws EBUSY no successor has come up, or not taken over; what `stop` throws
   */
  async handOver(
    command: readonly string[],
    { stop, goOn }: { stop(): Promise<void>; goOn(): Promise<void> },
  ): Promise<number> {
    if (this.#socket < 0) this.#start();
    const came = await this.#ask({ do: "upgrade", command });
    if (came.do !== "candidate") throw noSuccessor(came);
    try {
      await stop();
      const taken = await this.#ask({ do: "handover" });
      if (taken.do !== "taken") throw noSuccessor(taken);
      this.#closed = true;
      this.#closeSocket();
      return taken.pid;
    } catch (error) {
      await goOn();
      throw error;
    }
  }

  /** Sends the holder away, which ends what is still held. @returns when it has ended */
  async close(): Promise<void> {
    this.#closed = true;
    if (this.#socket < 0) return;
    const hasMounts = [...this.#entries.values()].some(({ entry }) => entry.plan.kind === "mount");
    const gone = new Promise<void>((resolve) => {
      this.#onGone = resolve;
    });
    if (this.#send({ do: "bye" }) && !hasMounts) await endsWithin(CLOSE_TIMEOUT_MS, gone);
    this.#closeSocket();
  }

  /** Asks for what is answered once. The holder's death is an answer, too. */
  #ask(order: HolderOrder): Promise<HolderNews> {
    return new Promise((resolve) => {
      this.#onNews = (news) => {
        this.#onNews = undefined;
        resolve(news);
      };
      if (!this.#send(order)) this.#onNews({ do: "failed", why: "the holder process has died" });
    });
  }

  async #takeOver(): Promise<{ entries: readonly HandedEntry[]; isUpgrade: boolean }> {
    this.#hello();
    const reader = new MessageReader(this.#socket);
    for (;;) {
      const message = reader.next();
      if (message === "closed") throw new NydusError("EFAULT", "Cannot take mounts over: the holder has given up");
      if (message === "none") {
        await sleep(POLL_MS);
        continue;
      }
      const news = decodeMessage<HolderNews>(message.text);
      if (news?.do === "hold")
        this.#entries.set(news.entry.key, { entry: news.entry, fd: message.fd, users: 0, isAdopted: true });
      else if (message.fd !== undefined) closeSync(message.fd);
      if (news?.do !== "all") continue;
      this.#identity = identityOf(process.ppid);
      this.#listen();
      return { entries: [...this.#entries.values()], isUpgrade: news.upgrade };
    }
  }

  #start(): void {
    const [socket, theirs] = packetPair();
    try {
      const fds: (number | undefined)[] = this.#options.command === undefined ? [] : [undefined, 1, 2];
      fds[HOLDER_SOCKET] = theirs;
      const { pid } = spawnRole({ moduleUrl: holderModuleUrl, role: HOLDER_ROLE, fds });
      if (pid === undefined) throw new NydusError("EIO", "Cannot start the holder process");
      this.#socket = socket;
      this.#identity = identityOf(pid);
    } finally {
      closeSync(theirs);
      if (this.#socket !== socket) closeSync(socket);
    }
    this.#hello();
    for (const held of this.#entries.values()) this.#sendEntry(held);
    this.#listen();
    this.#onReplaced?.(this.#identity);
  }

  #hello(): void {
    this.#send({ do: "hello", ...identityOf(process.pid), command: this.#options.command });
  }

  #listen(): void {
    let text = "";
    this.#listening = listenToSocket(
      this.#socket,
      (piece) => {
        const lines = (text + piece).split("\n");
        text = lines.pop() ?? "";
        for (const line of lines) this.#hear(decodeMessage<HolderNews>(line));
      },
      () => this.#onHolderGone(),
    );
    clearInterval(this.#beat);
    let refused = 0;
    this.#beat = setInterval(() => {
      refused = this.#sendBeat() ? 0 : refused + 1;
      if (refused === REFUSED_BEATS) this.#killHolder();
    }, BEAT_MS);
    this.#beat.unref();
  }

  #hear(news: HolderNews | undefined): void {
    if (news !== undefined) this.#onNews?.(news);
  }

  #onHolderGone(): void {
    this.#onNews?.({ do: "failed", why: "the holder process has died" });
    this.#onGone?.();
    if (this.#closed) return;
    this.#closeSocket();
    try {
      const now = performance.now();
      this.#replacedAt = [...this.#replacedAt.filter((at) => now - at < REPLACE_WINDOW_MS), now];
      if (this.#replacedAt.length > REPLACE_LIMIT) throw new NydusError("EFAULT", "Cannot keep a holder process alive");
      this.#start();
    } catch (failure) {
      for (const listener of this.#failureListeners) listener(asNydusError(failure));
    }
  }

  #closeSocket(): void {
    clearInterval(this.#beat);
    this.#listening?.[Symbol.dispose]();
    this.#listening = undefined;
    if (this.#socket >= 0) closeSync(this.#socket);
    this.#socket = -1;
    this.#identity = undefined;
  }

  /** Without a wait: a holder that is stopped must not hold up reads. */
  #sendBeat(): boolean {
    try {
      return this.#socket < 0 || sendNow(this.#socket, encodeMessage({ do: "beat" }));
    } catch {
      return false;
    }
  }

  /** The end of its socket says when it is dead. */
  #killHolder(): void {
    if (this.#identity !== undefined) killProcess(this.#identity);
  }

  #sendEntry({ entry, fd }: HandedEntry): void {
    this.#send({ do: "hold", entry }, fd);
  }

  /** @returns false when the holder has just died: the next one gets all. One that does not listen is killed. */
  #send(order: HolderOrder, fd?: number): boolean {
    if (this.#socket < 0) return false;
    try {
      return sendMessage(this.#socket, encodeMessage(order), fd);
    } catch (error) {
      if (this.#identity === undefined) throw asNydusError(error);
      this.#killHolder();
      return false;
    }
  }
}

function noSuccessor(news: HolderNews): NydusError {
  const why = news.do === "failed" ? news.why : `the holder says ${news.do}`;
  return new NydusError("EBUSY", `Cannot hand mounts over: ${why}`);
}
