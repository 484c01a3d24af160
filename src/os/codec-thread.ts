import type { MessagePort } from "node:worker_threads";
import type { Codecs } from "../format/codec/codecs.ts";
import type { CompiledCore } from "../format/codec/kernels.ts";
import type { DecodeFailure, DecodeJob, EncodedPieces, EncodeJob, FillJob } from "./codec-pool.ts";
import { loadCodecs } from "./codecs.ts";
import { decodeFailure, decodeUnit } from "./decode-unit.ts";
import { fillUnits } from "./fill-units.ts";
import { releaseMemory } from "./memory.ts";
import { serveThread } from "./thread.ts";

/** The name of this thread's work in `main.ts`' table. */
export const CODEC_ROLE = "codec";

/** Where {@link CODEC_ROLE} is served: this module, or the bundle that holds it. */
export const codecThreadUrl = import.meta.url;

/** After so long without a job a thread gives memory back. */
const REST_MS = 1_000;

/** The first message to a thread: the core compiled, where that went well. */
export interface CodecStart {
  readonly kind: "start";
  readonly compiled: CompiledCore | undefined;
}

/** What the pool asks of a thread. */
export type CodecRequest =
  | { readonly id: number; readonly kind: "encode"; readonly job: EncodeJob }
  | { readonly id: number; readonly kind: "decode"; readonly job: DecodeJob }
  | { readonly id: number; readonly kind: "fill"; readonly job: FillJob };

/** What a job gives. */
export type CodecResult =
  | EncodedPieces
  | readonly (Uint8Array | DecodeFailure)[]
  | readonly (DecodeFailure | undefined)[];

/** What the thread answers: the result, or why there is none. */
export type CodecReply =
  | { readonly id: number; readonly ok: true; readonly result: CodecResult }
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
    const packed = compressor === "none" ? piece : codecs.compressToView(compressor, piece, level);
    const shrinks = packed.length < size;
    data.set(shrinks ? packed : piece, to);
    compressed[i] = shrinks ? 1 : 0;
    storedSizes[i] = shrinks ? packed.length : size;
    to += storedSizes[i] as number;
    from += size;
  }
  return { digests, stored: data.subarray(0, to), storedSizes, compressed };
}

function decodeUnits(codecs: Codecs, job: DecodeJob): (Uint8Array | DecodeFailure)[] {
  return job.units.map((unit) => {
    try {
      return ownBuffer(decodeUnit(codecs, job.digester, { data: job.data, unit }));
    } catch (error) {
      return decodeFailure(error);
    }
  });
}

/** Bytes whose buffer can go to another thread: plain units share the job's, Node's zlib gives pieces of a pool. */
function ownBuffer(bytes: Uint8Array): Uint8Array {
  return bytes.byteLength === bytes.buffer.byteLength ? bytes : Uint8Array.prototype.slice.call(bytes);
}

/** @throws as each kind of job has it */
function work(codecs: Codecs, request: CodecRequest): CodecResult {
  if (request.kind === "encode") return encodePieces(codecs, request.job);
  return request.kind === "decode" ? decodeUnits(codecs, request.job) : fillUnits(codecs, request.job);
}

function buffersOf(result: CodecResult): ArrayBuffer[] {
  const arrays = "stored" in result ? [result.stored] : result.filter((one) => one instanceof Uint8Array);
  return [...new Set(arrays.map((array) => array.buffer))].filter((buffer) => buffer instanceof ArrayBuffer);
}

function serve(_data: unknown, port: MessagePort): void {
  const { promise: loading, resolve: load } = Promise.withResolvers<Codecs>();
  let rest: ReturnType<typeof setTimeout> | undefined;
  port.on("message", (request: CodecStart | CodecRequest) => {
    if (request.kind === "start") return load(loadCodecs({ compiled: request.compiled }));
    clearTimeout(rest);
    rest = setTimeout(releaseMemory, REST_MS);
    void loading
      .then((codecs): CodecReply => ({ id: request.id, ok: true, result: work(codecs, request) }))
      .catch((error: unknown): CodecReply => ({ id: request.id, ok: false, failure: decodeFailure(error) }))
      .then((reply) => port.postMessage(reply, reply.ok ? buffersOf(reply.result) : []));
  });
}

serveThread(CODEC_ROLE, serve);
