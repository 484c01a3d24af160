import { keyOfBytes } from "../../base/bytes.ts";
import { decodeNumber, GNU_TAIL_AT, GnuTail, isZeroBlock, latin1, malformedTar, TAR_BLOCK } from "./header.ts";
import { type PaxRecords, paxNumber, SPARSE_PAIRS } from "./pax.ts";
import type { Window } from "./window.ts";

/** A stretch of a sparse file that the archive stores; the rest of the file is zeros. Bytes. */
export interface SparseExtent {
  readonly offset: number;
  readonly size: number;
}

/** How a sparse file's stored bytes lie in it. */
export interface SparseMap {
  readonly extents: readonly SparseExtent[];
  /** Bytes of the file with its holes. */
  readonly sizeBytes: number;
}

/** Most stored stretches of one file: bounds memory. */
const MAX_SPARSE_EXTENTS = 1 << 20;

const OLD_ROW_BYTES = 24;
const OLD_NUMBER_BYTES = 12;
const OLD_HEADER_ROWS = 4;
const OLD_EXTENSION_ROWS = 21;
const MAX_DECIMAL_DIGITS = 16;

/**
 * The map of an old GNU sparse entry (type `S`), its extension blocks read from the window.
 * @param header the entry's header block @param offset of it in the tar stream
 * @throws EUCLEAN truncated or malformed
 */
export async function readOldSparse(header: Uint8Array, offset: number, window: Window): Promise<SparseMap> {
  const field = (name: "isExtended" | "realSize" | "sparse", length: number): Uint8Array =>
    header.subarray(GNU_TAIL_AT + GnuTail.at[name], GNU_TAIL_AT + GnuTail.at[name] + length);
  const sizeBytes = decodeNumber(field("realSize", OLD_NUMBER_BYTES), "sparse size", offset);
  let isExtended = field("isExtended", 1)[0] !== 0;
  const extents = oldRows(field("sparse", OLD_HEADER_ROWS * OLD_ROW_BYTES), offset);
  while (isExtended) {
    const block = await window.take(TAR_BLOCK, "a sparse map");
    const rows = OLD_EXTENSION_ROWS * OLD_ROW_BYTES;
    extents.push(...oldRows(block.subarray(0, rows), offset));
    isExtended = block[rows] !== 0;
    refuseTooMany(extents.length, offset);
  }
  return { extents, sizeBytes };
}

function oldRows(rows: Uint8Array, offset: number): SparseExtent[] {
  const extents: SparseExtent[] = [];
  for (let at = 0; at < rows.length; at += OLD_ROW_BYTES) {
    const row = rows.subarray(at, at + OLD_ROW_BYTES);
    if (isZeroBlock(row.subarray(OLD_NUMBER_BYTES)) && isZeroBlock(row.subarray(0, OLD_NUMBER_BYTES))) break;
    const start = decodeNumber(row.subarray(0, OLD_NUMBER_BYTES), "sparse offset", offset);
    extents.push({ offset: start, size: decodeNumber(row.subarray(OLD_NUMBER_BYTES), "sparse size", offset) });
  }
  return extents;
}

/**
 * The map of a sparse entry of pax 0.0, 0.1 or 1.0, or undefined where the records tell of none.
 * For 1.0 the map is read from the head of the body.
 * @param bodyBytes of the entry in the archive
 * @returns the map, and the bytes of the body that it took
 * @throws EUCLEAN truncated, malformed or of an unknown version
 */
