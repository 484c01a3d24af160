import { NydusError } from "../../base/errors.ts";
import type { Snapshot, SnapshotKind } from "./snapshot.ts";

const FORMAT_VERSION = 1;
const KINDS: readonly string[] = ["active", "view", "committed"] satisfies readonly SnapshotKind[];

/** The text of a snapshot's record, from which the database is made again. */
export function formatRecord(snapshot: Snapshot): string {
  return `${JSON.stringify({ version: FORMAT_VERSION, ...snapshot, labels: Object.fromEntries(snapshot.labels) })}\n`;
}

/**
 * A snapshot from its record.
 * @param id that the directory is named by: the record must say the same
 * @throws EUCLEAN not a record, or another snapshot's
 */
export function parseRecord(text: string, id: number): Snapshot {
  const found = parseObject(text);
  const { key, parent, kind, labels, createdMicros, updatedMicros } = found;
  const usage = found["usage"] as { sizeBytes?: unknown; inodes?: unknown } | undefined;
  const isWhole =
    found["version"] === FORMAT_VERSION &&
    found["id"] === id &&
    typeof key === "string" &&
    key !== "" &&
    typeof parent === "string" &&
    KINDS.includes(kind as string) &&
    [createdMicros, updatedMicros, usage?.sizeBytes, usage?.inodes].every(Number.isSafeInteger);
  if (!isWhole) throw damaged("a field is missing or wrong");
  return {
    id,
    key,
    parent,
    kind: kind as SnapshotKind,
    labels: parseLabels(labels),
    createdMicros: createdMicros as number,
    updatedMicros: updatedMicros as number,
    usage: { sizeBytes: usage?.sizeBytes as number, inodes: usage?.inodes as number },
  };
}

function parseObject(text: string): Readonly<Record<string, unknown>> {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === "object" && value !== null) return value as Readonly<Record<string, unknown>>;
  } catch (cause) {
    throw damaged("it is not JSON", cause);
  }
  throw damaged("it is not an object");
}

/** Labels as they are kept: a JSON object of texts. @throws EUCLEAN */
export function parseLabels(value: unknown): ReadonlyMap<string, string> {
  if (typeof value !== "object" || value === null) throw damaged("labels are no object");
  const entries = Object.entries(value);
  if (!entries.every((entry): entry is [string, string] => typeof entry[1] === "string")) {
    throw damaged("a label is no text");
  }
  return new Map(entries);
}

function damaged(found: string, cause?: unknown): NydusError {
  return new NydusError("EUCLEAN", `Cannot read snapshot record: ${found}`, {}, { cause });
}
