import { bytesOfKey, concatBytes, keyOfBytes } from "../../base/bytes.ts";
import { NydusError } from "../../base/errors.ts";
import { bytes, type StructOf, struct, u32, u64 } from "../../base/struct.ts";
import type { Compressor } from "../codec/codecs.ts";

/** One entry of the table of contents. @see nydus TocEntry */
export const TocRecord = struct("TocEntry", 128, {
  flags: [0, u32],
  reserved1: [4, u32],
  name: [8, bytes(16)],
  uncompressedDigest: [24, bytes(32)],
  compressedOffset: [56, u64],
  compressedSize: [64, u64],
  uncompressedSize: [72, u64],
  reserved2: [80, bytes(48)],
});
export type TocRecord = StructOf<typeof TocRecord>;

/** Names of what a blob holds. Each part but the meta header has a tar header **behind** it. */
export const TOC_NAMES = {
  data: "image.blob",
  meta: "blob.meta",
  metaHeader: "blob.meta.header",
  digests: "blob.digest",
  bootstrap: "image.boot",
  toc: "rafs.blob.toc",
} as const;

/** Bytes of a tar header. */
export const TAR_HEADER_BYTES = 512;

const NAME_BYTES = 16;
const COMPRESSION_FLAGS = { none: 0x1, zstd: 0x2, lz4_block: 0x4 } as const;
const COMPRESSION_MASK = 0xf;

/** Fields of a ustar header that blobs use: offset, length. */
const TAR = {
  name: [0, 100],
  size: [124, 12],
  mtime: [136, 12],
  checksum: [148, 8],
  type: [156, 1],
  magic: [257, 8],
} as const;
const TAR_MAGIC = "ustar  \0";
const TAR_REGULAR = "0";

/** An entry of the TOC. Offsets in the blob, bytes. */
export interface TocEntry {
  readonly name: string;
  readonly compressor: "none" | "zstd" | "lz4_block";
  readonly offset: number;
  readonly compressedBytes: number;
  readonly sizeBytes: number;
  /** SHA-256 of the decompressed content. */
  readonly digest: Uint8Array;
}

/**
 * The tar header that goes behind a part of the blob, as nydus-image writes it (GNU magic, no mode, no owner).
 * @param name at most 100 bytes of ASCII
 * @param sizeBytes of the part
 */
export function encodeTarHeader(name: string, sizeBytes: number): Uint8Array {
  const header = new Uint8Array(TAR_HEADER_BYTES);
  const put = ([at, length]: readonly [number, number], text: string): void =>
    header.set(bytesOfKey(text).subarray(0, length), at);
  const octal = (value: number, digits: number): string => `${value.toString(8).padStart(digits, "0")}\0`;
  if (sizeBytes >= 8 ** 11) putBinarySize(header, sizeBytes);
  else put(TAR.size, octal(sizeBytes, 11));
  put(TAR.name, name);
  put(TAR.mtime, octal(0, 11));
  put(TAR.checksum, " ".repeat(8));
  put(TAR.type, TAR_REGULAR);
  put(TAR.magic, TAR_MAGIC);
  put(
    TAR.checksum,
    octal(
      header.reduce((sum, byte) => sum + byte, 0),
      7,
    ),
  );
  return header;
}

/** GNU tar's form of sizes from 8 GiB on: the top bit, then big-endian. */
function putBinarySize(header: Uint8Array, sizeBytes: number): void {
  const [at, length] = TAR.size;
  new DataView(header.buffer).setBigUint64(at + length - 8, BigInt(sizeBytes));
  header[at] = 0x80;
}

/** What a tar header behind a part says; undefined when it is none. */
export function decodeTarHeader(header: Uint8Array): { readonly name: string; readonly sizeBytes: number } | undefined {
  const text = ([at, length]: readonly [number, number]): string => keyOfBytes(header.subarray(at, at + length));
  if (header.length !== TAR_HEADER_BYTES || !text(TAR.magic).startsWith("ustar")) return undefined;
  const sum = header.reduce((total, byte, i) => total + (i >= 148 && i < 156 ? 0x20 : byte), 0);
  if (Number.parseInt(text(TAR.checksum), 8) !== sum) return undefined;
  const sizeBytes = tarSize(header);
  if (sizeBytes === undefined) return undefined;
  return { name: text(TAR.name).split("\0", 1)[0] ?? "", sizeBytes };
}

