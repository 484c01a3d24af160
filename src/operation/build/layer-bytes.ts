import { digestOfSum, type Hasher } from "../../base/digest.ts";
import { NydusError } from "../../base/errors.ts";
import { type ByteSource, canStream } from "../../content/store/source.ts";
import type { Descriptor } from "../../format/oci/manifest.ts";

/** Bytes of one read where the source cannot stream by itself. */
const READ_BYTES = 1 << 20;

/** The bytes of a source that cannot stream by itself, from `from` on. */
export async function* readThrough(source: ByteSource, signal: AbortSignal, from = 0): AsyncGenerator<Uint8Array> {
  const read = (start: number): Promise<Uint8Array> => {
    const end = Math.min(start + READ_BYTES, source.sizeBytes);
    const reading = source.readAt({ start, end }, { signal });
    reading.catch(() => undefined); // awaited a turn later
    return reading;
  };
  let next = source.sizeBytes > from ? read(from) : undefined;
  for (let end = from + READ_BYTES; next !== undefined; end += READ_BYTES) {
    const piece = await next;
    next = end < source.sizeBytes ? read(end) : undefined; // one read ahead
    yield piece;
  }
}

/** What watches a layer's bytes go by. */
export interface LayerWatch {
  /** Set once size and digest have been found right. */
  verified?: boolean;
  readonly hasher: Hasher;
  readonly signal: AbortSignal;
  /** Called with the bytes of each piece. */
  onBytes(count: number): void;
}

/**
 * A layer's compressed bytes, checked against its descriptor while they pass.
 * @throws EBADMSG at the end, when size or digest differ: what was made of the bytes until then must be thrown away
 */
export async function* verifiedLayerBytes(
  source: ByteSource,
  descriptor: Descriptor,
  watch: LayerWatch,
): AsyncGenerator<Uint8Array> {
  let seen = 0;
  const bytes = canStream(source) ? source.stream(watch.signal) : readThrough(source, watch.signal);
  for await (const piece of bytes) {
    watch.signal.throwIfAborted();
    watch.hasher.update(piece);
    seen += piece.length;
    if (seen > descriptor.size) break;
    watch.onBytes(piece.length);
    yield piece;
  }
  const found = digestOfSum(watch.hasher.digest());
  if (seen !== descriptor.size || found !== descriptor.digest) {
    const difference =
      seen === descriptor.size ? `its bytes digest to ${found}` : `${seen} bytes, ${descriptor.size} wanted`;
    throw new NydusError("EBADMSG", `Cannot verify layer: ${difference}`, { digest: descriptor.digest });
  }
  watch.verified = true;
}

/**
 * Passes a layer's decompressed bytes on, and at their end makes sure that all of the stored bytes were verified.
 * @throws EUCLEAN when the compressed stream ends before the layer does
 */
export async function* untilVerified(
  plain: AsyncIterable<Uint8Array>,
  watch: Readonly<LayerWatch>,
): AsyncGenerator<Uint8Array> {
  yield* plain;
  if (watch.verified !== true) {
    throw new NydusError("EUCLEAN", "Cannot verify layer: its compressed stream ends before the layer does");
  }
}
