import { bytesOfKey } from "../../base/bytes.ts";
import type { Hasher } from "../../base/digest.ts";
import { type ErrorCode, NydusError } from "../../base/errors.ts";
import type { Digester } from "./codecs.ts";

type Root = import("../../../dist/core/core.js").Root;
type Fault = import("../../../dist/core/interfaces/nydus-core-codec.js").Fault;

/** Formats of the streaming decoders. */
export type DecoderFormat = "gzip" | "raw-deflate" | "zstd";

/** What one push gave. */
export interface DecodeProgress {
  readonly output: Uint8Array;
  /** Bytes of the input taken; offer the rest again. */
  readonly consumed: number;
  /** Between members or frames: the input may end here. */
  readonly atBoundary: boolean;
}

/** A decoder of a stream of any length in bounded memory; close it. */
export interface StreamDecoder extends Disposable {
  /**
   * Decodes at most `limitBytes` of output. No output and nothing left of the input: it needs more.
   * @throws EUCLEAN malformed; EBADMSG a checksum; ENOTSUP a zstd dictionary or too large a window
   */
  push(data: Uint8Array, limitBytes: number): DecodeProgress;
  close(): void;
}

/** The WASM core, typed: bytes in, fresh bytes out. One instance belongs to one thread; every call is synchronous. */
export interface Kernels {
  /** 32 bytes. */
  blake3(data: Uint8Array): Uint8Array;
  /** 32 bytes. */
  sha256(data: Uint8Array): Uint8Array;
  /** CRC-32C; `seed` continues an earlier result. */
  crc32c(data: Uint8Array, seed?: number): number;
  xxh64(data: Uint8Array, seed?: bigint): bigint;
  /**
   * Cuts the files that lie end to end in `data` every `chunkBytes` and digests each chunk in one pass.
   * @param extents lengths of the files, bytes; an empty file has no chunk
   * @returns 32 bytes a chunk, in order
   * @throws EINVAL unless extents sum to data.length and chunkBytes is positive
   */
  digestChunks(digester: Digester, data: Uint8Array, extents: Uint32Array, chunkBytes: number): Uint8Array;
  /** A streaming SHA-256; digest() ends it, so does disposing. @throws EBUSY when 16 are open */
  sha256Stream(): Hasher & Disposable;
  /** One LZ4 block, without a frame. */
  lz4Compress(data: Uint8Array): Uint8Array;
  /** Decompresses one LZ4 block of exactly `sizeBytes`. @throws EUCLEAN malformed, or another size */
  lz4Decompress(data: Uint8Array, sizeBytes: number): Uint8Array;
  /** Decompresses whole zstd frames of exactly `sizeBytes`. @throws EUCLEAN, EBADMSG, ENOTSUP as {@link StreamDecoder.push} */
  zstdDecompress(data: Uint8Array, sizeBytes: number): Uint8Array;
  /** Decompresses gzip members or a raw deflate stream of exactly `sizeBytes`. @throws EUCLEAN malformed; EBADMSG a checksum */
  inflate(format: "gzip" | "raw-deflate", data: Uint8Array, sizeBytes: number): Uint8Array;
  /**
   * Opens a streaming decoder.
   * @param windowLimitBytes bounds zstd's window
   * @throws EBUSY when too many are open
   */
  openDecoder(format: DecoderFormat, windowLimitBytes: number): StreamDecoder;
}

/** Input and output of one call together, bytes; the core's memory ends at twice this. */
export const CALL_BYTES_MAX = 256 * 1024 * 1024;

const FAULTS: Readonly<Record<Fault, readonly [code: ErrorCode, found: string]>> = {
  truncated: ["EUCLEAN", "the input ends too early"],
  corrupt: ["EUCLEAN", "the input is malformed"],
  checksum: ["EBADMSG", "the checksum does not match"],
  "too-large": ["EUCLEAN", "the output is larger than expected"],
  dictionary: ["ENOTSUP", "it was made with a dictionary"],
  window: ["ENOTSUP", "its window is above the limit"],
  busy: ["EBUSY", "every handle of the WASM core is in use"],
};

