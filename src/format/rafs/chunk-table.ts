import { setSafe64, viewOf } from "../../base/bytes.ts";
import { bytes, type StructOf, struct, u32, u64 } from "../../base/struct.ts";
import type { ChunkRecord } from "../tree/node.ts";

/** One row of the chunk table, the same as RAFS v5's. @see nydus RafsV5ChunkInfo */
export const RafsChunk = struct("RafsV5ChunkInfo", 80, {
  blockId: [0, bytes(32)],
  blobIndex: [32, u32],
  flags: [36, u32],
  compressedSize: [40, u32],
  uncompressedSize: [44, u32],
  compressedOffset: [48, u64],
  uncompressedOffset: [56, u64],
  fileOffset: [64, u64],
  index: [72, u32],
  crc32: [76, u32],
});
export type RafsChunk = StructOf<typeof RafsChunk>;

/** Flags of a chunk. @see nydus BlobChunkFlags */
export const CHUNK_FLAGS = { compressed: 0x1, hole: 0x2, encrypted: 0x4, batch: 0x8, hasCrc32: 0x10 } as const;

/** The chunk of row `offset` for a tree; the digest is a view. @throws EUCLEAN past the end */
export function decodeChunk(image: Uint8Array, offset: number): ChunkRecord {
  const row = RafsChunk.read(image, offset);
  const batched = (row.flags & CHUNK_FLAGS.batch) !== 0;
  return {
    blob: row.blobIndex,
    index: row.index,
    digest: row.blockId,
    compressed: (row.flags & CHUNK_FLAGS.compressed) !== 0,
    ...(batched ? { batched } : {}),
    blobOffset: row.compressedOffset,
    blobSizeBytes: row.compressedSize,
    deviceOffset: row.uncompressedOffset,
    sizeBytes: row.uncompressedSize,
  };
}

/** Writes a row where the image is zero; `fileOffset` is where the first file that has the chunk has it. */
export function encodeChunk(image: Uint8Array, offset: number, row: { chunk: ChunkRecord; fileOffset: number }): void {
  const { chunk } = row;
  const { at } = RafsChunk;
  const view = viewOf(image);
  const flags = (chunk.compressed ? CHUNK_FLAGS.compressed : 0) | (chunk.batched === true ? CHUNK_FLAGS.batch : 0);
  image.set(chunk.digest, offset + at.blockId);
  view.setUint32(offset + at.blobIndex, chunk.blob, true);
  view.setUint32(offset + at.flags, flags, true);
  view.setUint32(offset + at.compressedSize, chunk.blobSizeBytes, true);
  view.setUint32(offset + at.uncompressedSize, chunk.sizeBytes, true);
  setSafe64(view, offset + at.compressedOffset, chunk.blobOffset);
  setSafe64(view, offset + at.uncompressedOffset, chunk.deviceOffset);
  setSafe64(view, offset + at.fileOffset, row.fileOffset);
  view.setUint32(offset + at.index, chunk.index, true);
}
