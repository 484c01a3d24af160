import { bytesOfKey } from "../../base/bytes.ts";
import { NydusError } from "../../base/errors.ts";
import { bytes, type StructOf, struct, u32, u64, u64n } from "../../base/struct.ts";
import type { Compressor, Digester } from "../codec/codecs.ts";
import { COMPRESSORS, DIGESTERS, type Region } from "./superblock.ts";

/** One row of the blob table. @see nydus RafsV6Blob */
export const RafsBlob = struct("RafsV6Blob", 256, {
  blobId: [0, bytes(64)],
  blobIndex: [64, u32],
  chunkSize: [68, u32],
  chunkCount: [72, u32],
  compressionAlgo: [76, u32],
  digestAlgo: [80, u32],
  features: [84, u32],
  compressedSize: [88, u64],
  uncompressedSize: [96, u64],
  blobTocSize: [104, u32],
  ciCompressor: [108, u32],
  ciOffset: [112, u64],
  ciCompressedSize: [120, u64],
  ciUncompressedSize: [128, u64],
  blobTocDigest: [136, bytes(32)],
  blobMetaDigest: [168, bytes(32)],
  blobMetaSize: [200, u64n],
  cipherIv: [208, bytes(8)],
  cipherAlgo: [216, u32],
  reserved2: [220, bytes(36)],
});
export type RafsBlob = StructOf<typeof RafsBlob>;

/** Feature bits of a blob. @see nydus BlobFeatures */
export const BLOB_FEATURES = {
  /** Chunks begin at multiples of 4096 in the device: always so in RAFS v6. */
  aligned: 0x1,
  inlinedFsMeta: 0x2,
  chunkInfoV2: 0x4,
  zran: 0x8,
  separate: 0x10,
  inlinedChunkDigest: 0x20,
  tarfs: 0x40,
  batch: 0x80,
  encrypted: 0x100,
  chunkdictGenerated: 0x200,
  separatedWithPrefetchFiles: 0x400,
  external: 0x800,
  hasTarHeader: 0x1000_0000,
  hasToc: 0x2000_0000,
  capTarToc: 0x4000_0000,
} as const;

const FEATURES_INCOMPAT_MASK = 0xffff;
const FEATURES_INCOMPAT_KNOWN = 0x0fff;

/** Limits of the format. */
export const BLOB_LIMITS = { chunks: 2 ** 24, deviceBytes: 2 ** 44, blobBytes: 2 ** 40, blobs: 254 } as const;

/** What a layer's own bootstrap, which lies inside its blob and cannot know its digest, calls the blob. */
export const INLINE_BLOB_ID = "x".repeat(64);

const BLOB_ID = /^([0-9a-f]{64}|x{64})$/;

/** What a bootstrap says of one blob: encode takes it, decode gives it. Sizes and offsets in bytes. */
export interface BlobRecord {
  /** 64 hex digits, SHA-256 of the whole blob; or {@link INLINE_BLOB_ID}. */
  readonly id: string;
  readonly chunkBytes: number;
  /** Chunks in the blob, referenced by this bootstrap or not. */
  readonly chunkCount: number;
  readonly compressor: Compressor;
  readonly digester: Digester;
  /** {@link BLOB_FEATURES} */
  readonly features: number;
  /** Size of the blob, as its builder counted: nydus-image leaves out what it appends last (image.boot, TOC). */
  readonly compressedBytes: number;
  /** Size of the device: the uncompressed chunks, each aligned to 4096. */
  readonly deviceBytes: number;
  /** The chunk information array ("ci") in the blob; its 4096-byte header lies right behind it. */
  readonly ciCompressor: Compressor;
  readonly ciOffset: number;
  readonly ciCompressedBytes: number;
  readonly ciBytes: number;
  /** TOC with its tar header; 0 and zeros where not recorded. */
  readonly tocBytes: number;
  readonly tocDigest: Uint8Array;
  /** Of a separate (zran) meta blob; 0 and zeros else. */
  readonly metaBytes: number;
  readonly metaDigest: Uint8Array;
}

/** A blob of an opened bootstrap. */
export interface BlobInfo extends BlobRecord {
  /** Row of the blob table, 0-based. */
  readonly index: number;
  /** 1-based slot of the device table: index + 1, as chunk indexes store it. */
  readonly deviceSlot: number;
}

/** Whether the blob has every feature bit of `feature`. */
export function hasFeature(blob: Pick<BlobRecord, "features">, feature: number): boolean {
  return (blob.features & feature) === feature;
}

/** Whether only the blob's meta says where its chunks are (batches): `chunkMap` wants it then. */
export function needsBlobMeta(blob: Pick<BlobRecord, "features">): boolean {
  return hasFeature(blob, BLOB_FEATURES.batch);
}

/**
 * The rows of a blob table.
 * @param chunkBytes the image's, that each row must repeat
 * @throws EUCLEAN a row that contradicts itself; ENOTSUP tarfs or encrypted blobs and unknown features
 */
export function decodeBlobTable(image: Uint8Array, table: Region, chunkBytes: number): BlobInfo[] {
  if (table.length % RafsBlob.sizeBytes !== 0) {
    const message = `Cannot decode blob table: ${table.length} bytes are not rows of ${RafsBlob.sizeBytes}`;
    throw new NydusError("EUCLEAN", message, { offset: table.offset, length: table.length });
  }
  return Array.from({ length: table.length / RafsBlob.sizeBytes }, (_, index) => {
    const offset = table.offset + index * RafsBlob.sizeBytes;
    const row = RafsBlob.read(image, offset);
    checkRow(row, { index, chunkBytes, offset });
    return blobInfo(row, index, offset);
  });
}

