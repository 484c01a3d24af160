import { closeSync, copyFileSync, fstatSync, ftruncateSync, mkdirSync, openSync, writeSync } from "node:fs";
import { dirname } from "node:path";

/** A log that has grown so long is set aside, and the one before it dropped; bytes. */
export const LOG_LIMIT_BYTES = 4 << 20;

/** Suffix of the log that was set aside. */
export const OLD_LOG_SUFFIX = ".1";

/** The daemon's log: one line an event. Its file is also the process's stderr, so it is emptied, never replaced. */
export class DaemonLog implements Disposable {
  readonly #path: string;
  readonly #fd: number;
  readonly #limitBytes: number;

  /** @throws EPERM, ENOSPC, EIO */
  constructor(path: string, limitBytes = LOG_LIMIT_BYTES) {
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    this.#path = path;
    this.#fd = openSync(path, "a", 0o600);
    this.#limitBytes = limitBytes;
  }

  /** Adds a line; what cannot be written is dropped. */
  write(message: string): void {
    try {
      writeSync(this.#fd, `${new Date().toISOString()} ${message.replace(/\p{Cc}+/gu, " ")}\n`);
      if (fstatSync(this.#fd).size >= this.#limitBytes) this.#rotate();
    } catch {
      // a full disk must not end the mounts
    }
  }

  #rotate(): void {
    copyFileSync(this.#path, `${this.#path}${OLD_LOG_SUFFIX}`);
    ftruncateSync(this.#fd, 0);
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
  }
}
