import { concatBytes, keyOfBytes } from "../../src/base/bytes.ts";
import { NydusError } from "../../src/base/errors.ts";
import { encodeHeader, type HeaderFields, TAR_BLOCK, UstarHeader } from "../../src/format/tar/header.ts";
import { encodePax } from "../../src/format/tar/pax.ts";
import { readTar, type TarEntry } from "../../src/format/tar/reader.ts";
import { collect, streamOf } from "./overlay-oracle.ts";

/** Text as UTF-8. */
export const utf8 = (text: string): Uint8Array => new TextEncoder().encode(text);
/** The end of an archive. */
export const END = new Uint8Array(2 * TAR_BLOCK);

/** A body and the zeros to its next block. */
export function padded(body: Uint8Array): Uint8Array {
  return concatBytes([body, new Uint8Array((TAR_BLOCK - (body.length % TAR_BLOCK)) % TAR_BLOCK)]);
}

/** A header with every field given as text or left at a default; the checksum is made right afterwards. */
export function header(fields: Partial<Omit<HeaderFields, "name">> & { name?: string | Uint8Array } = {}): Uint8Array {
  const { name = "file", ...rest } = fields;
  const raw = typeof name === "string" ? utf8(name) : name;
  return encodeHeader({ mode: 0o644, uid: 1, gid: 2, size: 0, mtime: 3, typeflag: "0", ...rest, name: raw });
}

/** A header with bytes overwritten, its checksum renewed. */
export function patched(block: Uint8Array, at: number, bytes: Uint8Array | string): Uint8Array {
  const copy = block.slice();
  copy.set(typeof bytes === "string" ? utf8(bytes) : bytes, at);
  copy.fill(0x20, UstarHeader.at.checksum, UstarHeader.at.checksum + 8);
  const sum = copy.reduce((total, byte) => total + byte, 0);
  copy.set(utf8(`${sum.toString(8).padStart(6, "0")}\0 `), UstarHeader.at.checksum);
  return copy;
}

/** A pax header of records. */
export function pax(records: Record<string, string | Uint8Array>, typeflag = "x"): Uint8Array {
  const entries = Object.entries(records).map(
    ([key, value]) => [key, typeof value === "string" ? utf8(value) : value] as const,
  );
  const body = encodePax(entries);
  return concatBytes([header({ name: "pax", typeflag, size: body.length }), padded(body)]);
}

/** GNU's long name (L) or link (K). */
export function gnuLong(typeflag: "L" | "K", text: string): Uint8Array {
  const body = utf8(`${text}\0`);
  return concatBytes([header({ name: "././@LongLink", typeflag, size: body.length }), padded(body)]);
}

/** An entry with its path and content as text. */
export interface ReadEntry extends TarEntry {
  readonly name: string;
  readonly text: string;
}

/** The entries of an archive given in parts. */
export async function read(pieces: readonly Uint8Array[], pieceBytes?: number): Promise<ReadEntry[]> {
  const entries: ReadEntry[] = [];
  for await (const entry of readTar(streamOf(concatBytes([...pieces]), pieceBytes))) {
    const text = keyOfBytes(await collect(entry.content));
    entries.push({ ...entry, name: keyOfBytes(entry.path), text });
  }
  return entries;
}

/** The only entry of an archive. */
export async function readOne(...pieces: Uint8Array[]): Promise<ReadEntry> {
  const [entry, ...others] = await read([...pieces, END]);
  if (entry === undefined || others.length > 0) throw new Error(`${others.length + 1} entries`);
  return entry;
}

/** What an archive fails with. */
export async function failure(pieces: readonly Uint8Array[]): Promise<NydusError> {
  try {
    await read(pieces);
  } catch (error) {
    if (error instanceof NydusError) return error;
    throw error;
  }
  throw new Error("nothing was thrown");
}
