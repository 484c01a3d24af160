import type { Compressor, Digester } from "../codec/codecs.ts";

/**
 * The one shape of every format (DESIGN section 1): where each byte of a device comes from.
 * A device is the uncompressed address space of one blob, in 4 KiB blocks. Chunks are numbered by position,
 * in the order of their device offsets; they do not overlap; bytes between them belong to nothing and are never
 * served. Accessors are cheap and allocate nothing: they read the mapped bootstrap.
 */
export interface ChunkMap {
  /** Chunks of the device that some file references: "complete" means all of these. */
  readonly count: number;
  readonly digester: Digester;
  /** Position of the chunk that holds device byte `deviceOffset`, or -1. */
  find(deviceOffset: number): number;
  /** First byte of chunk `i` in the device; a multiple of 4096. */
  deviceOffset(i: number): number;
  /** Uncompressed bytes of chunk `i`. */
  sizeBytes(i: number): number;
  /** First byte in the blob of the compressed unit that holds chunk `i`. */
  blobOffset(i: number): number;
  /** Bytes of that unit in the blob. */
  blobSizeBytes(i: number): number;
  /** "none" also for a single chunk stored plain in a compressed blob. */
  compressor(i: number): Compressor;
  /** Uncompressed bytes of the unit: the chunk's own size, or a whole batch's. */
  unitBytes(i: number): number;
  /** Where the chunk begins in the decompressed unit; 0 unless batched. */
  offsetInUnit(i: number): number;
  /** The 32-byte digest (a view, not a copy), or undefined where the format has none. */
  digest(i: number): Uint8Array | undefined;
  /** CRC-32C of the uncompressed chunk where the format carries one. */
  crc32c(i: number): number | undefined;
}
