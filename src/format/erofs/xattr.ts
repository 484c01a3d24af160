import { alignUp, bytesOfKey, concatBytes, keyOfBytes, viewOf } from "../../base/bytes.ts";
import { NydusError } from "../../base/errors.ts";
import { bytes, struct, u8, u16, u32 } from "../../base/struct.ts";

/** Begins the inline xattr area of an inode; shared ids follow, then entries. @see erofs_fs.h erofs_xattr_ibody_header */
export const XattrIbodyHeader = struct("erofs_xattr_ibody_header", 12, {
  hNameFilter: [0, u32],
  hSharedCount: [4, u8],
  hReserved2: [5, bytes(7)],
});

/** Begins one attribute; name and value follow, padded to 4 bytes. @see erofs_fs.h erofs_xattr_entry */
export const XattrEntry = struct("erofs_xattr_entry", 4, {
  eNameLen: [0, u8],
  eNameIndex: [1, u8],
  eValueSize: [2, u16],
});

const ALIGN_BYTES = 4;
const NAME_LIMIT_BYTES = 255;
const VALUE_LIMIT_BYTES = 0xffff;
const LONG_PREFIX = 0x80;

/** Attribute name prefixes by name index. @see erofs_fs.h EROFS_XATTR_INDEX_* */
const PREFIXES: readonly { readonly index: number; readonly prefix: string }[] = [
  { index: 1, prefix: "user." },
  { index: 2, prefix: "system.posix_acl_access" },
  { index: 3, prefix: "system.posix_acl_default" },
  { index: 4, prefix: "trusted." },
  { index: 5, prefix: "lustre." },
  { index: 6, prefix: "security." },
];

/** The ACL attributes are whole names: nothing may follow them. */
const WHOLE_NAMES: ReadonlySet<number> = new Set([2, 3]);

/** An extended attribute; `name` is whole (`user.alpha`), `value` a view into the image. */
export interface Xattr {
  readonly name: Uint8Array;
  readonly value: Uint8Array;
}

/** Where the attributes of an inode lie in its image. */
export interface XattrArea {
  readonly bytes: Uint8Array;
  /** First byte of the inline area. */
  readonly offset: number;
  /** Bytes of the inline area; 0 for none. */
  readonly length: number;
  /** First byte of the shared area. */
  readonly sharedOffset: number;
}

/**
 * The attributes of an inode: shared ones first, then inline, in the order stored.
 * @throws EUCLEAN when an entry does not fit or its name has no prefix; ENOTSUP long name prefixes
 */
export function decodeXattrs(area: XattrArea): Xattr[] {
  if (area.length === 0) return [];
  const end = area.offset + area.length;
  const header = XattrIbodyHeader.read(area.bytes, area.offset);
  const entries = area.offset + XattrIbodyHeader.sizeBytes + header.hSharedCount * ALIGN_BYTES;
  if (entries > end) throw xattrError(area.offset, `${header.hSharedCount} shared ids in ${area.length} bytes`);
  const view = viewOf(area.bytes);
  const xattrs: Xattr[] = [];
  for (let at = area.offset + XattrIbodyHeader.sizeBytes; at < entries; at += ALIGN_BYTES) {
    const id = u32.read(view, at);
    decodeEntry(area.bytes, area.sharedOffset + id * ALIGN_BYTES, { limit: area.bytes.length, xattrs });
  }
  let at = entries;
  while (at < end) at = decodeEntry(area.bytes, at, { limit: end, xattrs });
  return xattrs;
}

/** Decodes one entry into `xattrs` and returns where the next begins. */
function decodeEntry(image: Uint8Array, at: number, out: { limit: number; xattrs: Xattr[] }): number {
  const entry = XattrEntry.read(image, at);
  const nameAt = at + XattrEntry.sizeBytes;
  const valueAt = nameAt + entry.eNameLen;
  const end = valueAt + entry.eValueSize;
  if (alignUp(end, ALIGN_BYTES) > out.limit) throw xattrError(at, `it ends at ${end}, past ${out.limit}`);
  if (entry.eNameIndex === 0 && end === nameAt) return nameAt; // padding
  out.xattrs.push({
    name: wholeName(entry.eNameIndex, image.subarray(nameAt, valueAt), at),
    value: image.subarray(valueAt, end),
  });
  return alignUp(end, ALIGN_BYTES);
}

