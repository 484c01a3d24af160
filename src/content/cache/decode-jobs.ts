import type { ChunkMap } from "../../format/rafs/chunk-map.ts";
import type { DecodeJob, DecodeUnit } from "../../os/codec-pool.ts";
import type { PlannedFetch, PlannedUnit } from "./fetch-plan.ts";

/** A job is worth a thread of its own from so many decompressed bytes on. */
const JOB_UNIT_BYTES = 512 << 10;

/** A job, and the planned units behind its units. */
export interface PlannedJob {
  readonly job: DecodeJob;
  readonly units: readonly PlannedUnit[];
}

/**
 * A fetch as jobs for the codec threads: one, or several where there is work for several.
 * @param data the fetched bytes; handed over
 * @param threads of the pool
 */
export function planJobs(chunks: ChunkMap, fetch: PlannedFetch, data: Uint8Array, threads: number): PlannedJob[] {
  const total = fetch.units.reduce((sum, unit) => sum + unit.unitBytes, 0);
  const share = Math.max(JOB_UNIT_BYTES, Math.ceil(total / threads));
  const groups: PlannedUnit[][] = [];
  let groupBytes = Number.POSITIVE_INFINITY;
  for (const unit of fetch.units) {
    if (groupBytes >= share) {
      groups.push([]);
      groupBytes = 0;
    }
    groups.at(-1)?.push(unit);
    groupBytes += unit.unitBytes;
  }
  return groups.map((units) => {
    const start = (units[0] as PlannedUnit).blobOffset;
    const end = units.reduce((max, unit) => Math.max(max, unit.blobOffset + unit.blobSizeBytes), start);
    const [from, to] = [start - fetch.range.start, end - fetch.range.start];
    const job = {
      data: groups.length === 1 ? ownBuffer(data, from, to) : data.slice(from, to),
      digester: chunks.digester,
      units: units.map((unit) => decodeUnitOf(chunks, unit, start)),
    };
    return { job, units };
  });
}

/** The bytes in a buffer that holds nothing else: it is going to be transferred. */
function ownBuffer(data: Uint8Array, from: number, to: number): Uint8Array {
  const isWhole = from === 0 && to === data.length && data.byteLength === data.buffer.byteLength;
  return isWhole ? data : data.slice(from, to);
}

function decodeUnitOf(chunks: ChunkMap, unit: PlannedUnit, start: number): DecodeUnit {
  return {
    offset: unit.blobOffset - start,
    sizeBytes: unit.blobSizeBytes,
    compressor: unit.compressor,
    unitBytes: unit.unitBytes,
    chunks: unit.chunks.map((i) => ({
      offsetInUnit: chunks.offsetInUnit(i),
      sizeBytes: chunks.sizeBytes(i),
      // a copy: a view of the mapped bootstrap would be cloned to the thread with all of its buffer
      digest: chunks.digest(i)?.slice(),
      crc32c: chunks.crc32c(i),
    })),
  };
}
