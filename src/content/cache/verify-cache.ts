import { closeSync, openSync } from "node:fs";
import { NydusError } from "../../base/errors.ts";
import type { Digester } from "../../format/codec/codecs.ts";
import type { CodecPool } from "../../os/codec-pool.ts";
import { tryLockShared } from "../../os/file-lock.ts";
import { closeFile, openFile, readFully } from "../store/file-io.ts";
import { dropRecords, readLog } from "./admin.ts";
import { type CachePlace, sharedPath } from "./cache-names.ts";
import { type ChunkRecord, IDENTITY_KINDS } from "./map-file.ts";

/** Bytes that are checked in one go. */
const JOB_BYTES = 4 << 20;

/** What became of checking a cache. */
export interface VerifiedCache {
  readonly chunks: number;
  readonly bytes: number;
  /** Chunks whose bytes are not what the map says. */
  readonly bad: readonly { readonly deviceOffset: number; readonly sizeBytes: number }[];
  /** Whether they are out of the map now, and fetched again when they are read; false while a process uses them. */
  readonly isDropped: boolean;
}

/**
 * Checks every chunk that a cache claims against the digest in its map, and drops those that differ.
 * @throws EIO the data cannot be read; EBUSY the cache is being made or removed
 */
export async function verifyCache(
  place: CachePlace,
  { pool, signal }: { readonly pool: CodecPool; readonly signal: AbortSignal },
): Promise<VerifiedCache> {
  const { records, bad } = await underUse(place, () => checkAll(place, pool, signal));
  const bytes = records.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  const isDropped = bad.length === 0 || (await dropRecords(place, new Set(bad.map((one) => one.deviceOffset))));
  return { chunks: records.length, bytes, bad, isDropped };
}

/** Does something as one of those who use a cache, so that nobody begins it anew meanwhile. */
async function underUse<T>(place: CachePlace, work: () => Promise<T>): Promise<T> {
  const path = sharedPath(place, "lock");
  const fd = openSync(path, "a", 0o600);
  try {
    if (!tryLockShared(fd, path)) throw new NydusError("EBUSY", "Cannot verify cache: it is being changed", { path });
    return await work();
  } finally {
    closeSync(fd);
  }
}

interface Checked {
  readonly records: readonly ChunkRecord[];
  readonly bad: readonly ChunkRecord[];
}

async function checkAll(place: CachePlace, pool: CodecPool, signal: AbortSignal): Promise<Checked> {
  const records = [...(readLog(place)?.records.values() ?? [])].sort((a, b) => a.deviceOffset - b.deviceOffset);
  if (records.length === 0) return { records, bad: [] };
  const path = sharedPath(place, "data");
  const fd = await openFile(path, "r");
  const bad: ChunkRecord[] = [];
  try {
    for (const group of groupsOf(records)) {
      signal.throwIfAborted();
      bad.push(...(await checkGroup(group, pool, { fd, path })));
    }
  } finally {
    await closeFile(fd);
  }
  return { records, bad };
}

/** Neighbours of one kind, so many that they make a job. */
function groupsOf(records: readonly ChunkRecord[]): ChunkRecord[][] {
  const groups: ChunkRecord[][] = [];
  for (const record of records) {
    const [first] = groups.at(-1) ?? [];
    const end = record.deviceOffset + record.sizeBytes;
    const joins = first !== undefined && first.kind === record.kind && end - first.deviceOffset <= JOB_BYTES;
    if (joins) groups.at(-1)?.push(record);
    else groups.push([record]);
  }
  return groups;
}

async function checkGroup(
  group: readonly ChunkRecord[],
  pool: CodecPool,
  { fd, path }: { readonly fd: number; readonly path: string },
): Promise<ChunkRecord[]> {
  const start = group[0]?.deviceOffset ?? 0;
  const end = group.reduce((max, { deviceOffset, sizeBytes }) => Math.max(max, deviceOffset + sizeBytes), start);
  const results = await pool.decode({
    data: await readFully(fd, { start, end }, path),
    digester: digesterOf(group[0]?.kind),
    units: group.map(({ deviceOffset, sizeBytes, kind, identity }) => ({
      offset: deviceOffset - start,
      sizeBytes,
      compressor: "none",
      unitBytes: sizeBytes,
      chunks: [{ offsetInUnit: 0, sizeBytes, ...checkOf(kind, identity) }],
    })),
  });
  return group.filter((_, i) => !(results[i] instanceof Uint8Array));
}

function digesterOf(kind: number | undefined): Digester {
  return kind === IDENTITY_KINDS.blake3 ? "blake3" : "sha256";
}

function checkOf(kind: number, identity: Uint8Array): { readonly digest?: Uint8Array; readonly crc32c?: number } {
  if (kind !== IDENTITY_KINDS.crc32c) return { digest: identity.slice() };
  return { crc32c: new DataView(identity.buffer, identity.byteOffset).getUint32(0, true) };
}
