import type { ByteRange } from "../../base/bytes.ts";
import type { Compressor } from "../../format/codec/codecs.ts";
import type { ChunkMap } from "../../format/rafs/chunk-map.ts";

/** Limits of fetches, bytes. */
export const FETCH_LIMITS = {
  /** Most that one fetch asks a source for; a unit larger than that goes alone. */
  blobBytes: 4 << 20,
  /** Most that one fetch decompresses to; as before. */
  unitBytes: 8 << 20,
  /** Largest gap between two wanted units that is fetched along with them. */
  gapBytes: 64 << 10,
  /** The same where no reader waits yet: who comes for a part of it is to wait for no more than that. */
  backgroundUnitBytes: 2 << 20,
} as const;

/** Bytes of the blob that decompress to one or more chunks. */
export interface PlannedUnit {
  readonly blobOffset: number;
  readonly blobSizeBytes: number;
  readonly unitBytes: number;
  readonly compressor: Compressor;
  /** Positions of the chunks that it is to give. */
  readonly chunks: number[];
}

/** One request to a source. */
export interface PlannedFetch {
  /** In the blob. */
  readonly range: ByteRange;
  /** By blob offset; they may overlap in a strange image. */
  readonly units: readonly PlannedUnit[];
}

/** What {@link planFetches} plans with. */
export interface PlanInput {
  readonly chunks: ChunkMap;
  /** Positions of missing chunks, ascending. */
  readonly wanted: readonly number[];
  /** Whether a chunk beside the wanted ones may be fetched along: missing, verifiable, not under way. */
  readonly mayAdd: (chunk: number) => boolean;
  /** Most that one fetch decompresses to; {@link FETCH_LIMITS}.unitBytes unless given. */
  readonly unitBytes?: number;
}

/** The fetches that bring all wanted chunks, with what lies in the same units. */
export function planFetches(input: PlanInput): PlannedFetch[] {
  const { chunks, unitBytes = FETCH_LIMITS.unitBytes } = input;
  const units: PlannedUnit[] = [];
  /** By blob offset: in a strange image the chunks of a unit do not follow one another. */
  const known = new Map<number, PlannedUnit>();
  for (const i of withCompanions(input)) {
    const unit = known.get(chunks.blobOffset(i));
    if (unit !== undefined && isOfUnit(chunks, i, unit)) unit.chunks.push(i);
    else {
      const found = newUnit(chunks, i);
      units.push(found);
      known.set(found.blobOffset, found);
    }
  }
  return merge(
    units.sort((a, b) => a.blobOffset - b.blobOffset),
    unitBytes,
  );
}

function isOfUnit(chunks: ChunkMap, i: number, unit: PlannedUnit): boolean {
  const isSameRange = chunks.blobSizeBytes(i) === unit.blobSizeBytes && chunks.unitBytes(i) === unit.unitBytes;
  return isSameRange && chunks.compressor(i) === unit.compressor;
}

function newUnit(chunks: ChunkMap, i: number): PlannedUnit {
  return {
    blobOffset: chunks.blobOffset(i),
    blobSizeBytes: chunks.blobSizeBytes(i),
    unitBytes: chunks.unitBytes(i),
    compressor: chunks.compressor(i),
    chunks: [i],
  };
}

/** The wanted chunks and their neighbours in the same units, ascending. */
function withCompanions(input: PlanInput): readonly number[] {
  const { chunks, wanted } = input;
  const hasBatches = wanted.some((i) => chunks.unitBytes(i) !== chunks.sizeBytes(i));
  return hasBatches ? withBatches(input) : [...wanted].sort((a, b) => a - b);
}

function withBatches({ chunks, wanted, mayAdd }: PlanInput): number[] {
  const all = new Set<number>();
  const isCompanion = (i: number, of: number): boolean =>
    i >= 0 && i < chunks.count && chunks.blobOffset(i) === chunks.blobOffset(of);
  for (const i of wanted) {
    all.add(i);
    if (chunks.unitBytes(i) === chunks.sizeBytes(i)) continue; // not batched
    for (let j = i - 1; isCompanion(j, i) && !all.has(j); j--) if (mayAdd(j)) all.add(j);
    for (let j = i + 1; isCompanion(j, i) && !all.has(j); j++) if (mayAdd(j)) all.add(j);
  }
  return [...all].sort((a, b) => a - b);
}

function merge(units: readonly PlannedUnit[], unitBytes: number): PlannedFetch[] {
  const fetches: { start: number; end: number; unitBytes: number; units: PlannedUnit[] }[] = [];
  for (const unit of units) {
    const open = fetches.at(-1);
    const end = unit.blobOffset + unit.blobSizeBytes;
    const joins =
      open !== undefined &&
      unit.blobOffset - open.end <= FETCH_LIMITS.gapBytes &&
      end - open.start <= FETCH_LIMITS.blobBytes &&
      open.unitBytes + unit.unitBytes <= unitBytes;
    if (joins) {
      open.units.push(unit);
      open.end = Math.max(open.end, end);
      open.unitBytes += unit.unitBytes;
    } else {
      fetches.push({ start: unit.blobOffset, end, unitBytes: unit.unitBytes, units: [unit] });
    }
  }
  return fetches.map(({ start, end, units: members }) => ({ range: { start, end }, units: members }));
}
