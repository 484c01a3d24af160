import type { ByteRange } from "../../base/bytes.ts";
import { DIGEST_BYTES } from "../../format/codec/codecs.ts";
import type { ChunkMap } from "../../format/rafs/chunk-map.ts";
import {
  CHUNK_CHECK,
  CHUNK_ROW,
  COMPRESSOR_ORDER,
  type FileBytes,
  type FillJob,
  UNIT_ROW,
} from "../../os/codec-pool.ts";
import type { PlannedFetch, PlannedUnit } from "./fetch-plan.ts";

/** A job is worth a thread of its own from so many decompressed bytes on. */
const JOB_UNIT_BYTES = 512 << 10;
/** What nobody has asked for is worth a job behind the one that somebody waits for from so many on. */
const BESIDE_UNIT_BYTES = 64 << 10;

/** The bytes of a fetch, or where they can be read. */
export type FetchedBytes = Uint8Array | FileBytes;

/** A job, and the planned units behind its units. */
export interface PlannedJob {
  readonly job: FillJob;
  readonly units: readonly PlannedUnit[];
}

/** What {@link planJobs} plans for. */
export interface JobTarget {
  readonly chunks: ChunkMap;
  readonly deviceFd: number;
  /** Of the pool. */
  readonly threads: number;
  /** Chunks that readers wait for: their jobs come first, and bring little else. */
  readonly asked: ReadonlySet<number>;
}

/**
 * A fetch as jobs for the codec threads: one, or several where there is work for several.
 * @param data the fetched bytes; handed over
 */
export function planJobs(target: JobTarget, fetch: PlannedFetch, data: FetchedBytes): PlannedJob[] {
  const { chunks, deviceFd } = target;
  const groups = groupUnits(fetch.units, target);
  return groups.map((units, i) => {
    const part = partOf(data, rangeOf(units, fetch.range.start), i === groups.length - 1);
    const job = {
      data: part.data,
      digester: chunks.digester,
      ...rowsOf(chunks, units, fetch.range.start + part.start),
      deviceFd,
    };
    return { job, units };
  });
}

/** Where units are in what begins at blob offset `start`. */
function rangeOf(units: readonly PlannedUnit[], start: number): ByteRange {
  const [first, ends] = [units[0] as PlannedUnit, units.map((unit) => unit.blobOffset + unit.blobSizeBytes)];
  return { start: first.blobOffset - start, end: Math.max(...ends) - start };
}

function groupUnits(units: readonly PlannedUnit[], { threads, asked }: JobTarget): PlannedUnit[][] {
  const isAsked = (unit: PlannedUnit): boolean => unit.chunks.some((chunk) => asked.has(chunk));
  const first = asked.size === 0 ? [] : units.filter(isAsked);
  const rest = first.length === 0 ? units : units.filter((unit) => !isAsked(unit));
  if (first.length === 0 || sumBytes(rest) < BESIDE_UNIT_BYTES) return shareOut(units, threads);
  return [...shareOut(first, threads), ...shareOut(rest, threads)];
}

function sumBytes(units: readonly PlannedUnit[]): number {
  return units.reduce((sum, unit) => sum + unit.unitBytes, 0);
}

function shareOut(units: readonly PlannedUnit[], threads: number): PlannedUnit[][] {
  const total = sumBytes(units);
  const share = Math.max(JOB_UNIT_BYTES, Math.ceil(total / threads));
  const groups: PlannedUnit[][] = [];
  let groupBytes = Number.POSITIVE_INFINITY;
  for (const unit of units) {
    if (groupBytes >= share) {
      groups.push([]);
      groupBytes = 0;
    }
    groups.at(-1)?.push(unit);
    groupBytes += unit.unitBytes;
  }
  return groups;
}

/** A part of the bytes, and where in them it begins; it is going to be transferred: the last one gets the buffer. */
function partOf(
  data: FetchedBytes,
  { start, end }: ByteRange,
  isLast: boolean,
): { readonly data: FetchedBytes; readonly start: number } {
  if (!(data instanceof Uint8Array)) {
    return { data: { fd: data.fd, position: data.position + start, sizeBytes: end - start }, start };
  }
  if (isLast && data.byteLength === data.buffer.byteLength) return { data, start: 0 };
  return { data: data.slice(start, end), start };
}

function rowsOf(
  chunks: ChunkMap,
  units: readonly PlannedUnit[],
  start: number,
): Pick<FillJob, "units" | "chunks" | "digests"> {
  const total = units.reduce((sum, unit) => sum + unit.chunks.length, 0);
  const unitRows = new Float64Array(units.length * UNIT_ROW.length);
  const chunkRows = new Float64Array(total * CHUNK_ROW.length);
  const digests = new Uint8Array(total * DIGEST_BYTES);
  let row = 0;
  for (const [u, unit] of units.entries()) {
    const { blobOffset, blobSizeBytes, compressor, unitBytes } = unit;
    const number = COMPRESSOR_ORDER.indexOf(compressor);
    unitRows.set([blobOffset - start, blobSizeBytes, number, unitBytes, unit.chunks.length], u * UNIT_ROW.length);
    for (const i of unit.chunks) {
      const digest = chunks.digest(i);
      if (digest !== undefined) digests.set(digest, row * DIGEST_BYTES);
      const check = digest !== undefined ? CHUNK_CHECK.digest : (chunks.crc32c(i) ?? CHUNK_CHECK.nothing);
      const values = [chunks.deviceOffset(i), chunks.offsetInUnit(i), chunks.sizeBytes(i), check];
      chunkRows.set(values, row++ * CHUNK_ROW.length);
    }
  }
  return { units: unitRows, chunks: chunkRows, digests };
}
