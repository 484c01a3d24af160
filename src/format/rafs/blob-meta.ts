import { alignUp, BLOCK_BYTES, type ByteRange, viewOf } from "../../base/bytes.ts";
import { NydusError } from "../../base/errors.ts";
import { bytes, type StructOf, struct, u32, u64, u64n } from "../../base/struct.ts";
import type { Codecs, Compressor } from "../codec/codecs.ts";
import { BLOB_FEATURES, type BlobRecord } from "./blob-table.ts";
import { COMPRESSORS } from "./superblock.ts";

const MAGIC = 0xb10b_b10b;
const TWO_32 = 2 ** 32;

/** Bytes of the header behind the chunk information array. */
export const BLOB_META_HEADER_BYTES = 4096;

/** @see nydus BlobCompressionContextHeader */
export const BlobMetaHeaderRecord = struct("BlobCompressionContextHeader", BLOB_META_HEADER_BYTES, {
  sMagic: [0, u32],
  sFeatures: [4, u32],
  sCiCompressor: [8, u32],
  sCiEntries: [12, u32],
  sCiOffset: [16, u64],
  sCiCompressedSize: [24, u64],
  sCiUncompressedSize: [32, u64],
  sCiZranOffset: [40, u64],
  sCiZranSize: [48, u64],
  sCiZranCount: [56, u32],
  sReserved: [60, bytes(4032)],
  sMagic2: [4092, u32],
});
export type BlobMetaHeaderRecord = StructOf<typeof BlobMetaHeaderRecord>;

/** Chunk information, format 1. Bit fields: see the functions. @see nydus BlobChunkInfoV1Ondisk */
export const ChunkInfoV1 = struct("BlobChunkInfoV1Ondisk", 16, { uncompInfo: [0, u64n], compInfo: [8, u64n] });
/** Chunk information, format 2. @see nydus BlobChunkInfoV2Ondisk */
export const ChunkInfoV2 = struct("BlobChunkInfoV2Ondisk", 24, {
  uncompInfo: [0, u64n],
  compInfo: [8, u64n],
  data: [16, u64n],
});
/** One batch: several small chunks compressed as one unit. @see nydus BatchInflateContext */
export const BatchContext = struct("BatchInflateContext", 40, {
  compressedSize: [0, u32],
  uncompressedBatchSize: [4, u32],
  reserved: [8, bytes(32)],
});

const V2_FLAGS = { compressed: 0x1, zran: 0x2, batch: 0x4, encrypted: 0x8, hasCrc32: 0x10 } as const;

/** The header, decoded. Sizes and offsets in bytes. */
export interface BlobMetaHeader {
  /** {@link BLOB_FEATURES} */
  readonly features: number;
  readonly ciCompressor: Compressor;
  readonly chunkCount: number;
  /** Of the compressed array in the blob. */
  readonly ciOffset: number;
  readonly ciCompressedBytes: number;
  readonly ciBytes: number;
  /** Batch contexts (or zran contexts) in the decompressed array; zeros for none. */
  readonly contextOffset: number;
  readonly contextBytes: number;
  readonly contextCount: number;
}

/** Where one chunk lies, as the blob itself says. */
export interface ChunkInfo {
  readonly deviceOffset: number;
  readonly sizeBytes: number;
  readonly blobOffset: number;
  /** 0 in a batch. */
  readonly blobSizeBytes: number;
  readonly compressed: boolean;
  /** Of a chunk in a batch: which, and where in the decompressed batch it begins. */
  readonly batch?: { readonly index: number; readonly offset: number };
}

/** A batch: bytes in the blob, and decompressed. */
export interface Batch {
  readonly blobSizeBytes: number;
  readonly unitBytes: number;
}

/** The chunk information of a blob, read in place. */
export interface BlobMeta {
  readonly header: BlobMetaHeader;
  readonly chunkCount: number;
  /** @throws EUCLEAN outside of the table */
  chunk(i: number): ChunkInfo;
  /** @throws EUCLEAN outside of the table */
  batch(i: number): Batch;
}

/**
 * The 4096-byte header.
 * @throws EUCLEAN wrong magic or a compressor that is none
 */