/** Runs one call of the core, turning a WIT fault into a NydusError and a trap into EFAULT. */
function call<T>(action: string, wanted: string, fn: () => T): T {
  try {
    return fn();
  } catch (error) {
    if (error instanceof NydusError) throw error;
    const row = FAULTS[(error as { payload?: Fault } | null)?.payload as Fault];
    if (row !== undefined) throw new NydusError(row[0], `Cannot ${action}: ${row[1]}${wanted}`);
    throw new NydusError("EFAULT", `Cannot ${action}: the WASM core failed`, {}, { cause: error });
  }
}

/** Refuses what would not fit the core's memory. */
function guardSize(action: string, inputBytes: number, outputBytes: number): void {
  if (!Number.isSafeInteger(outputBytes) || outputBytes < 0) {
    throw new NydusError("EINVAL", `Cannot ${action}: ${outputBytes} is no size in bytes`);
  }
  if (inputBytes + outputBytes > CALL_BYTES_MAX) {
    const found = `${inputBytes} bytes in and ${outputBytes} out`;
    throw new NydusError("EINVAL", `Cannot ${action}: ${found}, at most ${CALL_BYTES_MAX} together`);
  }
}

function checkExtents(data: Uint8Array, extents: Uint32Array, chunkBytes: number): void {
  if (!Number.isInteger(chunkBytes) || chunkBytes < 1 || chunkBytes > 0xffff_ffff) {
    throw new NydusError("EINVAL", `Cannot cut chunks: ${chunkBytes} is no chunk size in bytes`);
  }
  const sum = extents.reduce((total, extent) => total + extent, 0);
  if (sum === data.length) return;
  throw new NydusError("EINVAL", `Cannot cut chunks: the files have ${sum} bytes, the data ${data.length}`);
}

function chunkCount(extents: Uint32Array, chunkBytes: number): number {
  return extents.reduce((count, extent) => count + Math.ceil(extent / chunkBytes), 0);
}

/** Hands out streaming hashers; one that is dropped without an end gives its handle back when it is collected. */
function sha256Streams(hash: Root["hash"]): () => Hasher & Disposable {
  const dropped = new FinalizationRegistry<number>((handle) => void hash.sha256Finish(handle));
  return () => {
    const handle = hash.sha256Open();
    if (handle === undefined) throw new NydusError("EBUSY", "Cannot begin a SHA-256: 16 are open");
    let open = true;
    const end = (): Uint8Array | undefined => {
      if (!open) return undefined;
      open = false;
      dropped.unregister(hasher);
      return hash.sha256Finish(handle);
    };
    const hasher: Hasher & Disposable = {
      update(data) {
        if (!open) throw new NydusError("EFAULT", "Cannot update a SHA-256: it has ended");
        guardSize("update a SHA-256", data.length, 0);
        call("update a SHA-256", "", () => hash.sha256Update(handle, data));
      },
      peek() {
        if (!open) throw new NydusError("EFAULT", "Cannot digest a SHA-256: it has ended");
        return call("digest a SHA-256", "", () => hash.sha256Peek(handle));
      },
      digest() {
        const digest = call("end a SHA-256", "", end);
        if (digest === undefined) throw new NydusError("EFAULT", "Cannot end a SHA-256: it has ended");
        return digest;
      },
      [Symbol.dispose]: () => void end(),
    };
    dropped.register(hasher, handle, hasher);
    return hasher;
  };
}

function openDecoder(codec: Root["codec"], format: DecoderFormat, windowLimitBytes: number): StreamDecoder {
  const action = `decode ${format} stream`;
  const handle = call(action, "", () => codec.streamOpen(format, windowLimitBytes));
  let open = true;
  const close = (): void => {
    if (open) codec.streamClose(handle);
    open = false;
  };
  return {
    push(data, limitBytes) {
      if (!open) throw new NydusError("EFAULT", `Cannot ${action}: it is closed`);
      guardSize(action, data.length, limitBytes);
      return call(action, "", () => codec.streamPush(handle, data, limitBytes));
    },
    close,
    [Symbol.dispose]: close,
  };
}

