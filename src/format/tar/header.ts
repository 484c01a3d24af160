import { viewOf } from "../../base/bytes.ts";
import { NydusError } from "../../base/errors.ts";
import { bytes, struct } from "../../base/struct.ts";

/** Bytes of a tar block: headers are one block, bodies are padded to blocks. */
export const TAR_BLOCK = 512;

/** The POSIX ustar header; v7 and GNU headers share it up to `magic`. */
export const UstarHeader = struct("ustar header", TAR_BLOCK, {
  name: [0, bytes(100)],
  mode: [100, bytes(8)],
  uid: [108, bytes(8)],
  gid: [116, bytes(8)],
  size: [124, bytes(12)],
  mtime: [136, bytes(12)],
  checksum: [148, bytes(8)],
  typeflag: [156, bytes(1)],
  linkname: [157, bytes(100)],
  magic: [257, bytes(6)],
  version: [263, bytes(2)],
  uname: [265, bytes(32)],
  gname: [297, bytes(32)],
  devmajor: [329, bytes(8)],
  devminor: [337, bytes(8)],
  prefix: [345, bytes(155)],
  padding: [500, bytes(12)],
});

/** What an old GNU header has where ustar has its prefix. */
export const GnuTail = struct("GNU tar header tail", TAR_BLOCK - 345, {
  atime: [0, bytes(12)],
  ctime: [12, bytes(12)],
  offset: [24, bytes(12)],
  longnames: [36, bytes(4)],
  unused: [40, bytes(1)],
  sparse: [41, bytes(4 * 24)],
  isExtended: [137, bytes(1)],
  realSize: [138, bytes(12)],
  padding: [150, bytes(17)],
});

/** Where {@link GnuTail} begins in the header. */
export const GNU_TAIL_AT = UstarHeader.at.prefix;

const GNU_MAGIC = "ustar  \0";
const POSIX_MAGIC = "ustar\0";

/** Which dialect a header is of: it decides what bytes 345 to 511 mean. */
export type TarDialect = "v7" | "ustar" | "gnu";

/** A failure of tar bytes at `offset` of the tar stream. */
export function malformedTar(found: string, offset: number): NydusError {
  return new NydusError("EUCLEAN", `Cannot read tar: ${found}`, { offset });
}

/** The dialect by the header's magic and version. */
export function dialectOf(block: Uint8Array): TarDialect {
  const magic = latin1(block.subarray(UstarHeader.at.magic, UstarHeader.at.uname));
  if (magic === GNU_MAGIC) return "gnu";
  return magic.startsWith(POSIX_MAGIC) ? "ustar" : "v7";
}

/** ASCII or Latin-1 bytes as a string; for short fields only. */
export function latin1(field: Uint8Array): string {
  return String.fromCharCode(...field);
}

/** The bytes of a field before its first NUL; a view. */
export function untilNul(field: Uint8Array): Uint8Array {
  const end = field.indexOf(0);
  return end < 0 ? field : field.subarray(0, end);
}

/** One field of a header block; a view. */
export function fieldOf(block: Uint8Array, name: Exclude<keyof typeof UstarHeader.at, "padding">): Uint8Array {
  const start = UstarHeader.at[name];
  return block.subarray(start, start + FIELD_BYTES[name]);
}

const FIELD_BYTES = fieldLengths();

function fieldLengths(): Record<keyof typeof UstarHeader.at, number> {
  const starts = Object.entries(UstarHeader.at);
  const lengths = starts.map(([name, start], i) => [name, (starts[i + 1]?.[1] ?? TAR_BLOCK) - start]);
  return Object.fromEntries(lengths) as Record<keyof typeof UstarHeader.at, number>;
}

const SPACE = 0x20;
const ZERO = 0x30;

/**
 * A numeric field: octal digits among spaces and NULs, or GNU's base-256; a blank field is 0.
 * @param what the field's name, for the message
 * @param offset of the header in the tar stream
 * @throws EUCLEAN on another character, or beyond 2^53-1 either way
 */
export function decodeNumber(field: Uint8Array, what: string, offset: number): number {
  const first = field[0] as number;
  return (first & 0x80) === 0 ? decodeOctal(field, what, offset) : decodeBase256(field, what, offset);
}

/**
 * A numeric field of a header block, as {@link decodeNumber} reads it; plain octal without a view of the field.
 * @throws EUCLEAN as decodeNumber
 */
export function numberOf(block: Uint8Array, name: NumberField, offset: number): number {
  const start = UstarHeader.at[name];
  const end = start + FIELD_BYTES[name];
  let value = 0;
  let at = start;
  for (; at < end; at++) {
    const digit = (block[at] as number) - ZERO;
    if (digit < 0 || digit > 7) break;
    value = value * 8 + digit; // 12 digits of octal: below 2^36
  }
  while (at < end && isBlank(block[at])) at++;
  return at === end ? value : decodeNumber(block.subarray(start, end), name, offset);
}

/** The fields that {@link numberOf} reads; their names are those of messages too. */
export type NumberField = "mode" | "uid" | "gid" | "size" | "mtime" | "devmajor" | "devminor";

