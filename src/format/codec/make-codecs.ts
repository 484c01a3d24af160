import type { Hasher } from "../../base/digest.ts";
import { NydusError } from "../../base/errors.ts";
import { type Codecs, type Compressor, DIGEST_BYTES, type StreamFormat } from "./codecs.ts";
import { gzipDeterministic } from "./compress.ts";
import type { Kernels } from "./kernels.ts";
import { coreStream, type StreamDecode, zstdStream } from "./stream-decode.ts";
import { isPlainZstdFrame } from "./zstd-frame.ts";

/** Codecs that the runtime brings, handed down by floor os. What is left out is the core's work. */
export interface NativeCodecs {
  /** 32 bytes. */
  readonly sha256?: (data: Uint8Array) => Uint8Array;
  readonly sha256Stream?: () => Hasher;
  /** One gzip member, the same bytes on every machine. @throws EINVAL a level that gzip does not have */
  readonly gzipCompress?: (data: Uint8Array, level: number) => Uint8Array;
  /** One whole frame with its content size: a view that the next call may overwrite. @throws EINVAL a level that zstd does not have */
  readonly zstdCompress?: (data: Uint8Array, level: number) => Uint8Array;
  /** Decompresses one whole frame that declares `sizeBytes`; may throw anything. */
  readonly zstdDecompress?: (frame: Uint8Array, sizeBytes: number) => Uint8Array;
  /** Decodes gzip members. */
  readonly gunzipStream?: StreamDecode;
  /** Decodes one zstd frame. */
  readonly zstdFrameStream?: StreamDecode;
}

type Compress = (data: Uint8Array, level: number) => Uint8Array;
type Decompress = (data: Uint8Array, sizeBytes: number) => Uint8Array;

function compressors(kernels: Kernels, native: NativeCodecs): Record<Compressor, Compress> {
  return {
    none: (data) => data,
    lz4_block: (data) => kernels.lz4Compress(data),
    gzip: native.gzipCompress ?? gzipDeterministic,
    zstd: native.zstdCompress ?? noZstdCompress,
  };
}

function noZstdCompress(): never {
  const found = "this runtime has no zstd encoder (Bun, Node.js 22.15 and Deno 2.6 have one)";
  throw new NydusError("ENOTSUP", `Cannot compress by zstd: ${found}`);
}

function decompressors(kernels: Kernels, native: NativeCodecs): Record<Compressor, Decompress> {
  return {
    none: sameSize,
    lz4_block: (data, sizeBytes) => kernels.lz4Decompress(data, sizeBytes),
    gzip: (data, sizeBytes) => kernels.inflate("gzip", data, sizeBytes),
    zstd: zstdDecompressor(kernels, native.zstdDecompress),
  };
}

function sameSize(data: Uint8Array, sizeBytes: number): Uint8Array {
  if (data.length === sizeBytes) return data;
  throw new NydusError("EUCLEAN", `Cannot take an uncompressed chunk: ${data.length} bytes, ${sizeBytes} wanted`);
}

/**
 * The runtime's decoder for the frames that all runtimes decode alike; the core for the others. Where the runtime's
 * fails, the core says why, so that an error does not depend on the runtime.
 */
function zstdDecompressor(kernels: Kernels, native: NativeCodecs["zstdDecompress"]): Decompress {
  const core: Decompress = (data, sizeBytes) => kernels.zstdDecompress(data, sizeBytes);
  if (native === undefined) return core;
  return (data, sizeBytes) => {
    if (!isPlainZstdFrame(data, sizeBytes)) return core(data, sizeBytes);
    let output: Uint8Array | undefined;
    try {
      output = native(data, sizeBytes);
    } catch {
      return core(data, sizeBytes);
    }
    return output.length === sizeBytes ? output : core(data, sizeBytes);
  };
}

function streamDecoders(kernels: Kernels, native: NativeCodecs): Record<StreamFormat, StreamDecode> {
  const { gunzipStream, zstdFrameStream } = native;
  return {
    none: passOn,
    gzip: gunzipStream ?? coreStream(kernels, "gzip"),
    zstd: zstdFrameStream === undefined ? coreStream(kernels, "zstd") : zstdStream(kernels, zstdFrameStream),
  };
}

async function* passOn(input: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  yield* input;
}

/** Digests chunk by chunk, as {@link Kernels.digestChunks} does in one pass. */
function digestEach(kernels: Kernels, sha256: (data: Uint8Array) => Uint8Array): Kernels["digestChunks"] {
  return (digester, data, extents, chunkBytes) => {
    const sum = extents.reduce((total, extent) => total + extent, 0);
    const valid = sum === data.length && Number.isInteger(chunkBytes) && chunkBytes > 0;
    if (!valid) return kernels.digestChunks(digester, data, extents, chunkBytes); // it says what is wrong
    const count = extents.reduce((total, extent) => total + Math.ceil(extent / chunkBytes), 0);
    const digests = new Uint8Array(count * DIGEST_BYTES);
    let at = 0;
    let chunk = 0;
    for (const extent of extents) {
      const end = at + extent;
      for (; at < end; at = Math.min(at + chunkBytes, end)) {
        digests.set(sha256(data.subarray(at, Math.min(at + chunkBytes, end))), chunk++ * DIGEST_BYTES);
      }
    }
    return digests;
  };
}

/**
 * The codecs of one thread: for each operation the core's implementation, or the runtime's where that is handed down and
 * the core does not reach 80 % of its speed (measured in Bun; README). BLAKE3, CRC-32C, LZ4 and inflate of chunks are
 * always the core's.
 * @param native undefined: everything by the core; compressing by zstd is then ENOTSUP
 */
export function makeCodecs(kernels: Kernels, native: NativeCodecs = {}): Codecs {
  const compress = compressors(kernels, native);
  const isView = (compressor: Compressor): boolean => compressor === "zstd" && native.zstdCompress !== undefined;
  const decompress = decompressors(kernels, native);
  const stream = streamDecoders(kernels, native);
  const sha256 = native.sha256 ?? kernels.sha256;
  const digest = { blake3: kernels.blake3, sha256 };
  const digestChunks = {
    blake3: kernels.digestChunks,
    sha256: native.sha256 === undefined ? kernels.digestChunks : digestEach(kernels, native.sha256),
  };
  return {
    digest: (digester, data) => digest[digester](data),
    digestChunks: (digester, data, extents, chunkBytes) => digestChunks[digester](digester, data, extents, chunkBytes),
    crc32c: (data, seed) => kernels.crc32c(data, seed),
    sha256: () => (native.sha256Stream ?? kernels.sha256Stream)(),
    compress: (compressor, data, level) => {
      const packed = compress[compressor](data, level);
      return isView(compressor) ? new Uint8Array(packed) : packed;
    },
    compressToView: (compressor, data, level) => compress[compressor](data, level),
    decompress: (compressor, data, sizeBytes) => decompress[compressor](data, sizeBytes),
    decompressStream: (format, input) => stream[format](input),
  };
}
