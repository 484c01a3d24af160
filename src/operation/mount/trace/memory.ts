import type { ByteRange } from "../../../base/bytes.ts";
import { type ChunkTable, chunkCount, chunkStart, firstChunkBehind } from "../chunk-table.ts";

/**
 * First accesses of a traced mount, in memory that threads share: which chunks have been accessed, and a row for each
 * run of chunks that one access was the first of. Each chunk is in at most one row, so the rows have an end; memory
 * behind those that are used is never touched.
 */
export interface TraceMemory {
  /** `seen[slot - 1]`: bit `i` (of byte `i >> 3`, from the lowest) is set once chunk `i` has been accessed. */
  readonly seen: readonly Uint8Array<SharedArrayBuffer>[];
  readonly rows: Float64Array<SharedArrayBuffer>;
  /** Element 0 counts the rows that are taken, element `1 + i` is 1 once row `i` is written. */
  readonly written: Int32Array<SharedArrayBuffer>;
}

/** A first access. */
export interface TraceRow {
  /** 1-based. */
  readonly slot: number;
  /** Positions of chunks. */
  readonly first: number;
  readonly end: number;
  /** Of the file, unless who asked did not say. */
  readonly nid: number | undefined;
  /** Since the epoch, not whole. */
  readonly timeMs: number;
}

/** One device of a traced mount. */
export interface TracedDevice {
  readonly trace: TraceMemory;
  /** 1-based. */
  readonly slot: number;
  readonly chunks: ChunkTable;
}

const ROW = { slot: 0, first: 1, end: 2, nid: 3, timeMs: 4, length: 5 } as const;
const UNKNOWN = -1;

/** Memory for the devices of a mount, by their chunks. */
export function makeTraceMemory(devices: readonly ChunkTable[]): TraceMemory {
  const rows = devices.reduce((sum, chunks) => sum + chunkCount(chunks), 0);
  return {
    seen: devices.map((chunks) => new Uint8Array(new SharedArrayBuffer(Math.ceil(chunkCount(chunks) / 8)))),
    rows: new Float64Array(new SharedArrayBuffer(rows * ROW.length * Float64Array.BYTES_PER_ELEMENT)),
    written: new Int32Array(new SharedArrayBuffer((1 + rows) * Int32Array.BYTES_PER_ELEMENT)),
  };
}

/** The time of an access: the same in all threads. */
export function traceTimeMs(): number {
  return performance.timeOrigin + performance.now();
}

/** Notes an access; any thread may. @param nid of the file, where it is known */
export function noteAccess({ trace, slot, chunks }: TracedDevice, range: ByteRange, nid: number | undefined): void {
  const seen = trace.seen[slot - 1];
  if (seen === undefined) return;
  const count = chunkCount(chunks);
  let first = -1;
  let i = firstChunkBehind(chunks, range.start);
  for (; i < count && chunkStart(chunks, i) < range.end; i++) {
    const isFirst = claim(seen, i);
    if (isFirst && first < 0) first = i;
    if (isFirst || first < 0) continue;
    addRow(trace, { slot, first, end: i, nid, timeMs: traceTimeMs() });
    first = -1;
  }
  if (first >= 0) addRow(trace, { slot, first, end: i, nid, timeMs: traceTimeMs() });
}

/** @returns whether nobody has accessed the chunk before */
function claim(seen: Uint8Array<SharedArrayBuffer>, chunk: number): boolean {
  const mask = 1 << (chunk & 7);
  if ((Atomics.load(seen, chunk >> 3) & mask) !== 0) return false;
  return (Atomics.or(seen, chunk >> 3, mask) & mask) === 0;
}

function addRow({ rows, written }: TraceMemory, { slot, first, end, nid = UNKNOWN, timeMs }: TraceRow): void {
  const i = Atomics.add(written, 0, 1);
  rows.set([slot, first, end, nid, timeMs], i * ROW.length);
  Atomics.store(written, 1 + i, 1);
}

/** Row `i`, or undefined while it is not written. */
export function readTraceRow({ rows, written }: TraceMemory, i: number): TraceRow | undefined {
  if (1 + i >= written.length || Atomics.load(written, 1 + i) === 0) return undefined;
  const at = (column: number): number => rows[i * ROW.length + column] as number;
  const nid = at(ROW.nid);
  return {
    slot: at(ROW.slot),
    first: at(ROW.first),
    end: at(ROW.end),
    nid: nid === UNKNOWN ? undefined : nid,
    timeMs: at(ROW.timeMs),
  };
}