function decodeOctal(field: Uint8Array, what: string, offset: number): number {
  let at = 0;
  let end = field.length;
  while (at < end && isBlank(field[at])) at++;
  while (end > at && isBlank(field[end - 1])) end--;
  let value = 0;
  for (; at < end; at++) {
    const digit = (field[at] as number) - ZERO;
    if (digit < 0 || digit > 7) throw malformedTar(`${what} ${JSON.stringify(latin1(field))} is not octal`, offset);
    value = value * 8 + digit; // 12 digits of octal: below 2^36
  }
  return value;
}

function isBlank(byte: number | undefined): boolean {
  return byte === SPACE || byte === 0;
}

function decodeBase256(field: Uint8Array, what: string, offset: number): number {
  const negative = ((field[0] as number) & 0x40) !== 0;
  let value = negative ? -1n : 0n;
  for (let i = 0; i < field.length; i++) {
    const byte = i === 0 ? ((field[0] as number) & 0x7f) | (negative ? 0x80 : 0) : (field[i] as number);
    value = (value << 8n) | BigInt(byte);
  }
  const number = Number(value);
  if (!Number.isSafeInteger(number)) throw malformedTar(`${what} ${value} is beyond 2^53-1`, offset);
  return number;
}

/**
 * Checks a header's checksum, as sums of unsigned bytes and, as some old writers have it, of signed ones.
 * @throws EUCLEAN when neither is what the header says
 */
export function verifyChecksum(block: Uint8Array, offset: number): void {
  const stored = decodeNumber(fieldOf(block, "checksum"), "checksum", offset);
  const field = fieldOf(block, "checksum");
  const unsigned = sumOf(block) - sumOf(field) + SPACE * field.length;
  if (stored === unsigned) return;
  const negatives = negativesIn(block) - negativesIn(field);
  if (stored !== unsigned - 256 * negatives) {
    throw malformedTar(`header checksum is ${stored}, ${unsigned} wanted`, offset);
  }
}

/** The sum of at most 512 bytes, a multiple of 4: four at a time, in lanes of 16 bits. */
function sumOf(bytes: Uint8Array): number {
  const view = viewOf(bytes);
  let even = 0;
  let odd = 0;
  for (let at = 0; at < bytes.length; at += 4) {
    const word = view.getInt32(at, true);
    if (word === 0) continue; // most of a header is
    even += word & LANES;
    odd += (word >>> 8) & LANES;
  }
  return (even & 0xffff) + (even >>> 16) + (odd & 0xffff) + (odd >>> 16);
}

const LANES = 0x00ff00ff;

function negativesIn(bytes: Uint8Array): number {
  let count = 0;
  for (const byte of bytes) if (byte > 127) count++;
  return count;
}

/** Whether a block is all zeros: the end of an archive. */
export function isZeroBlock(block: Uint8Array): boolean {
  for (let i = 0; i < block.length; i++) if (block[i] !== 0) return false;
  return true;
}

/** Octal digits filling all but the last byte of a field, or undefined when they do not fit. */
export function octalField(value: number, fieldBytes: number): Uint8Array | undefined {
  const digits = value.toString(8).padStart(fieldBytes - 1, "0");
  if (value < 0 || !Number.isSafeInteger(value) || digits.length >= fieldBytes) return undefined;
  return new TextEncoder().encode(`${digits}\0`);
}

/** Fields of a header to be written; numbers must fit (see {@link octalField}). */
export interface HeaderFields {
  readonly name: Uint8Array;
  readonly prefix?: Uint8Array;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly size: number;
  readonly mtime: number;
  readonly typeflag: string;
  readonly linkname?: Uint8Array;
  readonly devmajor?: number;
  readonly devminor?: number;
}

const encoder = new TextEncoder();

/** A ustar header block with its checksum; numbers that do not fit are written as 0 (a pax record carries them). */
export function encodeHeader(fields: HeaderFields): Uint8Array {
  const number = (value: number, width: number): Uint8Array =>
    octalField(value, width) ?? encoder.encode(`${"0".repeat(width - 1)}\0`);
  const block = new Uint8Array(TAR_BLOCK);
  UstarHeader.write(block, 0, {
    name: fields.name,
    mode: number(fields.mode, 8),
    uid: number(fields.uid, 8),
    gid: number(fields.gid, 8),
    size: number(fields.size, 12),
    mtime: number(fields.mtime, 12),
    checksum: encoder.encode("        "),
    typeflag: encoder.encode(fields.typeflag),
    linkname: fields.linkname ?? new Uint8Array(0),
    magic: encoder.encode(POSIX_MAGIC),
    version: encoder.encode("00"),
    devmajor: number(fields.devmajor ?? 0, 8),
    devminor: number(fields.devminor ?? 0, 8),
    prefix: fields.prefix ?? new Uint8Array(0),
  });
  let sum = 0;
  for (const byte of block) sum += byte;
  block.set(encoder.encode(`${sum.toString(8).padStart(6, "0")}\0 `), UstarHeader.at.checksum);
  return block;
}
