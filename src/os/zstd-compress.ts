// names differ by runtime and version: a named import of one that is missing would not load
import * as zlib from "node:zlib";
import { NydusError } from "../base/errors.ts";
import { contextOf, type ZlibContext } from "./zlib-handle.ts";

/** zstd's levels, `--ultra` ones too. */
const ZSTD_LEVEL_MAX = 22;

/**
 * log2 of the entries of both hash tables at level 3. They are a fifth of zstd's own and stay in the core's cache: an
 * eighth less time for blobs 1.2 % larger.
 */
const LEVEL_3_TABLE_LOG = 14;

/** Whether this runtime has zstd. */
export const hasZstd = typeof zlib.zstdCompressSync === "function";

function paramsOf(level: number): Record<number, number> {
  if (!Number.isInteger(level) || level < 1 || level > ZSTD_LEVEL_MAX) {
    throw new NydusError("EINVAL", `Cannot compress by zstd: level ${level}, 1 to ${ZSTD_LEVEL_MAX} wanted`);
  }
  const { ZSTD_c_compressionLevel, ZSTD_c_hashLog, ZSTD_c_chainLog } = zlib.constants;
  if (level !== 3) return { [ZSTD_c_compressionLevel]: level };
  const tables = { [ZSTD_c_hashLog]: LEVEL_3_TABLE_LOG, [ZSTD_c_chainLog]: LEVEL_3_TABLE_LOG };
  return { [ZSTD_c_compressionLevel]: level, ...tables };
}

/** Most bytes of a frame of `sizeBytes`. @see zstd.h ZSTD_COMPRESSBOUND */
function boundOf(sizeBytes: number): number {
  const small = 128 * 1024;
  return sizeBytes + (sizeBytes >>> 8) + (sizeBytes < small ? (small - sizeBytes) >>> 11 : 0);
}

/** Compresses frame after frame by one context, whose tables and buffers stay. */
class ZstdCompressor {
  readonly level: number;
  readonly #context: ZlibContext | undefined;
  readonly #params: Record<number, number>;
  #frame = new Uint8Array(0);

  constructor(level: number) {
    this.level = level;
    this.#params = paramsOf(level);
    this.#context = contextOf(zlib.createZstdCompress({ params: this.#params }));
  }

  /** One whole frame with its content size: a view that the next call overwrites. */
  compress(data: Uint8Array): Uint8Array {
    if (this.#context === undefined) return zlib.zstdCompressSync(data, { params: this.#params });
    const bound = boundOf(data.length);
    if (bound > this.#frame.length) this.#frame = new Uint8Array(bound);
    // Given the end and room for it with the first call, zstd knows the size and works straight into the output.
    const { consumed, written } = this.#context.run(zlib.constants.ZSTD_e_end, data, this.#frame);
    if (consumed !== data.length) throw new NydusError("EFAULT", "Cannot compress by zstd: it left input over");
    return this.#frame.subarray(0, written);
  }

  close(): void {
    this.#context?.[Symbol.dispose]();
  }
}

/**
 * A compressor with a context of its own, for the level that it was asked for last.
 * @returns makes one whole frame with its content size: a view that the next call overwrites; throws EINVAL at a level
 *   that zstd does not have
 */
export function zstdCompressor(): (data: Uint8Array, level: number) => Uint8Array {
  let last: ZstdCompressor | undefined;
  return (data, level) => {
    if (last?.level !== level) {
      const next = new ZstdCompressor(level);
      last?.close();
      last = next;
    }
    return last.compress(data);
  };
}