function checkRow(row: RafsBlob, wanted: { index: number; chunkBytes: number; offset: number }): void {
  const problem = rowProblem(row, wanted);
  if (problem !== undefined) {
    throw new NydusError("EUCLEAN", `Cannot decode blob ${wanted.index}: ${problem}`, { offset: wanted.offset });
  }
  const unsupported = unsupportedFeature(row);
  if (unsupported !== undefined) {
    throw new NydusError("ENOTSUP", `Cannot read blob ${wanted.index}: ${unsupported}`, { offset: wanted.offset });
  }
}

function rowProblem(row: RafsBlob, wanted: { index: number; chunkBytes: number }): string | undefined {
  if (row.blobIndex !== wanted.index) return `its row says index ${row.blobIndex}`;
  if (row.chunkSize !== wanted.chunkBytes) return `chunk size ${row.chunkSize}, the image has ${wanted.chunkBytes}`;
  if (row.chunkCount > BLOB_LIMITS.chunks) return `${row.chunkCount} chunks`;
  if (row.uncompressedSize > BLOB_LIMITS.deviceBytes) return `${row.uncompressedSize} uncompressed bytes`;
  if (row.compressedSize > BLOB_LIMITS.blobBytes) return `${row.compressedSize} compressed bytes`;
  if (row.ciCompressedSize > row.ciUncompressedSize) return "chunk information grew by compression";
  if (!Number.isSafeInteger(row.ciOffset + row.ciCompressedSize)) return `chunk information at ${row.ciOffset}`;
  return undefined;
}

function unsupportedFeature(row: RafsBlob): string | undefined {
  const has = (bit: number): boolean => (row.features & bit) !== 0;
  if ((row.features & FEATURES_INCOMPAT_MASK & ~FEATURES_INCOMPAT_KNOWN) !== 0) {
    return `unknown features 0x${row.features.toString(16)}`;
  }
  if (has(BLOB_FEATURES.tarfs)) return "tarfs blobs are not supported";
  if (has(BLOB_FEATURES.encrypted) || row.cipherAlgo !== 0) return "encrypted blobs are not supported";
  if (!has(BLOB_FEATURES.aligned)) return "chunks that are not aligned to 4096 are not supported";
  return undefined;
}

function blobInfo(row: RafsBlob, index: number, offset: number): BlobInfo {
  const id = String.fromCharCode(...row.blobId);
  if (!BLOB_ID.test(id)) {
    throw new NydusError("EUCLEAN", `Cannot decode blob ${index}: its id is not 64 hex digits`, { offset });
  }
  return {
    id,
    index,
    deviceSlot: index + 1,
    chunkBytes: row.chunkSize,
    chunkCount: row.chunkCount,
    compressor: byNumber(COMPRESSORS, row.compressionAlgo, offset),
    digester: byNumber(DIGESTERS, row.digestAlgo, offset),
    features: row.features,
    compressedBytes: row.compressedSize,
    deviceBytes: row.uncompressedSize,
    ciCompressor: byNumber(COMPRESSORS, row.ciCompressor, offset),
    ciOffset: row.ciOffset,
    ciCompressedBytes: row.ciCompressedSize,
    ciBytes: row.ciUncompressedSize,
    tocBytes: row.blobTocSize,
    tocDigest: row.blobTocDigest,
    metaBytes: Number(row.blobMetaSize),
    metaDigest: row.blobMetaDigest,
  };
}

function byNumber<Name extends string>(
  table: Readonly<Record<Name, { readonly number: number }>>,
  number: number,
  offset: number,
): Name {
  const name = (Object.keys(table) as Name[]).find((candidate) => table[candidate].number === number);
  if (name === undefined) throw new NydusError("EUCLEAN", `Cannot decode blob: algorithm ${number}`, { offset });
  return name;
}

/**
 * Writes the row of `blob` at `offset`.
 * @throws EINVAL an id that is not 64 hex digits
 */
export function encodeBlobRow(target: Uint8Array, offset: number, row: { blob: BlobRecord; index: number }): void {
  const { blob, index } = row;
  if (!BLOB_ID.test(blob.id)) {
    throw new NydusError("EINVAL", `Cannot encode blob ${index}: its id is not 64 hex digits`);
  }
  RafsBlob.write(target, offset, {
    blobId: bytesOfKey(blob.id),
    blobIndex: index,
    chunkSize: blob.chunkBytes,
    chunkCount: blob.chunkCount,
    compressionAlgo: COMPRESSORS[blob.compressor].number,
    digestAlgo: DIGESTERS[blob.digester].number,
    features: blob.features,
    compressedSize: blob.compressedBytes,
    uncompressedSize: blob.deviceBytes,
    blobTocSize: blob.tocBytes,
    ciCompressor: COMPRESSORS[blob.ciCompressor].number,
    ciOffset: blob.ciOffset,
    ciCompressedSize: blob.ciCompressedBytes,
    ciUncompressedSize: blob.ciBytes,
    blobTocDigest: blob.tocDigest,
    blobMetaDigest: blob.metaDigest,
    blobMetaSize: BigInt(blob.metaBytes),
  });
}
