import { createHash } from "node:crypto";
// names differ by runtime and version: a named import of one that is missing would not load
import * as zlib from "node:zlib";
import type { Hasher } from "../base/digest.ts";
import { checkGzipLevel, loadZstdWasm } from "../format/codec/compress.ts";
import type { NativeCodecs } from "../format/codec/make-codecs.ts";
import { gunzipStream, zstdFrameStream } from "./native-stream.ts";
import { hasZstd, zstdCompressor } from "./zstd-compress.ts";

function sha256(data: Uint8Array): Uint8Array {
  return createHash("sha256").update(data).digest();
}

function sha256Stream(): Hasher {
  const hash = createHash("sha256");
  return {
    update: (data) => void hash.update(data),
    peek: () => hash.copy().digest(),
    digest: () => hash.digest(),
  };
}

/** By libdeflate: its bytes do not depend on what the processor can do, those of other libraries may. */
function gzipCompress(data: Uint8Array, level: number): Uint8Array {
  checkGzipLevel(level);
  return Bun.gzipSync(data as Uint8Array<ArrayBuffer>, { library: "libdeflate", level: level as 0 });
}

/** A frame that declares `sizeBytes`: Bun's decoder allocates what the frame declares and writes no more. */
function zstdDecompress(frame: Uint8Array, sizeBytes: number): Uint8Array {
  if (typeof Bun !== "undefined") return Bun.zstdDecompressSync(frame);
  return zlib.zstdDecompressSync(frame, { maxOutputLength: Math.max(1, sizeBytes) });
}

/** What this runtime can compress: the core decodes only. */
export function nativeCompression(): NativeCodecs {
  return { ...(hasZstd && { zstdCompress: zstdCompressor() }), ...(typeof Bun !== "undefined" && { gzipCompress }) };
}

/** The codecs that this runtime brings; where it has no zstd, the decoder of the package zstd-wasm if that loads. */
export async function nativeCodecs(): Promise<NativeCodecs> {
  const shared: NativeCodecs = { ...nativeCompression(), sha256, sha256Stream, gunzipStream };
  if (hasZstd && zstdFrameStream !== undefined) return { ...shared, zstdDecompress, zstdFrameStream };
  const zstdWasm = await loadZstdWasm();
  return zstdWasm === undefined ? shared : { ...shared, zstdDecompress: zstdWasm };
}
