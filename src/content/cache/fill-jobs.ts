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
}

/**
 * A fetch as jobs for the codec threads: one, or several where there is work for several.
 * @param data the fetched bytes; handed over
 */
export function planJobs(target: JobTarget, fetch: PlannedFetch, data: FetchedBytes): PlannedJob[] {
  const { chunks, deviceFd } = target;
  const groups = groupUnits(fetch.units, target.threads);
  return groups.map((units) => {
    const start = (units[0] as PlannedUnit).blobOffset;
    const end = units.reduce((max, unit) => Math.max(max, unit.blobOffset + unit.blobSizeBytes), start);
    const range = { start: start - fetch.range.start, end: end - fetch.range.start };
    const job = {
      data: partOf(data, range, groups.length === 1),
      digester: chunks.digester,
      ...rowsOf(chunks, units, start),
      deviceFd,
    };
    return { job, units };
  });
}

function groupUnits(units: readonly PlannedUnit[], threads: number): PlannedUnit[][] {
  const total = units.reduce((sum, unit) => sum + unit.unitBytes, 0);
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

/** A part of the bytes; in a buffer that holds nothing else, for it is going to be transferred. */
function partOf(data: FetchedBytes, { start, end }: ByteRange, isOnlyPart: boolean): FetchedBytes {
  if (!(data instanceof Uint8Array)) return { fd: data.fd, position: data.position + start, sizeBytes: end - start };
  const isWhole = start === 0 && end === data.length && data.byteLength === data.buffer.byteLength;
  return isOnlyPart && isWhole ? data : data.slice(start, end);
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
