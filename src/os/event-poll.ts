import { closeSync, readSync, writeSync } from "node:fs";
import { libc, systemFailure } from "./syscall.ts";

const EPOLL_CTL_ADD = 1;
const EPOLL_CTL_DEL = 2;
const EPOLLIN = 1;
const EPOLLPRI = 2;
/** struct epoll_event is packed on x86-64 only. */
const EVENT_BYTES = process.arch === "x64" ? 12 : 16;
const DATA_AT = EVENT_BYTES - 8;
const MAX_EVENTS = 16;
/** The key of {@link PollHandle}'s own wake-up. */
const WAKE_KEY = 0;

/** A poll set as a message to another thread carries it. */
export interface PollHandle {
  readonly epollFd: number;
  readonly wakeFd: number;
}

/** Makes a poll set that one thread waits on and any thread can wake. @throws EIO no descriptor left */
export function openPoll(): PollHandle {
  const epoll = libc().epollCreate();
  if (epoll.fd === undefined) throw systemFailure(epoll.errno, "make a poll set");
  const wake = libc().eventFd();
  if (wake.fd === undefined) {
    closeSync(epoll.fd);
    throw systemFailure(wake.errno, "make an event descriptor");
  }
  const handle = { epollFd: epoll.fd, wakeFd: wake.fd };
  control(handle, EPOLL_CTL_ADD, wake.fd, encodeEvent(EPOLLIN, WAKE_KEY));
  return handle;
}

/** Closes a poll set that nobody waits on any more. */
export function closePoll({ epollFd, wakeFd }: PollHandle): void {
  closeSync(epollFd);
  closeSync(wakeFd);
}

/** Wakes the thread that waits on a poll set, or that is going to. */
export function wakePoll({ wakeFd }: PollHandle): void {
  writeSync(wakeFd, new Uint8Array(new BigUint64Array([1n]).buffer));
}

/** Adds a descriptor under a key above 0. An event wakes all poll sets that have it: who comes late finds nothing. */
export function addToPoll(handle: PollHandle, fd: number, key: number): void {
  control(handle, EPOLL_CTL_ADD, fd, encodeEvent(EPOLLIN, key));
}

/** The same for what is not data: changes of /proc/self/mountinfo. */
export function addUrgentToPoll(handle: PollHandle, fd: number, key: number): void {
  control(handle, EPOLL_CTL_ADD, fd, encodeEvent(EPOLLPRI, key));
}

/** Takes a descriptor out; it must still be open. */
export function removeFromPoll(handle: PollHandle, fd: number): void {
  control(handle, EPOLL_CTL_DEL, fd, encodeEvent(0, 0));
}

/** The waiting side of a poll set. */
export class PollWaiter {
  readonly #handle: PollHandle;
  readonly #events = new Uint8Array(MAX_EVENTS * EVENT_BYTES);
  readonly #view = new DataView(this.#events.buffer);

  constructor(handle: PollHandle) {
    this.#handle = handle;
  }

  /**
   * Blocks until something is there to read.
   * @param onReady gets the key of each descriptor; an event that another thread was faster to take counts too
   * @param timeoutMs -1 for no end
   * @returns "woken" when {@link wakePoll} was called, "late" when time is up
   */
  wait(onReady: (key: number) => void, timeoutMs: number): "woken" | "late" | "ready" {
    const { epollFd } = this.#handle;
    const count = libc().epollWait({ epollFd, events: this.#events, maxEvents: MAX_EVENTS, timeoutMs });
    let woken = false;
    for (let i = 0; i < count; i++) {
      const key = this.#view.getUint32(i * EVENT_BYTES + DATA_AT, true);
      if (key === WAKE_KEY) woken = true;
      else onReady(key);
    }
    if (woken) readSync(this.#handle.wakeFd, new Uint8Array(8));
    return woken ? "woken" : count === 0 ? "late" : "ready";
  }
}

function encodeEvent(events: number, key: number): Uint8Array {
  const event = new Uint8Array(EVENT_BYTES);
  const view = new DataView(event.buffer);
  view.setUint32(0, events, true);
  view.setUint32(DATA_AT, key, true);
  return event;
}

function control({ epollFd }: PollHandle, operation: number, fd: number, event: Uint8Array): void {
  const errno = libc().epollControl({ epollFd, operation, fd, event });
  if (errno !== 0) throw systemFailure(errno, "change a poll set");
}
