import type { Transform } from "node:stream";
// names differ by runtime and version: a named import of one that is missing would not load
import * as zlib from "node:zlib";
import { NydusError } from "../base/errors.ts";
import { type StreamDecode, truncatedStream } from "../format/codec/stream-decode.ts";

/** Output pieces of the runtime's decoders, bytes: with smaller ones they spend their time on switching threads. */
const STREAM_CHUNK_BYTES = 1024 * 1024;

/** log2 of the largest window, bytes; format/codec/stream-decode.ts refuses larger ones before. */
const ZSTD_WINDOW_LOG_MAX = 27;

type Decoder = Transform & { readonly bytesWritten: number };

/** A decoder of the runtime, and what it was fed. */
interface Feeding {
  readonly decoder: Decoder;
  /** Written to the decoder, or passed by after its end, bytes. */
  bytes: number;
  /** Where the last byte that is not zero ends, from the start of the input. */
  contentBytes: number;
  /** The consumer has left: read no more. */
  left: boolean;
  /** Why the input failed. */
  inputError: { readonly cause: unknown } | undefined;
  /** Ends the wait for the write under way. */
  wake: () => void;
}

function startFeeding(decoder: Decoder): Feeding {
  const wake = (): void => undefined;
  const feeding: Feeding = { decoder, bytes: 0, contentBytes: 0, left: false, inputError: undefined, wake };
  decoder.on("error", () => undefined); // the consumer gets it; one after the consumer has left is nobody's
  decoder.once("close", () => feeding.wake());
  return feeding;
}

function note(feeding: Feeding, data: Uint8Array): void {
  let content = data.length;
  while (content > 0 && data[content - 1] === 0) content--;
  if (content > 0) feeding.contentBytes = feeding.bytes + content;
  feeding.bytes += data.length;
}

/** Resolves when the decoder has taken `data` and given what it makes of it, or is gone. */
function write(feeding: Feeding, data: Uint8Array): Promise<void> {
  return new Promise((resolve) => {
    feeding.wake = resolve;
    feeding.decoder.write(data, () => resolve());
  });
}

/** Whether the decoder left input untaken, which it does after its end, or is gone. */
function hasStopped({ decoder, bytes }: Feeding): boolean {
  return decoder.destroyed || decoder.readableEnded || decoder.bytesWritten < bytes;
}

/** Writes the input to the decoder, the next piece being read meanwhile; what comes after its end is only looked at. */
async function feed(input: AsyncIterable<Uint8Array>, feeding: Feeding): Promise<void> {
  const { decoder } = feeding;
  let writing = Promise.resolve();
  let stopped = false;
  try {
    for await (const data of input) {
      await writing;
      if (feeding.left) return;
      stopped ||= hasStopped(feeding);
      note(feeding, data);
      if (!stopped && data.length > 0) writing = write(feeding, data);
    }
    await writing;
    if (!hasStopped(feeding)) decoder.end();
  } catch (cause) {
    feeding.inputError = { cause };
    decoder.destroy();
  }
}

/** Every decoder of the runtime says this of input that ends too early. */
const TRUNCATED_CODE = "Z_BUF_ERROR";

function decodeError(format: string, error: unknown): NydusError {
  if (error instanceof NydusError) return error;
  const { code, message } = error as { code?: unknown; message?: unknown };
  if (code === TRUNCATED_CODE) return truncatedStream(format);
  return new NydusError("EUCLEAN", `Cannot decode ${format} stream: ${message}`, {}, { cause: error });
}

/**
 * Decodes by a decoder of the runtime. Stopping early, an error of the input and an error of the data each end both
 * sides. Zeros after the end are padding, anything else there is an error: the decoders would drop it silently.
 */
async function* decodeBy(
  format: string,
  decoder: Decoder,
  input: AsyncIterable<Uint8Array>,
): AsyncGenerator<Uint8Array> {
  const feeding = startFeeding(decoder);
  const fed = feed(input, feeding);
  try {
    for await (const piece of decoder) yield piece as Uint8Array;
    await fed;
    if (feeding.contentBytes > decoder.bytesWritten) {
      const place = { offset: decoder.bytesWritten };
      throw new NydusError("EUCLEAN", `Cannot decode ${format} stream: garbage after its end`, place);
    }
  } catch (error) {
    if (feeding.inputError !== undefined) throw feeding.inputError.cause;
    throw decodeError(format, error);
  } finally {
    feeding.left = true;
    decoder.destroy();
    await fed;
  }
  if (feeding.inputError !== undefined) throw feeding.inputError.cause;
}

/** Decodes gzip members by node:zlib, on its threads. */
export const gunzipStream: StreamDecode = (input) =>
  decodeBy("gzip", zlib.createGunzip({ chunkSize: STREAM_CHUNK_BYTES }) as unknown as Decoder, input);

/** Decodes one zstd frame by node:zlib, on its threads; undefined where node:zlib has no zstd. */
export const zstdFrameStream: StreamDecode | undefined =
  typeof zlib.createZstdDecompress === "function" ? zstdFrame : undefined;

function zstdFrame(input: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  const params = { [zlib.constants.ZSTD_d_windowLogMax]: ZSTD_WINDOW_LOG_MAX };
  const decoder = zlib.createZstdDecompress({ chunkSize: STREAM_CHUNK_BYTES, params });
  return decodeBy("zstd", decoder as unknown as Decoder, input);
}
