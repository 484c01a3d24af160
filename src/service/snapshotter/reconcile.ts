import { formatError } from "../../base/errors.ts";
import type { Snapshot } from "./snapshot.ts";
import type { FoundDir, SnapshotDirs } from "./snapshot-dirs.ts";
import type { SnapshotTable } from "./snapshot-table.ts";

/** What {@link reconcile} brings together. */
export interface Reconciled {
  readonly table: SnapshotTable;
  readonly dirs: SnapshotDirs;
  readonly log: (message: string) => void;
}

/**
 * Brings the database to what the records in the directories say, which are never older; a lost database is made again
 * by the same. Nothing that may be somebody's data is deleted: a directory whose record cannot be read, and that the
 * database does not know, is set aside. Only what was never finished goes.
 */
export function reconcile({ table, dirs, log }: Reconciled): void {
  const rows = new Map(table.list().map((row) => [row.id, row]));
  const found = dirs.ids().map((id) => dirs.read(id));
  const recorded = found.flatMap((dir) => snapshotOf(dir, rows) ?? []);
  const winners = onePerKey(recorded);
  table.transaction(() => {
    const changed = [...winners.values()].filter((snapshot) => !isSame(rows.get(snapshot.id), snapshot));
    for (const { id } of changed) table.delete(id);
    for (const snapshot of changed) {
      const rival = table.find(snapshot.key);
      if (rival !== undefined) table.delete(rival.id); // it has no directory, or has lost its key
      log(`the database ${rows.has(snapshot.id) ? "was behind" : "lacked"} snapshot ${snapshot.id} (${snapshot.key})`);
      table.insert(snapshot);
    }
    for (const dir of found) tidy(dir, { table, dirs, log });
    table.reserveIds(found.reduce((highest, { id }) => Math.max(highest, id), 0));
  });
}

/** The record, or where it cannot be read what the database knows. */
function snapshotOf({ id, snapshot }: FoundDir, rows: ReadonlyMap<number, Snapshot>): Snapshot | undefined {
  return snapshot ?? rows.get(id);
}

/** Of those that claim one key the latest. */
function onePerKey(snapshots: readonly Snapshot[]): Map<string, Snapshot> {
  const byKey = new Map<string, Snapshot>();
  for (const snapshot of snapshots) {
    if ((byKey.get(snapshot.key)?.id ?? 0) < snapshot.id) byKey.set(snapshot.key, snapshot);
  }
  return byKey;
}

/** Makes good what is wrong with a directory, once the database is right. */
function tidy({ id, snapshot, damage }: FoundDir, { table, dirs, log }: Reconciled): void {
  const row = table.get(id);
  if (row !== undefined && snapshot !== undefined) return;
  if (row !== undefined) {
    log(`snapshot ${id} (${row.key}) had no record that can be read: it is written again`);
    dirs.write(row);
  } else if (snapshot !== undefined || damage !== undefined) {
    log(`directory ${id} is set aside: ${damage === undefined ? "a later one has its key" : formatError(damage)}`);
    dirs.setAside(id);
  } else if (!dirs.hasMounts(id)) dirs.retire(id); // else it was being removed, and cleanup goes on with it
}

function isSame(row: Snapshot | undefined, record: Snapshot): boolean {
  return row !== undefined && comparable(row) === comparable(record);
}

function comparable({ labels, ...fields }: Snapshot): string {
  return JSON.stringify([Object.entries(fields).sort(), [...labels].sort()]);
}