function tarSize(header: Uint8Array): number | undefined {
  const [at, length] = TAR.size;
  if (header[at] === 0x80) {
    const size = new DataView(header.buffer, header.byteOffset).getBigUint64(at + length - 8);
    return size > BigInt(Number.MAX_SAFE_INTEGER) ? undefined : Number(size);
  }
  const digits = keyOfBytes(header.subarray(at, at + length)).replace(/[\0 ]+$/, "");
  return /^[0-7]+$/.test(digits) ? Number.parseInt(digits, 8) : undefined;
}

/** A TOC and where it lies. */
export interface Toc {
  readonly entries: readonly TocEntry[];
  /** The entries and the tar header behind them: what `tocDigest` of the blob table digests. */
  readonly bytes: Uint8Array;
}

/**
 * The TOC at the end of a blob, or undefined when the blob ends otherwise (nydus-image without `--features blob-toc`).
 * @param tail the last bytes of the blob: 4096 hold every TOC
 * @param blobBytes size of the whole blob: entries must lie inside
 * @throws EUCLEAN a TOC that contradicts itself
 */
export function decodeToc(tail: Uint8Array, blobBytes: number): Toc | undefined {
  if (tail.length < TAR_HEADER_BYTES) return undefined;
  const end = tail.length - TAR_HEADER_BYTES;
  const header = decodeTarHeader(tail.subarray(end));
  if (header?.name !== TOC_NAMES.toc) return undefined;
  if (header.sizeBytes > end || header.sizeBytes % TocRecord.sizeBytes !== 0) {
    throw tocError(`${header.sizeBytes} bytes, ${end} read`, blobBytes - TAR_HEADER_BYTES);
  }
  const start = end - header.sizeBytes;
  const tocOffset = blobBytes - tail.length + start;
  const entries = Array.from({ length: header.sizeBytes / TocRecord.sizeBytes }, (_, i) => {
    const record = TocRecord.read(tail, start + i * TocRecord.sizeBytes);
    return tocEntry(record, { tocOffset, offset: tocOffset + i * TocRecord.sizeBytes });
  });
  return { entries, bytes: tail.subarray(start) };
}

function tocEntry(record: TocRecord, at: { tocOffset: number; offset: number }): TocEntry {
  const names = (Object.keys(COMPRESSION_FLAGS) as (keyof typeof COMPRESSION_FLAGS)[]).filter(
    (name) => (record.flags & COMPRESSION_MASK) === COMPRESSION_FLAGS[name],
  );
  const [compressor] = names;
  if (compressor === undefined) throw tocError(`entry flags 0x${record.flags.toString(16)}`, at.offset);
  if (record.compressedOffset + record.compressedSize > at.tocOffset) {
    const found = `entry of ${record.compressedSize} bytes at ${record.compressedOffset}, the TOC is at ${at.tocOffset}`;
    throw tocError(found, at.offset);
  }
  return {
    name: keyOfBytes(record.name).replace(/\0+$/, ""),
    compressor,
    offset: record.compressedOffset,
    compressedBytes: record.compressedSize,
    sizeBytes: record.uncompressedSize,
    digest: record.uncompressedDigest,
  };
}

function tocError(found: string, offset: number): NydusError {
  return new NydusError("EUCLEAN", `Cannot decode blob TOC: ${found}`, { offset });
}

/**
 * The TOC with its tar header: the last bytes of a blob.
 * @throws EINVAL a name above 16 bytes or a compressor that a TOC has no flag for
 */
export function encodeToc(entries: readonly (Omit<TocEntry, "compressor"> & { compressor: Compressor })[]): Uint8Array {
  const table = new Uint8Array(entries.length * TocRecord.sizeBytes);
  entries.forEach((entry, i) => {
    if (entry.compressor === "gzip" || entry.name.length > NAME_BYTES) {
      throw new NydusError("EINVAL", `Cannot encode TOC entry: ${entry.name} with ${entry.compressor}`);
    }
    TocRecord.write(table, i * TocRecord.sizeBytes, {
      flags: COMPRESSION_FLAGS[entry.compressor],
      name: bytesOfKey(entry.name),
      uncompressedDigest: entry.digest,
      compressedOffset: entry.offset,
      compressedSize: entry.compressedBytes,
      uncompressedSize: entry.sizeBytes,
    });
  });
  return concatBytes([table, encodeTarHeader(TOC_NAMES.toc, table.length)]);
}
