import type { MessagePort } from "node:worker_threads";
import { equalBytes } from "../base/bytes.ts";
import { NydusError } from "../base/errors.ts";
import { type Codecs, DIGEST_BYTES } from "../format/codec/codecs.ts";
import type { DecodeFailure, DecodeJob, DecodeUnit, EncodedPieces, EncodeJob } from "./codec-pool.ts";
import { loadCodecs } from "./codecs.ts";
import { serveThread } from "./thread.ts";

/** The name of this thread's work in `main.ts`' table. */
export const CODEC_ROLE = "codec";

/** Where {@link CODEC_ROLE} is served: this module, or the bundle that holds it. */
export const codecThreadUrl = import.meta.url;

/** What the pool asks of a thread. */
export type CodecRequest =
  | { readonly id: number; readonly kind: "encode"; readonly job: EncodeJob }
  | { readonly id: number; readonly kind: "decode"; readonly job: DecodeJob };

/** What the thread answers: the result, or why there is none. */
export type CodecReply =
  | { readonly id: number; readonly ok: true; readonly result: EncodedPieces | readonly (Uint8Array | DecodeFailure)[] }
  | { readonly id: number; readonly ok: false; readonly failure: DecodeFailure };

/**
 * Digests every piece and compresses it; a piece that does not shrink is stored plain, as nydus-image does.
 * The stored forms take the place of the pieces in the job's buffer: none is longer than what it replaces.
 */
export function encodePieces(codecs: Codecs, job: EncodeJob): EncodedPieces {
  const { data, pieces, digester, compressor, level } = job;
  const largest = pieces.reduce((max, size) => Math.max(max, size), 1);
  const digests = codecs.digestChunks(digester, data, pieces, largest);
  const storedSizes = new Uint32Array(pieces.length);
  const compressed = new Uint8Array(pieces.length);
  let from = 0;
  let to = 0;
  for (const [i, size] of pieces.entries()) {
    const piece = data.subarray(from, from + size);
    const packed = compressor === "none" ? piece : codecs.compress(compressor, piece, level);
    const shrinks = packed.length < size;
    data.set(shrinks ? packed : piece, to);
    compressed[i] = shrinks ? 1 : 0;
    storedSizes[i] = shrinks ? packed.length : size;
    to += storedSizes[i] as number;
    from += size;
  }
  return { digests, stored: data.subarray(0, to), storedSizes, compressed };
}

/** Decompresses a unit and checks each of its chunks. @throws EUCLEAN, EBADMSG, ENOTSUP */
export function decodeUnit(codecs: Codecs, job: DecodeJob, unit: DecodeUnit): Uint8Array {
  const packed = job.data.subarray(unit.offset, unit.offset + unit.sizeBytes);
  const plain =
    unit.compressor === "none" ? packed.slice() : ownBuffer(codecs.decompress(unit.compressor, packed, unit.unitBytes));
  if (plain.length !== unit.unitBytes) {
    throw new NydusError("EUCLEAN", `Cannot decode chunk: ${plain.length} bytes stored, ${unit.unitBytes} wanted`);
  }
  for (const chunk of unit.chunks) {
    const bytes = plain.subarray(chunk.offsetInUnit, chunk.offsetInUnit + chunk.sizeBytes);
    if (bytes.length !== chunk.sizeBytes) throw new NydusError("EUCLEAN", "Cannot decode chunk: it ends past its unit");
    verifyChunk(codecs, job, chunk, bytes);
  }
  return plain;
}

/** Bytes whose buffer can go to another thread: Node's zlib gives pieces of a pool that must stay. */
function ownBuffer(bytes: Uint8Array): Uint8Array {
  return bytes.byteLength === bytes.buffer.byteLength ? bytes : Uint8Array.prototype.slice.call(bytes);
}

function verifyChunk(codecs: Codecs, job: DecodeJob, chunk: DecodeUnit["chunks"][number], bytes: Uint8Array): void {
  if (chunk.digest !== undefined && chunk.digest.length === DIGEST_BYTES) {
    if (!equalBytes(codecs.digest(job.digester, bytes), chunk.digest)) {
      throw new NydusError("EBADMSG", `Cannot verify chunk: its ${job.digester} digest differs from the bootstrap's`);
    }
  } else if (chunk.crc32c !== undefined) {
    if (codecs.crc32c(bytes) !== chunk.crc32c) {
      throw new NydusError("EBADMSG", "Cannot verify chunk: its CRC-32C differs from the bootstrap's");
    }
  } else {
    throw new NydusError("EBADMSG", "Cannot verify chunk: the image holds neither digest nor checksum for it");
  }
}

function failureOf(error: unknown): DecodeFailure {
  const code = error instanceof NydusError ? error.code : "EFAULT";
  const kept = code === "EUCLEAN" || code === "EBADMSG" || code === "ENOTSUP" ? code : "EFAULT";
  return { code: kept, message: error instanceof Error ? error.message : String(error) };
}

function decodeUnits(codecs: Codecs, job: DecodeJob): (Uint8Array | DecodeFailure)[] {
  return job.units.map((unit) => {
    try {
      return decodeUnit(codecs, job, unit);
    } catch (error) {
      return failureOf(error);
    }
  });
}

function buffersOf(result: EncodedPieces | readonly (Uint8Array | DecodeFailure)[]): ArrayBuffer[] {
  const arrays = "stored" in result ? [result.stored] : result.filter((one) => one instanceof Uint8Array);
  return [...new Set(arrays.map((array) => array.buffer))].filter((buffer) => buffer instanceof ArrayBuffer);
}

function serve(_data: unknown, port: MessagePort): void {
  const loading = loadCodecs();
  port.on("message", (request: CodecRequest) => {
    void loading
      .then((codecs): CodecReply => {
        const result = request.kind === "encode" ? encodePieces(codecs, request.job) : decodeUnits(codecs, request.job);
        return { id: request.id, ok: true, result };
      })
      .catch((error: unknown): CodecReply => ({ id: request.id, ok: false, failure: failureOf(error) }))
      .then((reply) => port.postMessage(reply, reply.ok ? buffersOf(reply.result) : []));
  });
}

serveThread(CODEC_ROLE, serve);
