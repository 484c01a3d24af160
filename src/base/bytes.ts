import { NydusError } from "./errors.ts";

/** A half-open range of bytes, [start, end). */
export interface ByteRange {
  readonly start: number;
  readonly end: number;
}

/** EROFS block and cache granule, bytes. */
export const BLOCK_BYTES = 4096;

/** `value` rounded up to a multiple of `unit`; exact for results below 2^53. */
export function alignUp(value: number, unit: number): number {
  const rest = value % unit;
  return rest === 0 ? value : value + (unit - rest);
}

/**
 * A u64 from a file as a JavaScript number.
 * @param at byte offset it was read from, for the message
 * @throws EUCLEAN above 2^53-1
 */
export function safeU64(value: bigint, at: number): number {
  if (value > 9007199254740991n) {
    throw new NydusError("EUCLEAN", `Cannot read 64-bit value: ${value} is above 2^53-1`, { offset: at, length: 8 });
  }
  return Number(value);
}

/** Writes a safe integer as 64 bits, little-endian, negative ones in two's complement; for hot loops, without BigInt. */
export function setSafe64(view: DataView, at: number, value: number): void {
  view.setInt32(at, value, true); // the low 32 bits
  view.setInt32(at + 4, Math.floor(value / TWO_32), true);
}

const TWO_32 = 2 ** 32;

/**
 * A little-endian u64 as a number, inexact above 2^53-1. A small one stays a small integer: the engine keeps a product
 * with 2^32 as a double even when it is 7, and reading memory at an offset made of doubles takes ten times as long.
 */
export function readU64(view: DataView, at: number): number {
  const high = view.getUint32(at + 4, true);
  const low = view.getUint32(at, true);
  return high === 0 ? low : high * TWO_32 + low;
}

/** 2 to the power of `exponent`, as a small integer where it is one: see {@link readU64}. */
export function powerOfTwo(exponent: number): number {
  return exponent < 31 ? 1 << exponent : 2 ** exponent;
}

/** Joins pieces into one array of bytes; one piece is returned as it is, not copied. */
export function concatBytes(pieces: readonly Uint8Array[]): Uint8Array {
  if (pieces.length === 1 && pieces[0] !== undefined) return pieces[0];
  const joined = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    joined.set(piece, at);
    at += piece.length;
  }
  return joined;
}

/** Orders byte strings as memcmp does, the shorter first when one is a prefix: the order of EROFS directories. */
export function compareBytes(a: Uint8Array, b: Uint8Array): number {
  const common = Math.min(a.length, b.length);
  for (let i = 0; i < common; i++) {
    const difference = (a[i] as number) - (b[i] as number);
    if (difference !== 0) return difference;
  }
  return a.length - b.length;
}

/** Whether two byte strings are the same. */
export function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && compareBytes(a, b) === 0;
}

/** A view for fixed-layout reads; shares the bytes. */
export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/**
 * Bytes as a string of the same length, one char code a byte (Latin-1): a reversible map key for raw file names.
 * @see bytesOfKey
 */
export function keyOfBytes(bytes: Uint8Array): string {
  if (bytes.length <= KEY_PIECE_BYTES) return charsOf(bytes);
  let key = "";
  for (let i = 0; i < bytes.length; i += KEY_PIECE_BYTES) key += charsOf(bytes.subarray(i, i + KEY_PIECE_BYTES));
  return key;
}

/** Bytes that one call takes as arguments. */
const KEY_PIECE_BYTES = 4096;

/** `apply` reads the array in place; spreading it would iterate, many times slower for the digests of a conversion. */
function charsOf(bytes: Uint8Array): string {
  return String.fromCharCode.apply(null, bytes as unknown as number[]);
}

/** The inverse of {@link keyOfBytes}. */
export function bytesOfKey(key: string): Uint8Array {
  const bytes = new Uint8Array(key.length);
  for (let i = 0; i < key.length; i++) bytes[i] = key.charCodeAt(i);
  return bytes;
}
