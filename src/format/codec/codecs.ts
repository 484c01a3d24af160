import type { Hasher } from "../../base/digest.ts";

/** Compressors of RAFS chunks, named as nydus-image names them. */
export type Compressor = "none" | "lz4_block" | "gzip" | "zstd";

/** Digest algorithms of RAFS chunks. */
export type Digester = "blake3" | "sha256";

/** Compressions of OCI layers. */
export type StreamFormat = "none" | "gzip" | "zstd";

/** Bytes of a chunk digest of either algorithm. */
export const DIGEST_BYTES = 32;

/**
 * Every codec and digest that the formats need, each by the faster of the WASM core and the runtime
 * (DESIGN section 5). An instance belongs to one thread; calls are synchronous but for the streams.
 */
export interface Codecs {
  /** 32 bytes. */
  digest(digester: Digester, data: Uint8Array): Uint8Array;
  /**
   * Cuts the files that lie end to end in `data` every `chunkBytes` and digests each chunk in one pass.
   * @param extents lengths of the files, bytes; they sum to data.length; an empty file has no chunk
   * @returns 32 bytes a chunk, in order
   */
  digestChunks(digester: Digester, data: Uint8Array, extents: Uint32Array, chunkBytes: number): Uint8Array;
  /** CRC-32C of `data`; `seed` continues an earlier result. */
  crc32c(data: Uint8Array, seed?: number): number;
  /** A streaming SHA-256. */
  sha256(): Hasher;
  /** Compresses one chunk; `level` is zstd's or gzip's, others ignore it. */
  compress(compressor: Compressor, data: Uint8Array, level: number): Uint8Array;
  /** As {@link compress}, but the next call of either may overwrite the result: saves a copy where it is used at once. */
  compressToView(compressor: Compressor, data: Uint8Array, level: number): Uint8Array;
  /**
   * Decompresses one chunk.
   * @param sizeBytes what it must give, exactly
   * @throws EUCLEAN malformed, or another size; ENOTSUP a zstd dictionary or too large a window
   */
  decompress(compressor: Compressor, data: Uint8Array, sizeBytes: number): Uint8Array;
  /**
   * Decompresses a layer of any length in bounded memory; gzip may have many members, zstd many frames.
   * @throws EUCLEAN malformed or truncated
   */
  decompressStream(format: StreamFormat, input: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array>;
}