export function decodeBlobMetaHeader(header: Uint8Array): BlobMetaHeader {
  const record = BlobMetaHeaderRecord.read(header, 0);
  if (record.sMagic !== MAGIC || record.sMagic2 !== MAGIC) {
    throw new NydusError("EUCLEAN", "Cannot decode blob meta header: wrong magic", { offset: 0 });
  }
  const compressor = (Object.keys(COMPRESSORS) as Compressor[]).find(
    (name) => COMPRESSORS[name].number === record.sCiCompressor,
  );
  if (compressor === undefined) {
    throw new NydusError("EUCLEAN", `Cannot decode blob meta header: compressor ${record.sCiCompressor}`, {
      offset: BlobMetaHeaderRecord.at.sCiCompressor,
    });
  }
  return {
    features: record.sFeatures,
    ciCompressor: compressor,
    chunkCount: record.sCiEntries,
    ciOffset: record.sCiOffset,
    ciCompressedBytes: record.sCiCompressedSize,
    ciBytes: record.sCiUncompressedSize,
    contextOffset: record.sCiZranOffset,
    contextBytes: record.sCiZranSize,
    contextCount: record.sCiZranCount,
  };
}

/** The 4096-byte header. */
export function encodeBlobMetaHeader(header: BlobMetaHeader): Uint8Array {
  const target = new Uint8Array(BLOB_META_HEADER_BYTES);
  BlobMetaHeaderRecord.write(target, 0, {
    sMagic: MAGIC,
    sFeatures: header.features,
    sCiCompressor: COMPRESSORS[header.ciCompressor].number,
    sCiEntries: header.chunkCount,
    sCiOffset: header.ciOffset,
    sCiCompressedSize: header.ciCompressedBytes,
    sCiUncompressedSize: header.ciBytes,
    sCiZranOffset: header.contextOffset,
    sCiZranSize: header.contextBytes,
    sCiZranCount: header.contextCount,
    sMagic2: MAGIC,
  });
  return target;
}

/**
 * The `<blob id>.blob.meta` file: the decompressed array padded to 4096, then the header.
 * @param ci decompressed chunk information with its contexts
 * @param header as in the blob, 4096 bytes
 */
export function encodeBlobMetaFile(ci: Uint8Array, header: Uint8Array): Uint8Array {
  const padded = alignUp(ci.length, BLOCK_BYTES);
  const file = new Uint8Array(padded + BLOB_META_HEADER_BYTES);
  file.set(ci);
  file.set(header, padded);
  return file;
}

/** Where a blob keeps its chunk information and the header behind it, bytes of the blob. */
export function blobMetaRange(blob: Pick<BlobRecord, "ciOffset" | "ciCompressedBytes">): ByteRange {
  return { start: blob.ciOffset, end: blob.ciOffset + blob.ciCompressedBytes + BLOB_META_HEADER_BYTES };
}

/**
 * The `<blob id>.blob.meta` file of a blob whose bootstrap layer does not bring it, made of the blob itself.
 * @param stored the bytes of {@link blobMetaRange}
 * @param decompress the codecs' function of that name
 * @throws EUCLEAN another header than the bootstrap announces, or more than its chunks can need
 */
export function blobMetaFileOf(blob: BlobRecord, stored: Uint8Array, decompress: Codecs["decompress"]): Uint8Array {
  const raw = stored.subarray(blob.ciCompressedBytes);
  const header = decodeBlobMetaHeader(raw);
  const same =
    header.chunkCount === blob.chunkCount &&
    header.ciCompressor === blob.ciCompressor &&
    header.ciOffset === blob.ciOffset &&
    header.ciCompressedBytes === blob.ciCompressedBytes &&
    header.ciBytes === blob.ciBytes;
  if (!same || blob.ciBytes > blob.chunkCount * (ChunkInfoV2.sizeBytes + BatchContext.sizeBytes)) {
    const message = `Cannot decode blob meta: its header differs from the row of blob ${blob.id}`;
    throw new NydusError("EUCLEAN", message, { offset: blob.ciOffset + blob.ciCompressedBytes });
  }
  const ci = stored.subarray(0, blob.ciCompressedBytes);
  return encodeBlobMetaFile(decompress(blob.ciCompressor, ci, blob.ciBytes), raw.subarray(0, BLOB_META_HEADER_BYTES));
}

/**
 * A `<blob id>.blob.meta` file (as {@link encodeBlobMetaFile} makes it of what a blob's tail holds), read in place.
 * @throws EUCLEAN damaged; ENOTSUP zran or encrypted
 */
