import { NydusError } from "../../../base/errors.ts";
import type { MappedFile } from "../../../os/mmap.ts";
import { type HandedMount, MOUNT_ENTRY_VERSION, type MountEntryData, type MountHanding } from "../engine.ts";
import type { HolderClient } from "../holder/client.ts";
import { fileKey, type HeldEntry, plainEntry } from "../holder/protocol.ts";
import { type FuseJournal, readJournal } from "./journal.ts";

/** Version of what this server and the kernel have agreed on (FUSE_INIT, node ids, opcodes that were refused). */
const PROTOCOL_VERSION = 1;

/** {@link MountEntryData} of a FUSE mount. */
interface FuseEntryData extends MountEntryData {
  /** Key of the entry that has the descriptor of /dev/fuse. */
  readonly fuse: string;
  /** The same of the journal, where there is one. */
  readonly journal?: string;
  readonly protocol: number;
}

/** What is kept of a mount. */
export interface HeldFuse {
  readonly fd: number;
  readonly minor: number;
  readonly mountpoint: string;
  readonly bootstrap: MappedFile;
  readonly readTimeoutMs: number;
  readonly journal: FuseJournal | undefined;
}

/** What the holder process keeps of one FUSE mount. */
export class FuseHolding {
  readonly #holder: HolderClient;
  readonly #handing: MountHanding;
  #keys: string[] = [];
  #mount: HandedMount | undefined;

  constructor(holder: HolderClient, handing: MountHanding) {
    this.#holder = holder;
    this.#handing = handing;
  }

  /** As it would be handed over; undefined unless it is held. */
  get mount(): HandedMount | undefined {
    return this.#mount;
  }

  /** Last comes the mount itself: what it names is there when a successor sees it. @throws as `HolderClient.hold` */
  hold({ fd, minor, mountpoint, bootstrap, readTimeoutMs, journal }: HeldFuse): void {
    const { id, recordPath, call } = this.#handing;
    const key = `mount:${id}`;
    const data: FuseEntryData = {
      ...{ engine: "fuse", mountpoint, minor, call, protocol: PROTOCOL_VERSION },
      fuse: this.#keep(plainEntry(`fuse:${minor}`), fd),
      bootstrap: this.#keep(plainEntry(fileKey("bootstrap", bootstrap.fd)), bootstrap.fd),
      ...(journal && { journal: this.#keep(journal.entry, journal.fd) }),
    };
    const where = { engine: "fuse", mountpoint, minor, names: [], recordPath, readTimeoutMs } as const;
    this.#keep({ key, version: MOUNT_ENTRY_VERSION, plan: { kind: "mount", ...where }, data });
    this.#mount = { key, data: { ...data }, entry: (name) => this.#holder.entry(name) };
  }

  #keep(entry: HeldEntry, fd?: number): string {
    this.#holder.hold(entry, fd);
    this.#keys.push(entry.key);
    return entry.key;
  }

  drop(): void {
    for (const key of this.#keys.reverse()) this.#holder.drop(key);
    this.#keys = [];
    this.#mount = undefined;
  }
}

/**
 * The descriptor of a mount that another process has served, and what that one has not answered where the kernel does
 * not send it again.
 * @throws EFAULT something is missing; ENOTSUP of a version that is not known
 */
export function takeFuseMount(mount: HandedMount): { readonly fd: number; readonly unanswered: readonly bigint[] } {
  const { fuse, journal, protocol } = mount.data as unknown as FuseEntryData;
  if (protocol !== PROTOCOL_VERSION) throw unknownVersion(mount, "protocol");
  const fd = mount.entry(fuse)?.fd;
  if (fd === undefined) throw new NydusError("EFAULT", "Cannot take mount over: its descriptor is gone");
  if (journal === undefined) return { fd, unanswered: [] };
  const entry = mount.entry(journal);
  const unanswered = entry && readJournal(entry);
  if (unanswered === undefined) throw unknownVersion(mount, "journal");
  return { fd, unanswered };
}

function unknownVersion({ data }: HandedMount, what: string): NydusError {
  return new NydusError("ENOTSUP", `Cannot take mount over: its ${what} is of another version of this program`, {
    path: data.mountpoint,
  });
}