/** The hash half of {@link Kernels}. */
function hashKernels(hash: Root["hash"]): Omit<Kernels, keyof ReturnType<typeof codecKernels>> {
  return {
    blake3(data) {
      guardSize("compute a BLAKE3", data.length, 0);
      return call("compute a BLAKE3", "", () => hash.blake3(data));
    },
    sha256(data) {
      guardSize("compute a SHA-256", data.length, 0);
      return call("compute a SHA-256", "", () => hash.sha256(data));
    },
    crc32c(data, seed = 0) {
      guardSize("compute a CRC-32C", data.length, 0);
      return call("compute a CRC-32C", "", () => hash.crc32c(data, seed)) >>> 0;
    },
    xxh64(data, seed = 0n) {
      guardSize("compute an XXH64", data.length, 0);
      return call("compute an XXH64", "", () => hash.xxh64(data, seed));
    },
    digestChunks(digester, data, extents, chunkBytes) {
      checkExtents(data, extents, chunkBytes);
      guardSize("digest chunks", data.length, extents.length * 4 + chunkCount(extents, chunkBytes) * 32);
      return call("digest chunks", "", () => hash.digestChunks(digester, data, extents, chunkBytes));
    },
    sha256Stream: sha256Streams(hash),
  };
}

/** The codec half of {@link Kernels}. */
function codecKernels(codec: Root["codec"]) {
  const wanted = (data: Uint8Array, sizeBytes: number): string =>
    `, ${sizeBytes} bytes wanted from ${data.length} compressed`;
  return {
    lz4Compress(data: Uint8Array): Uint8Array {
      guardSize("compress lz4 block", data.length, data.length);
      return call("compress lz4 block", "", () => codec.lz4Compress(data));
    },
    lz4Decompress(data: Uint8Array, sizeBytes: number): Uint8Array {
      guardSize("decompress lz4 block", data.length, sizeBytes);
      return call("decompress lz4 block", wanted(data, sizeBytes), () => codec.lz4Decompress(data, sizeBytes));
    },
    zstdDecompress(data: Uint8Array, sizeBytes: number): Uint8Array {
      guardSize("decompress zstd frame", data.length, sizeBytes);
      return call("decompress zstd frame", wanted(data, sizeBytes), () => codec.zstdDecompress(data, sizeBytes));
    },
    inflate(format: "gzip" | "raw-deflate", data: Uint8Array, sizeBytes: number): Uint8Array {
      guardSize(`decompress ${format}`, data.length, sizeBytes);
      return call(`decompress ${format}`, wanted(data, sizeBytes), () => codec.inflate(format, data, sizeBytes));
    },
    openDecoder: (format: DecoderFormat, windowLimitBytes: number) => openDecoder(codec, format, windowLimitBytes),
  };
}

/** The core, compiled: threads that share it share what the engine makes of it while it runs. */
export type CompiledCore = WebAssembly.Module;

/**
 * Compiles the WASM core.
 * @throws EFAULT when the built module is missing or damaged
 */
export async function compileCore(): Promise<CompiledCore> {
  try {
    const { CORE_WASM_BASE64 } = await import("../../../dist/core/core-wasm.js");
    return await WebAssembly.compile(bytesOfKey(atob(CORE_WASM_BASE64)) as Uint8Array<ArrayBuffer>);
  } catch (error) {
    throw damagedCore(error);
  }
}

/** The module that jco made of the component, instantiated. */
async function instantiateCore(compiled: CompiledCore | undefined): Promise<Root> {
  const [core, { instantiate }] = await Promise.all([
    compiled ?? compileCore(),
    import("../../../dist/core/core.js").catch((error: unknown) => Promise.reject(damagedCore(error))),
  ]);
  try {
    return instantiate(() => core, {});
  } catch (error) {
    throw damagedCore(error);
  }
}

function damagedCore(cause: unknown): NydusError {
  const found = "dist/core is missing or damaged; bun run build:wasm makes it";
  return new NydusError("EFAULT", `Cannot load the WASM core: ${found}`, {}, { cause });
}

/**
 * Loads the WASM core: a new instance, of this thread, with its own memory (at most 512 MiB; it stays at its
 * high-water mark: about the largest call's input and output together).
 * @param compiled of {@link compileCore}, from this or another thread; compiled here when left out
 * @throws EFAULT when the built module is missing or damaged
 */
export async function loadKernels(compiled?: CompiledCore): Promise<Kernels> {
  const root = await instantiateCore(compiled);
  return { ...hashKernels(root.hash), ...codecKernels(root.codec) };
}
