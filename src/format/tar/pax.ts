import { bytesOfKey, keyOfBytes } from "../../base/bytes.ts";
import { latin1, malformedTar } from "./header.ts";

/** Most bytes of pax records, and of a GNU long name, that belong to one entry. */
export const MAX_PAX_BYTES = 1 << 20;

/** Most bytes of an xattr name, and of its value, in Linux (xattr(7)). */
const MAX_XATTR_NAME_BYTES = 255;
const MAX_XATTR_VALUE_BYTES = 65536;

/** pax records by keyword (a Latin-1 key); values are copies. */
export type PaxRecords = Map<string, Uint8Array>;

/** Extents of GNU.sparse.* 0.0, which repeat their keywords: kept in order. */
export const SPARSE_PAIRS = "GNU.sparse.offset/numbytes";

const NEWLINE = 0x0a;
const EQUALS = 0x3d;
const SPACE = 0x20;

/**
 * Parses the body of an `x` or `g` header into `records`; later records win.
 * The repeated GNU.sparse.offset and numbytes are gathered under {@link SPARSE_PAIRS} as "offset,size,…".
 * @param offset of the header in the tar stream, for messages
 * @throws EUCLEAN on a record that is not "LENGTH KEYWORD=VALUE\n" (POSIX pax, Extended Header)
 */
export function decodePax(body: Uint8Array, offset: number, records: PaxRecords): void {
  const pairs: string[] = [];
  let at = 0;
  while (at < body.length) {
    const end = recordEnd(body, at, offset);
    const keyAt = body.indexOf(SPACE, at) + 1;
    const equalsAt = body.indexOf(EQUALS, keyAt);
    if (equalsAt < 0 || equalsAt >= end || equalsAt === keyAt) throw badRecord("no KEYWORD=", at, offset);
    const key = keyOfBytes(body.subarray(keyAt, equalsAt));
    const value = body.slice(equalsAt + 1, end - 1);
    if (key === "GNU.sparse.offset" || key === "GNU.sparse.numbytes") pairs.push(latin1(value.subarray(0, 32)));
    else records.set(key, value);
    at = end;
  }
  if (pairs.length > 0) records.set(SPARSE_PAIRS, bytesOfKey(pairs.join(",")));
}

/** Where the record at `at` ends: its decimal length counts itself, the space and the newline. */
function recordEnd(body: Uint8Array, at: number, offset: number): number {
  let length = 0;
  let next = at;
  for (; next < body.length && body[next] !== SPACE; next++) {
    const digit = (body[next] as number) - 0x30;
    if (digit < 0 || digit > 9 || next - at > 8) throw badRecord("no decimal length", at, offset);
    length = length * 10 + digit;
  }
  const end = at + length;
  if (next === at || end > body.length || end <= next + 1) throw badRecord(`length ${length} does not fit`, at, offset);
  if (body[end - 1] !== NEWLINE) throw badRecord("no newline at its end", at, offset);
  return end;
}

function badRecord(found: string, at: number, offset: number): Error {
  return malformedTar(`pax record at byte ${at} of its header has ${found}`, offset);
}

/** Bytes that records hold, for bounding what global headers add up to. */
export function paxBytes(records: PaxRecords): number {
  let sum = 0;
  for (const [key, value] of records) sum += key.length + value.length;
  return sum;
}

/** A decimal record as a number, or undefined when absent or empty. @throws EUCLEAN on other text or above 2^53-1 */
export function paxNumber(records: PaxRecords, key: string, offset: number): number | undefined {
  const value = records.get(key);
  if (value === undefined || value.length === 0) return undefined;
  const text = latin1(value.subarray(0, 32));
  const number = Number(text);
  if (!/^\d{1,20}$/.test(text) || !Number.isSafeInteger(number)) {
    throw malformedTar(`pax ${key} ${JSON.stringify(text)} is not a number below 2^53`, offset);
  }
  return number;
}

