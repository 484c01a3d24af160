import { closeSync, fstatSync, readFileSync, readSync } from "node:fs";
import { isSuperblockAlive } from "../../os/erofs-mount.ts";
import { addToPoll, openPoll, PollWaiter } from "../../os/event-poll.ts";
import { answerEvent, eventBuffer, type FanotifyGroup, readEvents, settleEvent } from "../../os/fanotify.ts";
import { findMount, MNT_DETACH, unmount } from "../../os/mount.ts";
import { serveProcess } from "../../os/process-role.ts";
import { libc } from "../../os/syscall.ts";

/** The name of this process's work in `main.ts`' table. */
export const GUARD_ROLE = "erofs-guard";

/** Where {@link GUARD_ROLE} is served: this module, or the bundle that holds it. */
export const guardModuleUrl = import.meta.url;

/** Descriptors that the guard is started with: lines from its parent, the group, a socket that brings data files. */
export const GUARD_FDS = { lines: 0, group: 3, files: 4 } as const;

/** A mount that is to be taken away should the parent die. */
export interface GuardedMount {
  readonly id: number;
  readonly mountpoint: string;
  readonly minor: number;
  readonly names: readonly string[];
}

/** What the parent tells, one JSON line each. */
export type GuardOrder =
  /** A data file, whose descriptor has been sent before. */
  | { readonly kind: "hold"; readonly dev: number; readonly ino: number; readonly dataEnd: number }
  | { readonly kind: "drop"; readonly dev: number; readonly ino: number }
  | { readonly kind: "mount"; readonly mount: GuardedMount }
  | { readonly kind: "gone"; readonly id: number }
  /** No file system is left that could be read. */
  | { readonly kind: "bye" };

const EIO = 5;
const LINES_KEY = 1;
const GROUP_KEY = 2;
const LINE_BYTES = 64 * 1024;
const BATCH = 64;
const TICK_MS = 100;
/** Numbers below this one are swept where the limit cannot be read. */
const DEFAULT_FD_LIMIT = 1 << 20;

/**
 * The process that keeps readers from seeing zeros should the one that mounts die: it holds the group, so that they
 * wait, and data files, so that nobody else uses them. It wakes at the parent's death, fails every read, detaches the
 * mounts, and ends when no file system of theirs is left.
 */
class Guard {
  readonly #group: FanotifyGroup = { fd: GUARD_FDS.group };
  readonly #files = new Map<string, { readonly fd: number; readonly dataEnd: number }>();
  readonly #mounts = new Map<number, GuardedMount>();
  #isDone = false;

  run(): void {
    this.#listen();
    if (this.#isDone || this.#mounts.size === 0) return;
    this.#sweep();
    this.#detach();
    this.#refuse();
  }

  /** Takes orders until the parent closes its end: by a word of goodbye, or by dying. */
  #listen(): void {
    const poll = openPoll();
    addToPoll(poll, GUARD_FDS.lines, LINES_KEY);
    const waiter = new PollWaiter(poll);
    const buffer = new Uint8Array(LINE_BYTES);
    const decoder = new TextDecoder();
    let text = "";
    for (let isOpen = true; isOpen; ) {
      waiter.wait(() => {
        const length = readLines(buffer);
        if (length === 0) isOpen = false;
        text += decoder.decode(buffer.subarray(0, Math.max(0, length)), { stream: true });
        const lines = text.split("\n");
        text = lines.pop() ?? "";
        for (const line of lines) this.#take(JSON.parse(line) as GuardOrder);
      }, -1);
    }
  }

  #take(order: GuardOrder): void {
    if (order.kind === "mount") this.#mounts.set(order.mount.id, order.mount);
    else if (order.kind === "gone") this.#mounts.delete(order.id);
    else if (order.kind === "bye") this.#isDone = true;
    else {
      const key = `${order.dev}:${order.ino}`;
      const fd = order.kind === "hold" ? libc().receiveFd(GUARD_FDS.files).fd : undefined;
      const known = this.#files.get(key);
      if (known !== undefined) closeSync(known.fd);
      this.#files.delete(key);
      if (order.kind === "hold" && fd !== undefined) this.#files.set(key, { fd, dataEnd: order.dataEnd });
    }
  }

  /** Fails what the parent had read and not answered: such events are known by their numbers only. */
  #sweep(): void {
    const limit = Number(/^Max open files\s+(\d+)/m.exec(readFileSync("/proc/self/limits", "utf8"))?.[1]);
    const end = Number.isSafeInteger(limit) ? limit : DEFAULT_FD_LIMIT;
    for (let fd = 0; fd < end; fd++) answerEvent(this.#group, fd, EIO);
  }

  #detach(): void {
    for (const { mountpoint, minor } of this.#mounts.values()) {
      try {
        if (findMount(mountpoint)?.minor === minor) unmount(mountpoint, MNT_DETACH);
      } catch {
        // it stays in the tree, and its reads fail all the same
      }
    }
  }

  /** Fails every read until nothing is left that could be read. */
  #refuse(): void {
    const poll = openPoll();
    addToPoll(poll, this.#group.fd, GROUP_KEY);
    const waiter = new PollWaiter(poll);
    const buffer = eventBuffer(BATCH);
    while (this.#isNeeded()) waiter.wait(() => this.#refuseSome(buffer), TICK_MS);
  }

  /** Where the kernel does not tell, for ever. */
  #isNeeded(): boolean {
    return [...this.#mounts.values()].some(({ names }) => isSuperblockAlive(names) !== false);
  }

  #refuseSome(buffer: Uint8Array): void {
    try {
      for (const event of readEvents(this.#group, buffer, BATCH)) {
        if (event.kind === "access") settleEvent(this.#group, event.fd, this.#isBehindData(event) ? 0 : EIO);
      }
    } catch {
      // an event that cannot be read fails by itself
    }
  }

  /** What lies behind the data says which cache it is. */
  #isBehindData({ fd, range }: { fd: number; range?: { start: number } | undefined }): boolean {
    const { dev, ino } = fstatSync(fd);
    const dataEnd = this.#files.get(`${dev}:${ino}`)?.dataEnd ?? Number.POSITIVE_INFINITY;
    return range !== undefined && range.start >= dataEnd;
  }
}

/** @returns 0 at the end, -1 when there is nothing yet */
function readLines(buffer: Uint8Array): number {
  try {
    return readSync(GUARD_FDS.lines, buffer);
  } catch (error) {
    const code = (error as { code?: string }).code;
    return code === "EAGAIN" || code === "EINTR" ? -1 : 0;
  }
}

serveProcess(GUARD_ROLE, () => {
  for (const signal of ["SIGTERM", "SIGINT", "SIGHUP", "SIGPIPE"]) process.on(signal, () => undefined);
  new Guard().run();
});
