import { fstatSync } from "node:fs";
import type { NydusError } from "../../base/errors.ts";
import type { FanotifyGroup } from "../../os/fanotify.ts";
import { HolderClient } from "./holder-client.ts";

/** A mount that is to be taken away should the parent die. */
export interface GuardedMount {
  readonly id: number;
  readonly mountpoint: string;
  readonly minor: number;
  readonly names: readonly string[];
}

let nextGroup = 1;

/** What the EROFS engine has the holder process keep. */
export class Guardian {
  readonly #holder: HolderClient;
  readonly #ownsHolder: boolean;
  readonly #groupKey = `fanotify:${nextGroup++}`;
  readonly #files = new Set<string>();
  readonly #mounts = new Set<number>();

  /** @param onFailure there is no guard, and there can be none @throws EIO no process or descriptor left */
  constructor(group: FanotifyGroup, onFailure: (error: NydusError) => void, holder?: HolderClient) {
    this.#ownsHolder = holder === undefined;
    this.#holder = holder ?? new HolderClient();
    this.#holder.onFailure(onFailure);
    this.#holder.hold({ key: this.#groupKey, version: 1, plan: { kind: "fanotify" }, data: undefined }, group.fd);
  }

  /** Has the guard keep a data file. @param fd stays the caller's, until {@link drop} */
  hold(fd: number, dataEnd: number): void {
    const { dev, ino } = fstatSync(fd);
    const key = keyOf(fd);
    if (this.#files.has(key)) return;
    this.#holder.hold({ key, version: 1, plan: { kind: "data", dev, ino, dataEnd }, data: undefined }, fd);
    this.#files.add(key);
  }

  drop(fd: number): void {
    if (this.#files.delete(keyOf(fd))) this.#holder.drop(keyOf(fd));
  }

  /** Has the guard detach a mount should this process die. */
  add({ id, mountpoint, minor, names }: GuardedMount): void {
    const plan = {
      ...({ kind: "mount", engine: "erofs" } as const),
      ...{ mountpoint, minor, names, recordPath: undefined, readTimeoutMs: Number.MAX_SAFE_INTEGER },
    };
    this.#mounts.add(id);
    this.#holder.hold({ key: mountKey(id), version: 1, plan, data: undefined });
  }

  /** The mount's file system is gone. */
  remove(id: number): void {
    if (this.#mounts.delete(id)) this.#holder.drop(mountKey(id));
  }

  /** Sends the guard away; if file systems are left, it takes over when this process ends. */
  async close(): Promise<void> {
    if (this.#mounts.size === 0) this.#holder.drop(this.#groupKey);
    if (this.#ownsHolder) await this.#holder.close();
  }
}

function mountKey(id: number): string {
  return `mount:erofs:${id}`;
}

function keyOf(fd: number): string {
  const { dev, ino } = fstatSync(fd);
  return `data:${dev}:${ino}`;
}