/** A path record, or undefined when absent or empty. @throws EUCLEAN when it holds a NUL */
export function paxPath(records: PaxRecords, key: string, offset: number): Uint8Array | undefined {
  const value = records.get(key);
  if (value === undefined || value.length === 0) return undefined;
  if (value.includes(0)) throw malformedTar(`pax ${key} holds a NUL`, offset);
  return value;
}

/** A point in time: seconds since 1970 and nanoseconds after them, 0 to 999,999,999. */
export interface Timestamp {
  readonly sec: number;
  readonly nsec: number;
}

/**
 * The mtime record, decimal with sign and fraction, cut to nanoseconds; undefined when absent or empty.
 * @throws EUCLEAN on other text
 */
export function paxTime(records: PaxRecords, offset: number): Timestamp | undefined {
  const value = records.get("mtime");
  if (value === undefined || value.length === 0) return undefined;
  const text = latin1(value.subarray(0, 64));
  const match = /^(-?)(\d{1,16})(?:\.(\d*))?$/.exec(text);
  const whole = Number(match?.[2]);
  if (match === null || !Number.isSafeInteger(whole)) {
    throw malformedTar(`pax mtime ${JSON.stringify(text)} is not a time`, offset);
  }
  const fraction = Number((match[3] ?? "").slice(0, 9).padEnd(9, "0"));
  if (match[1] === "") return { sec: whole, nsec: fraction };
  return fraction === 0 ? { sec: 0 - whole, nsec: 0 } : { sec: -whole - 1, nsec: 1e9 - fraction };
}

const SCHILY = "SCHILY.xattr.";
const LIBARCHIVE = "LIBARCHIVE.xattr.";

/**
 * The xattrs that records carry: SCHILY.xattr.NAME raw, LIBARCHIVE.xattr.NAME with the name URL-encoded and the value
 * in base64; where both name one, SCHILY wins.
 * @throws EUCLEAN on a name or value that Linux could not hold, or bad base64
 */
export function paxXattrs(records: PaxRecords, offset: number): Map<string, Uint8Array> {
  const xattrs = new Map<string, Uint8Array>();
  for (const [key, value] of records) {
    if (key.startsWith(LIBARCHIVE)) xattrs.set(urlDecoded(key.slice(LIBARCHIVE.length)), unbase64(value, key, offset));
  }
  for (const [key, value] of records) if (key.startsWith(SCHILY)) xattrs.set(key.slice(SCHILY.length), value);
  for (const [name, value] of xattrs) {
    if (name.length === 0 || name.length > MAX_XATTR_NAME_BYTES || name.includes("\0")) {
      throw malformedTar(`xattr name of ${name.length} bytes is not one of 1 to 255 bytes without NUL`, offset);
    }
    if (value.length > MAX_XATTR_VALUE_BYTES) {
      throw malformedTar(`xattr ${JSON.stringify(name)} has ${value.length} bytes, at most 65536 wanted`, offset);
    }
  }
  return xattrs;
}

function urlDecoded(name: string): string {
  return name.replace(/%([0-9a-fA-F]{2})/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)));
}

function unbase64(value: Uint8Array, key: string, offset: number): Uint8Array {
  const text = keyOfBytes(value).replace(/[\s=]+/g, "");
  if (!/^[A-Za-z0-9+/]*$/.test(text) || text.length % 4 === 1) {
    throw malformedTar(`pax ${JSON.stringify(key.slice(0, 80))} is not base64`, offset);
  }
  return bytesOfKey(atob(text));
}

/** Encodes records in the order given, as the body of an `x` header. */
export function encodePax(records: Iterable<readonly [key: string, value: Uint8Array]>): Uint8Array {
  const pieces: number[] = [];
  for (const [key, value] of records) {
    const rest = 1 + key.length + 1 + value.length + 1; // space, '=', newline
    let length = rest + String(rest).length;
    if (length !== rest + String(length).length) length = rest + String(length).length;
    for (const byte of bytesOfKey(`${length} ${key}=`)) pieces.push(byte);
    for (const byte of value) pieces.push(byte);
    pieces.push(NEWLINE);
  }
  return Uint8Array.from(pieces);
}
