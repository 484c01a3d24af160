import { NydusError } from "../../base/errors.ts";
import { type ByteSource, canStream } from "../../content/store/source.ts";
import { canResume, type ImageSource, type ImageTarget, type ResumedSink } from "../../content/store/store.ts";
import type { Codecs } from "../../format/codec/codecs.ts";
import type { Descriptor } from "../../format/oci/manifest.ts";
import { readThrough, verifiedLayerBytes } from "../build/layer-bytes.ts";

/** What copying a blob needs; all of it belongs to the caller. */
export interface CopyContext {
  readonly source: ImageSource;
  readonly target: ImageTarget;
  readonly codecs: Codecs;
  readonly signal: AbortSignal;
}

/** Called with the bytes of each piece that the target has got, or had: negative when they count no more. */
export type CopyWatch = (count: number) => void;

/** How much of a blob was read from the source; the target had the rest, from before or by another process. */
export interface CopiedBlob {
  readonly fetchedBytes: number;
}

/**
 * Copies one blob as it is, verified on its way. What the target has is not sent again; where it keeps what broken
 * transfers left, only the rest is.
 * @throws EBADMSG other bytes than the descriptor says; as source and target do
 */
export async function copyBlob(
  context: CopyContext,
  descriptor: Descriptor,
  onBytes: CopyWatch = () => undefined,
): Promise<CopiedBlob> {
  const { source, target, signal } = context;
  if (await target.hasBlob(descriptor)) return { fetchedBytes: 0 };
  if (!canResume(target)) return await copyWhole(context, descriptor, onBytes);
  await using sink = await target.resumeBlob(descriptor, signal);
  if (sink === undefined) return { fetchedBytes: 0 };
  const blob = await source.openBlob(descriptor);
  try {
    return await copyRest({ blob, sink, signal, onBytes });
  } finally {
    await blob.close();
  }
}

async function copyWhole(
  { source, target, codecs, signal }: CopyContext,
  descriptor: Descriptor,
  onBytes: CopyWatch,
): Promise<CopiedBlob> {
  const blob = await source.openBlob(descriptor);
  try {
    await using sink = await target.newBlob();
    const watch = { hasher: codecs.sha256(), signal, onBytes };
    for await (const piece of verifiedLayerBytes(blob, descriptor, watch)) await sink.write(piece);
    await sink.commit(descriptor.digest, descriptor.size);
    return { fetchedBytes: descriptor.size };
  } finally {
    await blob.close();
  }
}

interface Rest {
  readonly blob: ByteSource;
  readonly sink: ResumedSink;
  readonly signal: AbortSignal;
  readonly onBytes: CopyWatch;
}

/** What an earlier transfer left may be wrong, after a power cut say: then all of the blob is fetched, once. */
async function copyRest({ blob, sink, signal, onBytes }: Rest): Promise<CopiedBlob> {
  let fetchedBytes = 0;
  for (;;) {
    const start = sink.sizeBytes;
    onBytes(start);
    const pieces = canStream(blob) ? blob.stream(signal, start) : readThrough(blob, signal, start);
    for await (const piece of pieces) {
      signal.throwIfAborted();
      await sink.write(piece);
      fetchedBytes += piece.length;
      onBytes(piece.length);
    }
    try {
      await sink.commit();
      return { fetchedBytes };
    } catch (error) {
      const isOldBytes = start > 0 && error instanceof NydusError && error.code === "EBADMSG";
      if (!isOldBytes) throw error;
      onBytes(-blob.sizeBytes);
    }
  }
}
