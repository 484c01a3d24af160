import { fstatSync } from "node:fs";
import { NydusError } from "../../../base/errors.ts";
import type { SuperblockNames } from "../../../os/erofs-mount.ts";
import type { FanotifyGroup } from "../../../os/fanotify.ts";
import type { MappedFile } from "../../../os/mmap.ts";
import { type HandedMount, MOUNT_ENTRY_VERSION, type MountEntryData, type MountHanding } from "../engine.ts";
import { HolderClient } from "../holder/client.ts";
import { type FailurePlan, fileKey, freshKey, type HeldEntry, plainEntry } from "../holder/protocol.ts";

/** Kind of the holder's entry for the group of a process. */
export const GROUP_KIND = "fanotify";
/** Kind of its entries for data files. */
export const DATA_KIND = "data";
/** Version of what is kept of an EROFS mount beside {@link MountEntryData}. */
const EROFS_VERSION = 1;

/** {@link MountEntryData} of an EROFS mount. */
export interface ErofsEntryData extends MountEntryData {
  readonly erofs: number;
  readonly names: SuperblockNames;
  /** Keys of the data files' entries, `devices[slot - 1]`. */
  readonly devices: readonly string[];
}

/** A mount that must not outlive all that answers for it. */
export interface GuardedMount {
  readonly mountpoint: string;
  readonly minor: number;
  readonly names: SuperblockNames;
  readonly bootstrap: MappedFile;
  /** Descriptors of its data files, by slot. */
  readonly deviceFds: readonly number[];
  readonly readTimeoutMs: number;
  /** Without it no successor can serve the mount: it ends with this process. */
  readonly handing?: MountHanding | undefined;
}

/** How a {@link Guardian} is made. */
export interface GuardianOptions {
  /** One of its own unless given. */
  readonly holder?: HolderClient | undefined;
  /** Of the entry that the group has come from. */
  readonly groupKey?: string | undefined;
}

/** What the EROFS engine has the holder process keep. */
export class Guardian {
  readonly #holder: HolderClient;
  readonly #ownsHolder: boolean;
  readonly #groupKey: string;
  readonly #files = new Map<string, number>();
  /** Entries of mounts that there are. */
  readonly #mounts = new Set<string>();

  /** @param onFailure there is no guard, and there can be none @throws EIO no process or descriptor left */
  constructor(group: FanotifyGroup, onFailure: (error: NydusError) => void, { holder, groupKey }: GuardianOptions) {
    this.#ownsHolder = holder === undefined;
    this.#holder = holder ?? new HolderClient();
    this.#holder.onFailure(onFailure);
    this.#groupKey = groupKey ?? freshKey(GROUP_KIND);
    this.#holder.hold({ key: this.#groupKey, version: 1, plan: { kind: "fanotify" }, data: undefined }, group.fd);
  }

  /** Has something kept along. */
  holdAlong(entry: HeldEntry, fd: number): void {
    this.#holder.hold(entry, fd);
  }

  /** Has the guard keep a data file, or know that more of it is in use. @param fd stays the caller's, until {@link drop} */
  hold(fd: number, dataEnd: number): void {
    const { dev, ino } = fstatSync(fd);
    const key = dataKey(fd);
    const before = this.#files.get(key);
    if (before !== undefined && before >= dataEnd) return;
    this.#files.set(key, dataEnd);
    this.#holder.hold({ key, version: 1, plan: { kind: "data", dev, ino, dataEnd }, data: undefined }, fd);
    if (before !== undefined) this.#holder.drop(key); // it is held once
  }

  drop(fd: number): void {
    if (this.#files.delete(dataKey(fd))) this.#holder.drop(dataKey(fd));
  }

  /** Has a mount kept for a successor, or else ended should this process die. Its data files are held already. */
  add(mount: GuardedMount): MountHold {
    const { mountpoint, minor, names, bootstrap, deviceFds, readTimeoutMs, handing } = mount;
    const key = handing === undefined ? freshKey("mount") : `mount:${handing.id}`;
    const where = {
      engine: "erofs",
      mountpoint,
      minor,
      names,
      recordPath: handing?.recordPath,
      readTimeoutMs,
    } as const;
    const plan: FailurePlan = { kind: "mount", ...where };
    const bootstrapKey = fileKey("bootstrap", bootstrap.fd);
    const data: ErofsEntryData | undefined = handing && {
      ...({ engine: "erofs", erofs: EROFS_VERSION, mountpoint, minor, names } as const),
      ...{ bootstrap: bootstrapKey, devices: deviceFds.map(dataKey), call: handing.call },
    };
    if (data !== undefined) {
      this.#holder.hold(plainEntry(bootstrapKey), bootstrap.fd);
    }
    this.#holder.hold({ key, version: MOUNT_ENTRY_VERSION, plan, data });
    this.#mounts.add(key);
    const drop = (): void => {
      if (!this.#mounts.delete(key)) return;
      this.#holder.drop(key);
      if (data !== undefined) this.#holder.drop(bootstrapKey);
    };
    const entry = (name: string): ReturnType<HandedMount["entry"]> => this.#holder.entry(name);
    return { mount: data && { key, data: { ...data }, entry }, drop };
  }

  /** Keeps the entry of a mount that nobody could take over. */
  addLost(entry: HeldEntry): MountHold {
    const { key } = entry;
    this.#holder.hold(entry);
    this.#mounts.add(key);
    return { mount: undefined, drop: () => void (this.#mounts.delete(key) && this.#holder.drop(key)) };
  }

  /** Sends the guard away; if file systems are left, it takes over when this process ends. */
  async close(): Promise<void> {
    if (this.#mounts.size === 0) this.#holder.drop(this.#groupKey);
    if (this.#ownsHolder) await this.#holder.close();
  }
}

/** A mount as the holder has it. */
export interface MountHold {
  /** As it would be handed over; undefined unless it can be. */
  readonly mount: HandedMount | undefined;
  /** The mount's file system is gone. */
  drop(): void;
}

/**
 * What is known of an EROFS mount that another process has served.
 * @throws ENOTSUP of a version that is not known; EUCLEAN it makes no sense
 */
export function erofsDataOf({ data }: Pick<HandedMount, "data">): ErofsEntryData {
  const { erofs, names, devices } = data as Partial<ErofsEntryData>;
  if (erofs !== EROFS_VERSION) {
    throw new NydusError("ENOTSUP", "Cannot take mount over: it is of another version of this program");
  }
  if (!Array.isArray(names) || !Array.isArray(devices)) {
    throw new NydusError("EUCLEAN", "Cannot take mount over: what was kept of it makes no sense");
  }
  return data as unknown as ErofsEntryData;
}

function dataKey(fd: number): string {
  return fileKey(DATA_KIND, fd);
}