export function decodeBlobMeta(file: Uint8Array): BlobMeta {
  const ciEnd = file.length - BLOB_META_HEADER_BYTES;
  if (ciEnd < 0) throw metaError(`${file.length} bytes hold no header`, 0);
  const header = decodeBlobMetaHeader(file.subarray(ciEnd));
  if ((header.features & (BLOB_FEATURES.zran | BLOB_FEATURES.encrypted)) !== 0) {
    const bits = `0x${header.features.toString(16)}`;
    throw new NydusError("ENOTSUP", `Cannot read blob meta: features ${bits} (zran or encryption) are not supported`);
  }
  const v2 = (header.features & BLOB_FEATURES.chunkInfoV2) !== 0;
  const rowBytes = v2 ? ChunkInfoV2.sizeBytes : ChunkInfoV1.sizeBytes;
  const chunkEnd = header.chunkCount * rowBytes;
  const contextEnd = header.contextOffset + header.contextCount * BatchContext.sizeBytes;
  if (header.ciBytes > ciEnd || chunkEnd > header.ciBytes || (header.contextCount > 0 && contextEnd > header.ciBytes)) {
    throw metaError(
      `${header.chunkCount} chunks and ${header.contextCount} batches do not fit ${header.ciBytes} bytes`,
      0,
    );
  }
  const view = viewOf(file);
  return {
    header,
    chunkCount: header.chunkCount,
    chunk(i) {
      if (!(i >= 0 && i < header.chunkCount)) throw metaError(`chunk ${i} of ${header.chunkCount}`, 0);
      return v2 ? chunkInfoV2(view, i * rowBytes) : chunkInfoV1(view, i * rowBytes);
    },
    batch(i) {
      if (!(i >= 0 && i < header.contextCount)) throw metaError(`batch ${i} of ${header.contextCount}`, 0);
      const at = header.contextOffset + i * BatchContext.sizeBytes;
      return {
        blobSizeBytes: view.getUint32(at + BatchContext.at.compressedSize, true),
        unitBytes: view.getUint32(at + BatchContext.at.uncompressedBatchSize, true),
      };
    },
  };
}

function metaError(found: string, offset: number): NydusError {
  return new NydusError("EUCLEAN", `Cannot decode blob meta: ${found}`, { offset });
}

const bits = (value: bigint, shift: number, width: number): number =>
  Number((value >> BigInt(shift)) & ((1n << BigInt(width)) - 1n));

/** Sizes are stored less one; their high 4 bits lie apart from the low 20. A chunk that did not shrink is plain. */
function chunkInfoV1(view: DataView, at: number): ChunkInfo {
  const uncomp = view.getBigUint64(at + ChunkInfoV1.at.uncompInfo, true);
  const comp = view.getBigUint64(at + ChunkInfoV1.at.compInfo, true);
  const sizeBytes = ((bits(uncomp, 8, 4) << 20) | bits(uncomp, 44, 20)) + 1;
  const blobSizeBytes = ((bits(comp, 40, 4) << 20) | bits(comp, 44, 20)) + 1;
  return {
    deviceOffset: bits(uncomp, 12, 32) * BLOCK_BYTES,
    sizeBytes,
    blobOffset: bits(comp, 0, 40),
    blobSizeBytes,
    compressed: blobSizeBytes !== sizeBytes,
  };
}

function chunkInfoV2(view: DataView, at: number): ChunkInfo {
  const uncomp = view.getBigUint64(at + ChunkInfoV2.at.uncompInfo, true);
  const comp = view.getBigUint64(at + ChunkInfoV2.at.compInfo, true);
  const flags = bits(uncomp, 56, 8);
  if ((flags & (V2_FLAGS.zran | V2_FLAGS.encrypted)) !== 0) {
    throw new NydusError("ENOTSUP", `Cannot read blob meta: chunk flags 0x${flags.toString(16)}`, { offset: at });
  }
  const info = {
    deviceOffset: bits(uncomp, 0, 32) * BLOCK_BYTES,
    sizeBytes: bits(uncomp, 32, 24) + 1,
    blobOffset: bits(comp, 0, 40),
    blobSizeBytes: bits(comp, 40, 24),
    compressed: (flags & V2_FLAGS.compressed) !== 0,
  };
  if ((flags & V2_FLAGS.batch) === 0) return info;
  const data = at + ChunkInfoV2.at.data;
  return { ...info, batch: { index: view.getUint32(data + 4, true), offset: view.getUint32(data, true) } };
}

