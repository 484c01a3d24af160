import { NydusError } from "../../base/errors.ts";
import type { DecoderFormat, Kernels, StreamDecoder } from "./kernels.ts";
import { type ZstdFrameHeader, ZstdFrameWalker } from "./zstd-frame.ts";

/** A decoder of a whole stream, from pieces to pieces. @throws EUCLEAN malformed or truncated */
export type StreamDecode = (input: AsyncIterable<Uint8Array>) => AsyncGenerator<Uint8Array>;

/** The largest window of a zstd stream, bytes: what `zstd -d` takes unasked. */
const WINDOW_LIMIT_BYTES = 128 * 1024 * 1024;

/** Input and output of one call of the core: each call copies both, so that neither may be much larger than used. */
const PUSH_INPUT_BYTES = 256 * 1024;
const PUSH_OUTPUT_BYTES = 1024 * 1024;

/** Frames that give less are decoded by the core in any case: setting up the runtime's decoder takes longer. */
const SMALL_FRAME_BYTES = 1024 * 1024;

/** A stream that ended before its format lets it. */
export function truncatedStream(format: string): NydusError {
  return new NydusError("EUCLEAN", `Cannot decode ${format} stream: the input ends too early`);
}

/** Decodes all that `data` gives. @returns through `yield*`: whether the input may end after it */
function* pushAll(decoder: StreamDecoder, data: Uint8Array): Generator<Uint8Array, boolean> {
  for (let at = 0; ; ) {
    const piece = data.subarray(at, at + PUSH_INPUT_BYTES);
    const { output, consumed, atBoundary } = decoder.push(piece, PUSH_OUTPUT_BYTES);
    at += consumed;
    if (output.length > 0) yield output;
    if (at === data.length && output.length < PUSH_OUTPUT_BYTES) return atBoundary;
    if (consumed === 0 && output.length === 0) {
      throw new NydusError("EFAULT", "Cannot decode stream: the WASM core neither takes nor gives");
    }
  }
}

/** Decodes a stream by the core, in bounded memory. */
export function coreStream(kernels: Kernels, format: DecoderFormat): StreamDecode {
  return async function* (input) {
    using decoder = kernels.openDecoder(format, WINDOW_LIMIT_BYTES);
    let mayEnd = false;
    for await (const data of input) {
      if (data.length > 0) mayEnd = yield* pushAll(decoder, data);
    }
    if (!mayEnd) throw truncatedStream(format);
  };
}

/** The pieces of zstd data, cut where frames end. */
class FrameCursor {
  readonly #walker = new ZstdFrameWalker();
  readonly #input: AsyncIterator<Uint8Array>;
  #data: Uint8Array = new Uint8Array(0);
  #at = 0;

  constructor(input: AsyncIterator<Uint8Array>) {
    this.#input = input;
  }

  get header(): ZstdFrameHeader | undefined {
    return this.#walker.header;
  }

  /** The next piece, never empty, of one frame; undefined at the end of the input. */
  async next(): Promise<{ readonly bytes: Uint8Array; readonly frameEnds: boolean } | undefined> {
    while (this.#at === this.#data.length) {
      const { done, value } = await this.#input.next();
      if (done) return undefined;
      this.#data = value;
      this.#at = 0;
    }
    const from = this.#at;
    const { at, frameEnds } = this.#walker.advance(this.#data, from);
    this.#at = at;
    return { bytes: this.#data.subarray(from, at), frameEnds };
  }
}

/** One frame on its way: its header, what was read to find it, and the rest. */
interface Frame {
  readonly header: ZstdFrameHeader;
  readonly pieces: AsyncGenerator<Uint8Array>;
}

/** Reads up to the end of the next frame's header; undefined at the end of the input. */
async function nextFrame(cursor: FrameCursor): Promise<Frame | undefined> {
  const first: Uint8Array[] = [];
  for (;;) {
    const piece = await cursor.next();
    if (piece === undefined && first.length === 0) return undefined;
    if (piece === undefined) throw truncatedStream("zstd");
    first.push(piece.bytes);
    const { header } = cursor;
    if (header !== undefined) return { header, pieces: restOfFrame(cursor, first, piece.frameEnds) };
  }
}

async function* restOfFrame(
  cursor: FrameCursor,
  first: readonly Uint8Array[],
  whole: boolean,
): AsyncGenerator<Uint8Array> {
  yield* first;
  for (let ended = whole; !ended; ) {
    const piece = await cursor.next();
    if (piece === undefined) throw truncatedStream("zstd");
    yield piece.bytes;
    ended = piece.frameEnds;
  }
}

function checkHeader(header: ZstdFrameHeader): void {
  const { windowBytes, dictionaryId } = header;
  if (dictionaryId !== 0) {
    throw new NydusError("ENOTSUP", `Cannot decode zstd stream: it was made with dictionary ${dictionaryId}`);
  }
  if (windowBytes > WINDOW_LIMIT_BYTES) {
    const found = `its window has ${windowBytes} bytes, at most ${WINDOW_LIMIT_BYTES} are taken`;
    throw new NydusError("ENOTSUP", `Cannot decode zstd stream: ${found}`);
  }
}

async function* decodeFrame(frame: Frame, large: StreamDecode, small: StreamDecoder): AsyncGenerator<Uint8Array> {
  const { header, pieces } = frame;
  checkHeader(header);
  if (!header.skippable && (header.contentBytes ?? Number.POSITIVE_INFINITY) >= SMALL_FRAME_BYTES) {
    yield* large(pieces);
    return;
  }
  for await (const piece of pieces) yield* pushAll(small, piece);
}

/**
 * Decodes a stream of zstd frames, each large one by the runtime's decoder, which knows one frame only.
 * @param frameStream decodes one frame
 */
export function zstdStream(kernels: Kernels, frameStream: StreamDecode): StreamDecode {
  return async function* (input) {
    using small = kernels.openDecoder("zstd", WINDOW_LIMIT_BYTES);
    const iterator = input[Symbol.asyncIterator]();
    try {
      const cursor = new FrameCursor(iterator);
      let frames = 0;
      for (let frame = await nextFrame(cursor); frame !== undefined; frame = await nextFrame(cursor)) {
        yield* decodeFrame(frame, frameStream, small);
        frames++;
      }
      if (frames === 0) throw truncatedStream("zstd");
    } finally {
      await iterator.return?.();
    }
  };
}
