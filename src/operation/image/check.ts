import { mapBounded } from "../../base/async.ts";
import { bytesOfKey } from "../../base/bytes.ts";
import { type MakeHasher, parseDigest } from "../../base/digest.ts";
import { asNydusError, NydusError } from "../../base/errors.ts";
import { checkBootstrap } from "../../format/rafs/check.ts";
import { verifiedLayerBytes } from "../build/layer-bytes.ts";
import {
  type Batch,
  type BlobReader,
  type ChunkPart,
  planBatches,
  type ReadableImage,
  type ReadFilesOptions,
} from "./unit-batches.ts";
import { printablePath } from "./walk.ts";

/** What was looked at, and what was wrong; an image without problems is whole. */
export interface CheckReport {
  readonly problems: readonly NydusError[];
  readonly inodes: number;
  readonly chunks: number;
  /** Uncompressed bytes of the checked chunks. */
  readonly chunkBytes: number;
  readonly blobs: number;
}

/** Problems that are reported; beyond that a check of a ruined image would fill the screen and memory. */
const PROBLEM_LIMIT = 1000;

/** Collects problems, and counts. */
class Findings {
  readonly problems: NydusError[] = [];
  chunks = 0;
  chunkBytes = 0;

  /** Notes what `error` says. @throws ECANCELED on: an interrupted check says nothing about the image */
  add(error: unknown, place: { readonly path?: string; readonly digest?: string } = {}): void {
    const problem = asNydusError(error, place);
    if (problem.code === "ECANCELED" || problem.code === "EFAULT") throw problem;
    if (this.problems.length < PROBLEM_LIMIT) this.problems.push(problem);
  }
}

/** How an image is checked. */
export interface CheckOptions extends ReadFilesOptions {
  /** For the digests of whole blobs. */
  readonly sha256: MakeHasher;
}

/**
 * Checks an opened image: every structure of its bootstrap, every chunk's digest, and each blob's own digest.
 * @returns what is wrong, at most 1000 problems
 * @throws ECANCELED; EFAULT
 */
export async function checkImage(image: ReadableImage, options: CheckOptions): Promise<CheckReport> {
  const findings = new Findings();
  const { findings: structural, counts } = checkBootstrap(image.rafs.bytes);
  for (const { message, offset, path } of structural) {
    const place = { ...(offset !== undefined && { offset }), ...(path !== undefined && { path: showKey(path) }) };
    findings.add(new NydusError("EUCLEAN", message, place));
  }
  await checkChunks(image, options, findings);
  for (const blob of image.blobs) await checkBlobDigest(blob, options, findings);
  const { problems, chunks, chunkBytes } = findings;
  return { problems, inodes: counts.inodes, chunks, chunkBytes, blobs: image.blobs.length };
}

function showKey(path: string): string {
  return printablePath(bytesOfKey(path.replace(/^\/+/, "")));
}

function* wholeChunks(blob: BlobReader): Generator<ChunkPart> {
  const { chunks } = blob;
  const order = Array.from({ length: chunks.count }, (_, i) => i).sort(
    (a, b) => chunks.blobOffset(a) - chunks.blobOffset(b),
  );
  for (const chunk of order) yield { blob, chunk, start: 0, lengthBytes: chunks.sizeBytes(chunk) };
}

async function checkChunks(image: ReadableImage, options: ReadFilesOptions, findings: Findings): Promise<void> {
  for (const blob of image.blobs) {
    const batches = planBatches(wholeChunks(blob));
    const check = (batch: Batch<ChunkPart>): Promise<void> => checkBatch(image, batch, { options, findings });
    try {
      for await (const _ of mapBounded(options.pool.threads + 1, batches, check)) {
        // findings hold all there is
      }
    } catch (error) {
      findings.add(error, { digest: blob.digest }); // the blob cannot be read: one problem, not one a batch
    }
  }
}

async function checkBatch(
  image: ReadableImage,
  batch: Batch<ChunkPart>,
  { options, findings }: { readonly options: ReadFilesOptions; readonly findings: Findings },
): Promise<void> {
  const units = await batch.read(image, options);
  for (const [i, unit] of units.entries()) {
    if (!(unit instanceof Uint8Array)) findings.add(batch.failure(i, unit));
  }
  findings.chunks += batch.parts.length;
  findings.chunkBytes += batch.parts.reduce((sum, { part }) => sum + part.lengthBytes, 0);
}

async function checkBlobDigest(blob: BlobReader, options: CheckOptions, findings: Findings): Promise<void> {
  const { sha256, signal = new AbortController().signal } = options;
  try {
    const descriptor = { mediaType: "", digest: parseDigest(blob.digest), size: blob.source.sizeBytes };
    const watch = { hasher: sha256(), signal, onBytes: () => undefined };
    for await (const _ of verifiedLayerBytes(blob.source, descriptor, watch)) {
      // only its digest is wanted
    }
  } catch (error) {
    findings.add(error, { digest: blob.digest });
  }
}
