import type { ChildProcess } from "node:child_process";
import { closeSync, fstatSync, writeSync } from "node:fs";
import { asNydusError, NydusError } from "../../base/errors.ts";
import type { FanotifyGroup } from "../../os/fanotify.ts";
import { spawnRole } from "../../os/process-role.ts";
import { libc, systemFailure } from "../../os/syscall.ts";
import { GUARD_FDS, GUARD_ROLE, type GuardedMount, type GuardOrder, guardModuleUrl } from "./erofs-guard.ts";

interface HeldFile {
  readonly fd: number;
  readonly dataEnd: number;
}

/** The guard process, as the process that it guards sees it. One that dies is replaced. */
export class Guardian {
  readonly #group: FanotifyGroup;
  readonly #onFailure: (error: NydusError) => void;
  readonly #files = new Map<string, HeldFile>();
  readonly #mounts = new Map<number, GuardedMount>();
  #child: ChildProcess | undefined;
  #lines = -1;
  #sockets = -1;
  #closed = false;

  /** @param onFailure there is no guard, and there can be none @throws EIO no process or descriptor left */
  constructor(group: FanotifyGroup, onFailure: (error: NydusError) => void) {
    this.#group = group;
    this.#onFailure = onFailure;
    this.#start();
  }

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  /** Has the guard keep a data file. @param fd stays the caller's, until {@link drop} */
  hold(fd: number, dataEnd: number): void {
    this.#files.set(keyOf(fd), { fd, dataEnd });
    this.#sendFile({ fd, dataEnd });
  }

  drop(fd: number): void {
    this.#files.delete(keyOf(fd));
    const { dev, ino } = fstatSync(fd);
    this.#send({ kind: "drop", dev, ino });
  }

  /** Has the guard detach a mount should this process die. */
  add(mount: GuardedMount): void {
    this.#mounts.set(mount.id, mount);
    this.#send({ kind: "mount", mount });
  }

  /** The mount's file system is gone. */
  remove(id: number): void {
    this.#mounts.delete(id);
    this.#send({ kind: "gone", id });
  }

  /** Sends the guard away; if file systems are left, it takes over. */
  close(): void {
    this.#closed = true;
    if (this.#mounts.size === 0) this.#send({ kind: "bye" });
    this.#closeSockets();
  }

  #start(): void {
    const [lines, theirLines] = socketPair();
    const [sockets, theirSockets] = socketPair();
    [this.#lines, this.#sockets] = [lines, sockets];
    try {
      libc().setNonBlocking(lines);
      const fds: (number | undefined)[] = [];
      fds[GUARD_FDS.lines] = theirLines;
      fds[1] = undefined;
      fds[2] = undefined;
      fds[GUARD_FDS.group] = this.#group.fd;
      fds[GUARD_FDS.files] = theirSockets;
      const child = spawnRole({ moduleUrl: guardModuleUrl, role: GUARD_ROLE, fds });
      this.#child = child;
      child.on("error", (error) => this.#onExit(child, asNydusError(error)));
      child.on("exit", () => this.#onExit(child));
    } finally {
      closeSync(theirLines);
      closeSync(theirSockets);
    }
  }

  #onExit(child: ChildProcess, error?: NydusError): void {
    if (this.#closed || this.#child !== child) return;
    this.#child = undefined;
    this.#closeSockets();
    try {
      if (error !== undefined) throw error;
      this.#start();
      for (const file of this.#files.values()) this.#sendFile(file);
      for (const mount of this.#mounts.values()) this.#send({ kind: "mount", mount });
    } catch (failure) {
      this.#onFailure(asNydusError(failure));
    }
  }

  #closeSockets(): void {
    if (this.#lines >= 0) closeSync(this.#lines);
    if (this.#sockets >= 0) closeSync(this.#sockets);
    [this.#lines, this.#sockets] = [-1, -1];
  }

  #sendFile({ fd, dataEnd }: HeldFile): void {
    if (this.#sockets < 0) return;
    const errno = libc().sendFd(this.#sockets, fd);
    if (errno !== 0) throw systemFailure(errno, "hand a descriptor to the guard process");
    const { dev, ino } = fstatSync(fd);
    this.#send({ kind: "hold", dev, ino, dataEnd });
  }

  /** Into the socket at once, so that the guard gets it even if this process dies now. */
  #send(order: GuardOrder): void {
    if (this.#lines < 0) return; // it has just died, and its successor gets all
    const line = new TextEncoder().encode(`${JSON.stringify(order)}\n`);
    try {
      if (writeSync(this.#lines, line) === line.length) return;
    } catch (error) {
      if ((error as { code?: string }).code === "EPIPE") return; // the same
      throw asNydusError(error);
    }
    throw new NydusError("EFAULT", "Cannot tell the guard process: it does not listen");
  }
}

function keyOf(fd: number): string {
  const { dev, ino } = fstatSync(fd);
  return `${dev}:${ino}`;
}

function socketPair(): readonly [number, number] {
  const { errno, fds } = libc().socketPair();
  if (fds === undefined) throw systemFailure(errno, "make a socket pair");
  return fds;
}
