import { renameSync } from "node:fs";
import { join } from "node:path";
import { asNydusError, formatError, NydusError } from "../../base/errors.ts";
import { openDatabase, type SqlDatabase, type SqlRow } from "../../os/sqlite.ts";
import type { Snapshot, SnapshotKind } from "./snapshot.ts";
import { parseLabels } from "./snapshot-record.ts";

const FILE = "metadata.sqlite";
/** Beside the database there may be its log, and what other programs that opened it have left. */
const COMPANIONS = ["", "-wal", "-shm", "-journal"];
const SCHEMA_VERSION = 1;
const COLUMNS = ["id", "key", "parent", "kind", "labels", "created", "updated", "size_bytes", "inodes"] as const;
const SCHEMA = `
CREATE TABLE snapshots (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  key TEXT NOT NULL UNIQUE,
  parent TEXT NOT NULL,
  kind TEXT NOT NULL CHECK (kind IN ('active', 'view', 'committed')),
  labels TEXT NOT NULL,
  created INTEGER NOT NULL,
  updated INTEGER NOT NULL,
  size_bytes INTEGER NOT NULL,
  inodes INTEGER NOT NULL
) STRICT;
CREATE INDEX snapshots_by_parent ON snapshots (parent);
PRAGMA user_version = ${SCHEMA_VERSION};
`;

/** The table of snapshots, typed. Each call is one statement; its errors are those of {@link SqlDatabase}. */
export class SnapshotTable implements Disposable {
  readonly #db: SqlDatabase;

  /**
   * Opens the table of a snapshotter's directory. A database that is damaged, or another program's, is set aside (never
   * deleted) and an empty one takes its place.
   * @throws EBUSY another process has it; EPERM, ENOSPC, EIO
   */
  constructor(root: string, log: (message: string) => void) {
    const path = join(root, FILE);
    try {
      this.#db = openChecked(path);
    } catch (error) {
      const failure = asNydusError(error);
      if (failure.code !== "EUCLEAN") throw failure;
      const aside = setAside(path);
      log(`${formatError(failure)}; it is kept as ${aside}, and made again from the snapshots' records`);
      this.#db = openChecked(path);
    }
  }

  /** Runs `change` in one transaction. */
  transaction<T>(change: () => T): T {
    return this.#db.transaction(change);
  }

  /** @returns undefined when there is none */
  find(key: string): Snapshot | undefined {
    return snapshotOf(this.#db.statement("SELECT * FROM snapshots WHERE key = ?").get(key));
  }

  /** All of them, in the order of their keys. */
  list(): Snapshot[] {
    return this.#db.statement("SELECT * FROM snapshots ORDER BY key").all().map(definiteSnapshot);
  }

  /** By the number of its directory. */
  get(id: number): Snapshot | undefined {
    return snapshotOf(this.#db.statement("SELECT * FROM snapshots WHERE id = ?").get(id));
  }

  children(parent: string): Snapshot[] {
    return this.#db
      .statement("SELECT * FROM snapshots WHERE parent = ? ORDER BY key")
      .all(parent)
      .map(definiteSnapshot);
  }

  hasChildren(key: string): boolean {
    return this.#db.statement("SELECT 1 FROM snapshots WHERE parent = ? LIMIT 1").get(key) !== undefined;
  }

  /** @param snapshot gets an id that no snapshot ever had, unless it has one */
  insert(snapshot: Omit<Snapshot, "id"> & { readonly id?: number }): Snapshot {
    const { lastId } = this.#db
      .statement(`INSERT INTO snapshots (${COLUMNS.join(", ")}) VALUES (${COLUMNS.map(() => "?").join(", ")})`)
      .run(snapshot.id ?? null, ...valuesOf(snapshot));
    return { ...snapshot, id: lastId };
  }

  update(snapshot: Snapshot): void {
    const sets = COLUMNS.slice(1).map((column) => `${column} = ?`);
    this.#db.statement(`UPDATE snapshots SET ${sets.join(", ")} WHERE id = ?`).run(...valuesOf(snapshot), snapshot.id);
  }

  /** Sees to it that no new snapshot gets a number up to `id`. */
  reserveIds(id: number): void {
    const { changes } = this.#db
      .statement("UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = 'snapshots'")
      .run(id);
    if (changes === 0) this.#db.statement("INSERT INTO sqlite_sequence (name, seq) VALUES ('snapshots', ?)").run(id);
  }

  delete(id: number): void {
    this.#db.statement("DELETE FROM snapshots WHERE id = ?").run(id);
  }

  [Symbol.dispose](): void {
    this.#db[Symbol.dispose]();
  }
}

/** The values of all columns but `id`. */
function valuesOf(snapshot: Omit<Snapshot, "id">): (string | number)[] {
  const { key, parent, kind, labels, createdMicros, updatedMicros, usage } = snapshot;
  const labelText = JSON.stringify(Object.fromEntries(labels));
  return [key, parent, kind, labelText, createdMicros, updatedMicros, usage.sizeBytes, usage.inodes];
}

function snapshotOf(row: SqlRow | undefined): Snapshot | undefined {
  return row === undefined ? undefined : definiteSnapshot(row);
}

function definiteSnapshot(row: SqlRow): Snapshot {
  return {
    id: row["id"] as number,
    key: row["key"] as string,
    parent: row["parent"] as string,
    kind: row["kind"] as SnapshotKind,
    labels: parseLabels(JSON.parse(row["labels"] as string)),
    createdMicros: row["created"] as number,
    updatedMicros: row["updated"] as number,
    usage: { sizeBytes: row["size_bytes"] as number, inodes: row["inodes"] as number },
  };
}

/** @returns the path it has now */
function setAside(path: string): string {
  const aside = `${path}.damaged-${Date.now()}`;
  for (const suffix of COMPANIONS) {
    try {
      renameSync(`${path}${suffix}`, `${aside}${suffix}`);
    } catch (error) {
      if ((error as { code?: unknown }).code !== "ENOENT") throw asNydusError(error, { path });
    }
  }
  return aside;
}

/** @throws EUCLEAN not a database, damaged, or not of this schema */
function openChecked(path: string): SqlDatabase {
  const db = openDatabase(path);
  try {
    const version = db.statement("PRAGMA user_version").get()?.["user_version"];
    const objects = db.statement("SELECT count(*) AS objects FROM sqlite_schema").get()?.["objects"];
    if (version === 0 && objects === 0) db.transaction(() => db.exec(SCHEMA));
    else if (version !== SCHEMA_VERSION) {
      throw new NydusError("EUCLEAN", `Cannot use database: its version is ${version}, not ${SCHEMA_VERSION}`, {
        path,
      });
    }
    db.statement(`SELECT ${COLUMNS.join(", ")} FROM snapshots`)
      .all()
      .forEach(definiteSnapshot);
    return db;
  } catch (error) {
    db[Symbol.dispose]();
    const failure = asNydusError(error, { path });
    // A table without our columns, or a row that is not ours, is damage too; a disk that fails is not.
    throw failure.code === "EFAULT" ? new NydusError("EUCLEAN", failure.message, { path }, { cause: error }) : failure;
  }
}