export async function readPaxSparse(
  records: PaxRecords,
  place: { readonly offset: number; readonly bodyBytes: number },
  window: Window,
): Promise<{ readonly map: SparseMap; readonly mapBytes: number } | undefined> {
  const { offset } = place;
  const major = paxNumber(records, "GNU.sparse.major", offset);
  const minor = paxNumber(records, "GNU.sparse.minor", offset);
  const size = paxNumber(records, "GNU.sparse.realsize", offset) ?? paxNumber(records, "GNU.sparse.size", offset);
  if (major === undefined && size === undefined) return undefined;
  if (size === undefined) throw malformedTar("a sparse file has no GNU.sparse.realsize", offset);
  if (major === 1 && minor === 0) {
    const { extents, mapBytes } = await readBodyMap(place, window);
    return { map: { extents, sizeBytes: size }, mapBytes };
  }
  if ((major ?? 0) !== 0 || (minor ?? 0) > 1) throw malformedTar(`sparse format ${major}.${minor} is unknown`, offset);
  const text = records.get("GNU.sparse.map") ?? records.get(SPARSE_PAIRS);
  if (text === undefined) throw malformedTar("a sparse file has no map", offset);
  return { map: { extents: extentsOf(decimals(keyOfBytes(text), ",", offset), offset), sizeBytes: size }, mapBytes: 0 };
}

function decimals(text: string, separator: string, offset: number): number[] {
  if (text === "") return [];
  return text.split(separator).map((word) => decimal(word, offset));
}

function decimal(word: string, offset: number): number {
  const number = Number(word);
  if (!/^\d+$/.test(word) || word.length > MAX_DECIMAL_DIGITS || !Number.isSafeInteger(number)) {
    throw malformedTar(`sparse map number ${JSON.stringify(word.slice(0, 20))} is not below 2^53`, offset);
  }
  return number;
}

function extentsOf(numbers: readonly number[], offset: number): SparseExtent[] {
  if (numbers.length % 2 !== 0) throw malformedTar("a sparse map has an offset without a size", offset);
  refuseTooMany(numbers.length / 2, offset);
  const extents: SparseExtent[] = [];
  for (let i = 0; i < numbers.length; i += 2) {
    extents.push({ offset: numbers[i] as number, size: numbers[i + 1] as number });
  }
  return extents;
}

/** The map of sparse format 1.0: decimal lines at the head of the body, padded to a block. */
async function readBodyMap(
  place: { readonly offset: number; readonly bodyBytes: number },
  window: Window,
): Promise<{ extents: SparseExtent[]; mapBytes: number }> {
  let text = "";
  let mapBytes = 0;
  const nextNumber = async (): Promise<number> => {
    while (!text.includes("\n")) {
      if (text.length > MAX_DECIMAL_DIGITS) return decimal(text, place.offset);
      mapBytes += TAR_BLOCK;
      if (mapBytes > place.bodyBytes) throw malformedTar("a sparse map is longer than its body", place.offset);
      text += latin1(await window.take(TAR_BLOCK, "a sparse map"));
    }
    const end = text.indexOf("\n");
    const word = text.slice(0, end);
    text = text.slice(end + 1);
    return decimal(word, place.offset);
  };
  const count = await nextNumber();
  refuseTooMany(count, place.offset);
  const numbers: number[] = [];
  while (numbers.length < 2 * count) numbers.push(await nextNumber());
  return { extents: extentsOf(numbers, place.offset), mapBytes };
}

function refuseTooMany(count: number, offset: number): void {
  if (count > MAX_SPARSE_EXTENTS) {
    throw malformedTar(`a sparse map has ${count} extents, at most ${MAX_SPARSE_EXTENTS} wanted`, offset);
  }
}

/**
 * Checks that a map's extents are in order, apart, within the file, and add up to the bytes stored.
 * @throws EUCLEAN otherwise
 */
export function checkSparseMap(map: SparseMap, storedBytes: number, offset: number): void {
  let end = 0;
  let sum = 0;
  for (const extent of map.extents) {
    if (extent.offset < end || extent.size < 0)
      throw malformedTar("sparse extents overlap or are out of order", offset);
    end = extent.offset + extent.size;
    sum += extent.size;
    if (end > map.sizeBytes) throw malformedTar(`a sparse extent ends past the file's ${map.sizeBytes} bytes`, offset);
  }
  if (sum !== storedBytes) throw malformedTar(`sparse extents hold ${sum} bytes, the body ${storedBytes}`, offset);
}
