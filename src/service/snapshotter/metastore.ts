import { asNydusError, formatError, NydusError } from "../../base/errors.ts";
import type { Labels } from "../../format/containerd/labels.ts";
import { reconcile } from "./reconcile.ts";
import { NO_USAGE, type Snapshot, type SnapshotKind, type Usage } from "./snapshot.ts";
import type { Owner, SnapshotDirs } from "./snapshot-dirs.ts";
import { SnapshotTable } from "./snapshot-table.ts";

/** What {@link Metastore} is made of. */
export interface MetastoreOptions {
  /** Directory of the snapshotter. */
  readonly root: string;
  readonly dirs: SnapshotDirs;
  /** Microseconds since the epoch. */
  readonly now: () => number;
  readonly log: (message: string) => void;
}

/** What a new snapshot is to be. */
export interface NewSnapshot {
  readonly key: string;
  readonly parent: string;
  readonly kind: SnapshotKind;
  readonly labels: Labels;
  /** Of its files, where it is not who runs this. */
  readonly owner?: Owner | undefined;
}

/**
 * The snapshots by their keys: an index over the records in their directories, and what a change is a transaction of.
 * A change writes the record before it commits, so a record is never older than the database. Behaves as containerd's
 * core/snapshots/storage, from which clients know what fails how.
 */
export class Metastore implements Disposable {
  readonly #options: MetastoreOptions;
  readonly #table: SnapshotTable;

  /** Opens the database, and brings it to what the records say. @throws EBUSY another process; EPERM, ENOSPC, EIO */
  constructor(options: MetastoreOptions) {
    this.#options = options;
    this.#table = new SnapshotTable(options.root, options.log);
    try {
      reconcile({ ...options, table: this.#table });
    } catch (error) {
      this.#table[Symbol.dispose]();
      throw error;
    }
  }

  /** @returns undefined when there is none */
  find(key: string): Snapshot | undefined {
    return this.#table.find(key);
  }

  /** @throws ENOENT */
  get(key: string): Snapshot {
    const found = this.find(key);
    if (found === undefined) throw new NydusError("ENOENT", `Cannot find snapshot ${JSON.stringify(key)}`);
    return found;
  }

  /** All snapshots, in the order of their keys. */
  list(): Snapshot[] {
    return this.#table.list();
  }

  /** Those that stand on a snapshot, or on none where `parent` is "". */
  children(parent: string): Snapshot[] {
    return this.#table.children(parent);
  }

  /** Whether a directory's number is a snapshot's. */
  has(id: number): boolean {
    return this.#table.get(id) !== undefined;
  }

  /**
   * A snapshot and all below it, the nearest first.
   * @param key "" gives none
   * @throws ENOENT one of them is missing
   */
  chain(key: string): Snapshot[] {
    const chain: Snapshot[] = [];
    for (let next = key; next !== ""; ) {
      const found = this.get(next);
      if (chain.some(({ id }) => id === found.id)) throw new NydusError("EUCLEAN", "Cannot follow parents: a circle");
      chain.push(found);
      next = found.parent;
    }
    return chain;
  }

  /**
   * Adds a snapshot, with its directories.
   * @throws ENOENT, EINVAL its parent is missing or not committed; EEXIST the key is taken; ENOSPC, EIO
   */
  create({ key, parent, kind, labels, owner }: NewSnapshot): Snapshot {
    if (key === "") throw new NydusError("EINVAL", "Cannot create snapshot: its key is empty");
    let made: Snapshot | undefined;
    try {
      return this.#table.transaction(() => {
        if (parent !== "" && this.get(parent).kind !== "committed") {
          throw new NydusError("EINVAL", `Cannot create snapshot: parent ${JSON.stringify(parent)} is not committed`);
        }
        this.#requireFree(key);
        const now = this.#options.now();
        const fields = { key, parent, kind, labels: kept(labels), createdMicros: now, updatedMicros: now };
        const snapshot = this.#table.insert({ ...fields, usage: NO_USAGE });
        made = snapshot;
        this.#options.dirs.make(snapshot, owner);
        return snapshot;
      });
    } catch (error) {
      if (made !== undefined) this.#options.dirs.retire(made.id);
      throw error;
    }
  }

  /**
   * Makes an active snapshot a committed one of another name; its labels are replaced.
   * @param parent what it is to stand on, where it was made without one
   * @throws ENOENT, EEXIST the name is taken, EBUSY it is not active, EINVAL it has another parent
   */
  commit(key: string, name: string, to: { parent: string; labels: Labels; usage: Usage }): Snapshot {
    if (name === "") throw new NydusError("EINVAL", "Cannot commit snapshot: the name is empty");
    return this.#change(key, (before) => {
      this.#requireFree(name);
      requireActive(before);
      if (before.parent !== "" && to.parent !== "" && before.parent !== to.parent) {
        throw new NydusError("EINVAL", `Cannot commit snapshot ${JSON.stringify(key)}: it has another parent`);
      }
      const parent = before.parent === "" ? to.parent : before.parent;
      if (parent !== "" && this.get(parent).kind !== "committed") {
        throw new NydusError("EBUSY", `Cannot commit snapshot: parent ${JSON.stringify(parent)} is not committed`);
      }
      const now = this.#options.now();
      const times = { createdMicros: now, updatedMicros: now };
      return { ...before, ...times, key: name, parent, kind: "committed", labels: kept(to.labels), usage: to.usage };
    });
  }

  /** Replaces the labels of a snapshot. @param relabel gets those that it has @throws ENOENT; what `relabel` throws */
  relabel(key: string, relabel: (labels: Labels) => Labels): Snapshot {
    return this.#change(key, (before) => ({
      ...before,
      labels: kept(relabel(before.labels)),
      updatedMicros: this.#options.now(),
    }));
  }

  /** Removes a snapshot; its directory stays. @throws ENOENT; EBUSY others stand on it */
  remove(key: string): Snapshot {
    return this.#table.transaction(() => {
      const found = this.get(key);
      if (this.#table.hasChildren(key)) {
        throw new NydusError("EBUSY", `Cannot remove snapshot ${JSON.stringify(key)}: others stand on it`);
      }
      this.#table.delete(found.id);
      return found;
    });
  }

  #change(key: string, change: (before: Snapshot) => Snapshot): Snapshot {
    let written: Snapshot | undefined;
    try {
      return this.#table.transaction(() => {
        const before = this.get(key);
        const after = change(before);
        this.#table.update(after);
        written = before;
        this.#options.dirs.write(after);
        return after;
      });
    } catch (error) {
      if (written !== undefined) this.#writeBack(written);
      throw error;
    }
  }

  /** Undoes a record whose change was undone. Where that fails too, the change is made at the next start. */
  #writeBack(before: Snapshot): void {
    try {
      this.#options.dirs.write(before);
    } catch (error) {
      this.#options.log(`the record of ${before.key} is ahead: ${formatError(asNydusError(error))}`);
    }
  }

  #requireFree(key: string): void {
    if (this.find(key) !== undefined) {
      throw new NydusError("EEXIST", `Cannot make snapshot ${JSON.stringify(key)}: there is one`);
    }
  }

  [Symbol.dispose](): void {
    this.#table[Symbol.dispose]();
  }
}

/** @throws EBUSY */
export function requireActive({ kind, key }: Snapshot): void {
  if (kind !== "active") throw new NydusError("EBUSY", `Cannot commit snapshot ${JSON.stringify(key)}: it is ${kind}`);
}

/** A label without a value is none, as for containerd. */
function kept(labels: Labels): Labels {
  return new Map([...labels].filter(([, value]) => value !== ""));
}