function wholeName(index: number, rest: Uint8Array, at: number): Uint8Array {
  if ((index & LONG_PREFIX) !== 0) {
    throw new NydusError("ENOTSUP", "Cannot read extended attribute: it has a long name prefix", { offset: at });
  }
  const row = PREFIXES.find((candidate) => candidate.index === index);
  if (row === undefined) throw xattrError(at, `name index ${index}`);
  if (WHOLE_NAMES.has(index) !== (rest.length === 0))
    throw xattrError(at, `${row.prefix} with ${rest.length} more bytes`);
  return concatBytes([bytesOfKey(row.prefix), rest]);
}

function xattrError(offset: number, found: string): NydusError {
  return new NydusError("EUCLEAN", `Cannot decode extended attribute: ${found}`, { offset });
}

/** A whole attribute name (latin-1 key) as the format stores it. @throws ENOTSUP no prefix of the format, or too long */
function splitName(name: string): { index: number; rest: Uint8Array } {
  const row = PREFIXES.find(({ index, prefix }) =>
    WHOLE_NAMES.has(index) ? name === prefix : name.startsWith(prefix),
  );
  const rest = row === undefined ? "" : name.slice(row.prefix.length);
  if (row === undefined || (rest === "" && !WHOLE_NAMES.has(row.index)) || rest.length > NAME_LIMIT_BYTES) {
    throw new NydusError("ENOTSUP", `Cannot encode extended attribute: ${JSON.stringify(name)} has no place in EROFS`);
  }
  return { index: row.index, rest: bytesOfKey(rest) };
}

/** Whether EROFS can store an attribute of this whole name (latin-1 key). */
export function isEncodableXattr(name: string): boolean {
  try {
    splitName(name);
    return true;
  } catch {
    return false;
  }
}

/**
 * The inline area of an inode, attributes in the order of their names; empty for no attributes.
 * @param xattrs whole names as latin-1 keys, values
 * @throws ENOTSUP a name without a prefix of the format, or a value or an area that its fields cannot hold
 */
export function encodeXattrs(xattrs: ReadonlyMap<string, Uint8Array>): Uint8Array {
  if (xattrs.size === 0) return new Uint8Array(0);
  const pieces: Uint8Array[] = [new Uint8Array(XattrIbodyHeader.sizeBytes)];
  for (const name of [...xattrs.keys()].sort()) {
    pieces.push(encodeEntry(name, xattrs.get(name) as Uint8Array));
  }
  const area = concatBytes(pieces);
  const icount = (area.length - XattrIbodyHeader.sizeBytes) / ALIGN_BYTES + 1;
  if (icount > 0xffff) {
    throw new NydusError(
      "ENOTSUP",
      `Cannot encode extended attributes: ${area.length} bytes, at most 262148 fit an inode`,
    );
  }
  return area;
}

/** `i_xattr_icount` of an area that {@link encodeXattrs} made. */
export function xattrIcount(area: Uint8Array): number {
  return area.length === 0 ? 0 : (area.length - XattrIbodyHeader.sizeBytes) / ALIGN_BYTES + 1;
}

function encodeEntry(name: string, value: Uint8Array): Uint8Array {
  const { index, rest } = splitName(name);
  if (value.length > VALUE_LIMIT_BYTES) {
    const found = `${JSON.stringify(name)} has ${value.length} bytes, at most ${VALUE_LIMIT_BYTES} fit`;
    throw new NydusError("ENOTSUP", `Cannot encode extended attribute: ${found}`);
  }
  const entry = new Uint8Array(alignUp(XattrEntry.sizeBytes + rest.length + value.length, ALIGN_BYTES));
  XattrEntry.write(entry, 0, { eNameLen: rest.length, eNameIndex: index, eValueSize: value.length });
  entry.set(rest, XattrEntry.sizeBytes);
  entry.set(value, XattrEntry.sizeBytes + rest.length);
  return entry;
}

/** The name of a decoded attribute as a latin-1 key. */
export function xattrKey(xattr: Xattr): string {
  return keyOfBytes(xattr.name);
}