function field(value: number, shift: number, width: number): bigint {
  checkWidth(value, width);
  return BigInt(value) << BigInt(shift);
}

function checkWidth(value: number, width: number): void {
  if (Number.isInteger(value) && value >= 0 && value < 2 ** width) return;
  throw new NydusError("ENOTSUP", `Cannot encode chunk information: ${value} does not fit ${width} bits`);
}

/**
 * The format 1 array, 16 bytes a chunk, in the order of chunk numbers.
 * A chunk counts as compressed when its two sizes differ: a compressed one must not have the size of the plain.
 * @throws ENOTSUP values that the bit fields cannot hold; EINVAL offsets not aligned to 4096 or such a chunk
 */
export function encodeChunkInfoV1(chunks: readonly ChunkInfo[]): Uint8Array {
  const target = new Uint8Array(chunks.length * ChunkInfoV1.sizeBytes);
  const view = viewOf(target);
  chunks.forEach((chunk, i) => {
    checkEncodable(chunk, i);
    if (chunk.compressed !== (chunk.blobSizeBytes !== chunk.sizeBytes)) {
      throw new NydusError(
        "EINVAL",
        `Cannot encode chunk ${i}: compressed and plain sizes say otherwise than its flag`,
      );
    }
    putChunkInfoV1(view, i * ChunkInfoV1.sizeBytes, chunk);
  });
  return target;
}

/** In 32-bit halves: a conversion has many chunks, and this runs once, cold. */
function putChunkInfoV1(view: DataView, at: number, chunk: ChunkInfo): void {
  const [size, blobSize] = [chunk.sizeBytes - 1, chunk.blobSizeBytes - 1];
  const block = chunk.deviceOffset / BLOCK_BYTES;
  checkWidth(size, 24);
  checkWidth(blobSize, 24);
  checkWidth(block, 32);
  checkWidth(chunk.blobOffset, 40);
  const uncompInfo = at + ChunkInfoV1.at.uncompInfo;
  view.setInt32(uncompInfo, ((size >>> 20) << 8) | (block << 12), true);
  view.setInt32(uncompInfo + 4, (block >>> 20) | (size << 12), true);
  const compInfo = at + ChunkInfoV1.at.compInfo;
  view.setInt32(compInfo, chunk.blobOffset, true); // its low 32 bits
  const high = Math.floor(chunk.blobOffset / TWO_32) | ((blobSize >>> 20) << 8) | (blobSize << 12);
  view.setInt32(compInfo + 4, high, true);
}

/** The format 2 array, 24 bytes a chunk, without contexts. @throws as {@link encodeChunkInfoV1} */
export function encodeChunkInfoV2(chunks: readonly ChunkInfo[]): Uint8Array {
  const target = new Uint8Array(chunks.length * ChunkInfoV2.sizeBytes);
  chunks.forEach((chunk, i) => {
    checkEncodable(chunk, i);
    const { batch } = chunk;
    const flags = (chunk.compressed ? V2_FLAGS.compressed : 0) | (batch === undefined ? 0 : V2_FLAGS.batch);
    ChunkInfoV2.write(target, i * ChunkInfoV2.sizeBytes, {
      uncompInfo:
        field(chunk.deviceOffset / BLOCK_BYTES, 0, 32) | field(chunk.sizeBytes - 1, 32, 24) | field(flags, 56, 8),
      compInfo: field(chunk.blobOffset, 0, 40) | field(chunk.blobSizeBytes, 40, 24),
      data: batch === undefined ? 0n : field(batch.index, 32, 32) | field(batch.offset, 0, 32),
    });
  });
  return target;
}

/** Batch contexts, 40 bytes each. */
export function encodeBatches(batches: readonly Batch[]): Uint8Array {
  const target = new Uint8Array(batches.length * BatchContext.sizeBytes);
  batches.forEach(({ blobSizeBytes, unitBytes }, i) => {
    const record = { compressedSize: blobSizeBytes, uncompressedBatchSize: unitBytes };
    BatchContext.write(target, i * BatchContext.sizeBytes, record);
  });
  return target;
}

function checkEncodable(chunk: ChunkInfo, i: number): void {
  if (chunk.deviceOffset % BLOCK_BYTES !== 0 || chunk.sizeBytes < 1) {
    const found = `device offset ${chunk.deviceOffset}, ${chunk.sizeBytes} bytes`;
    throw new NydusError("EINVAL", `Cannot encode chunk ${i}: ${found}`);
  }
}
