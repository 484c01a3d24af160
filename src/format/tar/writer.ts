import { bytesOfKey, concatBytes } from "../../base/bytes.ts";
import { NydusError } from "../../base/errors.ts";
import { encodeHeader, octalField, TAR_BLOCK } from "./header.ts";
import { encodePax } from "./pax.ts";
import type { TarEntry, TarEntryType } from "./reader.ts";
import { paddingOf } from "./window.ts";

/** An entry to be written: a {@link TarEntry} with defaults (0, empty) for what is left out. */
export type TarMember = Pick<TarEntry, "path" | "type" | "mode"> &
  Partial<Omit<TarEntry, "path" | "type" | "mode" | "offset" | "content">> & {
    /** Of a file: exactly `sizeBytes` bytes. */
    readonly content?: AsyncIterable<Uint8Array> | Iterable<Uint8Array>;
  };

const TYPEFLAGS: Readonly<Record<Exclude<TarEntryType, "socket">, string>> = {
  file: "0",
  hardlink: "1",
  symlink: "2",
  char: "3",
  block: "4",
  dir: "5",
  fifo: "6",
};

const NAME_BYTES = 100;
const PREFIX_BYTES = 155;
const NUMBER_BYTES = 8;
const BIG_NUMBER_BYTES = 12;
const SLASH = 0x2f;
const NO_BYTES = new Uint8Array(0);
const END = new Uint8Array(2 * TAR_BLOCK);
const encoder = new TextEncoder();

/**
 * Writes a tar archive: ustar, with a pax header where ustar does not reach. The same members give the same bytes.
 * Names are written as the raw bytes they are, in the header or in a pax record, as GNU tar and Go read them.
 * @returns pieces of the archive; those of contents are passed through uncopied
 * @throws EINVAL a socket, which tar does not know; EFAULT a content that is not of `sizeBytes`
 */
export async function* writeTar(members: AsyncIterable<TarMember> | Iterable<TarMember>): AsyncGenerator<Uint8Array> {
  for await (const member of members) {
    yield encodeMemberHeader(member);
    if (member.type !== "file") continue;
    const size = member.sizeBytes ?? 0;
    let written = 0;
    for await (const piece of member.content ?? []) {
      written += piece.length;
      if (written > size) break;
      yield piece;
    }
    if (written !== size) {
      throw new NydusError("EFAULT", `Cannot write tar: a content of ${size} bytes gave ${written}`);
    }
    if (paddingOf(size) > 0) yield new Uint8Array(paddingOf(size));
  }
  yield END;
}

/** The blocks before a member's content: its pax header if it needs one, and its header. @throws EINVAL a socket */
export function encodeMemberHeader(member: TarMember): Uint8Array {
  if (member.type === "socket") throw new NydusError("EINVAL", "Cannot write tar: a socket has no tar entry type");
  const name = nameOf(member);
  const split = splitName(name);
  const fields = {
    name: split?.name ?? name.subarray(0, NAME_BYTES),
    prefix: split?.prefix ?? NO_BYTES,
    mode: member.mode,
    uid: member.uid ?? 0,
    gid: member.gid ?? 0,
    size: member.type === "file" ? (member.sizeBytes ?? 0) : 0,
    mtime: member.mtimeSec ?? 0,
    typeflag: TYPEFLAGS[member.type],
    linkname: (member.linkPath ?? NO_BYTES).subarray(0, NAME_BYTES),
    devmajor: member.rdevMajor ?? 0,
    devminor: member.rdevMinor ?? 0,
  };
  const records = recordsOf(member, split === undefined ? name : undefined);
  if (records.length === 0) return encodeHeader(fields);
  const body = encodePax(records);
  const pax = encodeHeader({
    name: encoder.encode("././@PaxHeader"),
    mode: 0,
    uid: 0,
    gid: 0,
    size: body.length,
    mtime: 0,
    typeflag: "x",
  });
  return concatBytes([pax, body, new Uint8Array(paddingOf(body.length)), encodeHeader(fields)]);
}

/** The member's name as an archive has it: directories end in a slash, the root is "./". */
function nameOf(member: TarMember): Uint8Array {
  if (member.path.length === 0) return encoder.encode("./");
  return member.type === "dir" ? concatBytes([member.path, Uint8Array.of(SLASH)]) : member.path;
}

/** A name in the header's two fields, or undefined when it does not fit. */
function splitName(name: Uint8Array): { name: Uint8Array; prefix: Uint8Array } | undefined {
  if (name.length <= NAME_BYTES) return { name, prefix: NO_BYTES };
  const slash = name.subarray(0, Math.min(PREFIX_BYTES + 1, name.length - 1)).lastIndexOf(SLASH);
  if (slash <= 0 || name.length - slash - 1 > NAME_BYTES) return undefined;
  return { name: name.subarray(slash + 1), prefix: name.subarray(0, slash) };
}

function recordsOf(member: TarMember, longName: Uint8Array | undefined): [string, Uint8Array][] {
  const records: [string, Uint8Array][] = [];
  if (longName !== undefined) records.push(["path", longName]);
  const link = member.linkPath ?? NO_BYTES;
  if (link.length > NAME_BYTES) records.push(["linkpath", link]);
  const number = (key: string, value: number, width: number): void => {
    if (octalField(value, width) === undefined) records.push([key, encoder.encode(String(value))]);
  };
  if (member.type === "file") number("size", member.sizeBytes ?? 0, BIG_NUMBER_BYTES);
  number("uid", member.uid ?? 0, NUMBER_BYTES);
  number("gid", member.gid ?? 0, NUMBER_BYTES);
  const seconds = member.mtimeSec ?? 0;
  const nanoseconds = member.mtimeNsec ?? 0;
  if (nanoseconds !== 0 || octalField(seconds, BIG_NUMBER_BYTES) === undefined) {
    records.push(["mtime", encoder.encode(formatTime(seconds, nanoseconds))]);
  }
  const names = [...(member.xattrs?.keys() ?? [])].sort(compareKeys);
  for (const name of names) records.push(xattrRecord(name, member.xattrs?.get(name) ?? NO_BYTES));
  return records;
}

function compareKeys(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

function formatTime(sec: number, nsec: number): string {
  if (nsec === 0) return String(sec);
  const [sign, whole, rest] = sec < 0 ? ["-", -sec - 1, 1e9 - nsec] : ["", sec, nsec];
  return `${sign}${whole}.${String(rest).padStart(9, "0").replace(/0+$/, "")}`;
}

/** A pax keyword cannot hold "=": such a name takes libarchive's form, which encodes it. */
function xattrRecord(name: string, value: Uint8Array): [string, Uint8Array] {
  if (!name.includes("=")) return [`SCHILY.xattr.${name}`, value];
  const encoded = name.replace(/[^A-Za-z0-9._-]/g, (char) => `%${char.charCodeAt(0).toString(16).padStart(2, "0")}`);
  let text = "";
  for (let i = 0; i < value.length; i++) text += String.fromCharCode(value[i] as number);
  return [`LIBARCHIVE.xattr.${encoded}`, bytesOfKey(btoa(text).replace(/=+$/, ""))];
}
