import { mapBounded } from "../../base/async.ts";
import { NydusError } from "../../base/errors.ts";
import type { Extent } from "../../format/erofs/extent.ts";
import {
  type Batch,
  type ChunkPart,
  chunkParts,
  planBatches,
  type ReadableImage,
  type ReadFilesOptions,
} from "./unit-batches.ts";

/** A piece of a file, in file order; a hole has no bytes. */
export interface FilePiece {
  /** Position in the list of files that was asked for. */
  readonly file: number;
  readonly lengthBytes: number;
  readonly bytes?: Uint8Array;
}

type PlannedPiece = FilePiece | (FilePiece & ChunkPart);

const ZEROS = new Uint8Array(64 << 10);

/**
 * Contents of files, one after another, read ahead across files in bounded memory; every chunk is verified.
 * @param nids regular files
 * @returns their pieces in order; those of an empty file are none
 * @throws EBADMSG, EUCLEAN damaged; EIO; EUCLEAN a part of a file that belongs to no chunk
 */
export async function* readFiles(
  image: ReadableImage,
  nids: Iterable<number>,
  options: ReadFilesOptions,
): AsyncGenerator<FilePiece> {
  const batches = planBatches(planPieces(image, nids));
  const read = (batch: Batch<PlannedPiece>): Promise<FilePiece[]> => readPieces(image, batch, options);
  for await (const pieces of mapBounded(options.pool.threads + 1, batches, read)) yield* pieces;
}

function* planPieces(image: ReadableImage, nids: Iterable<number>): Generator<PlannedPiece> {
  let file = 0;
  for (const nid of nids) {
    for (const extent of image.rafs.erofs.extents(nid, 0, Number.MAX_SAFE_INTEGER)) {
      yield* extentPieces(image, file, extent);
    }
    file++;
  }
}

function* extentPieces(image: ReadableImage, file: number, extent: Extent): Generator<PlannedPiece> {
  const { length: lengthBytes } = extent;
  if (extent.kind === "hole") yield { file, lengthBytes };
  else if (extent.kind === "meta") {
    yield { file, lengthBytes, bytes: image.rafs.bytes.subarray(extent.offset, extent.offset + lengthBytes) };
  } else {
    const blob = image.blobs[extent.device - 1];
    if (blob === undefined) throw new NydusError("EUCLEAN", `Cannot read file: no device ${extent.device}`);
    for (const part of chunkParts(blob, extent.deviceOffset, lengthBytes)) yield { ...part, file };
  }
}

async function readPieces(
  image: ReadableImage,
  batch: Batch<PlannedPiece>,
  options: ReadFilesOptions,
): Promise<FilePiece[]> {
  const units = await batch.read(image, options);
  return batch.parts.map(({ part: { file, lengthBytes, bytes }, unit }) => {
    if (unit === undefined) return { file, lengthBytes, ...(bytes && { bytes }) };
    const decoded = units[unit.index];
    if (decoded === undefined) throw new NydusError("EFAULT", "Cannot read file: a unit is missing");
    if (!(decoded instanceof Uint8Array)) throw batch.failure(unit.index, decoded);
    return { file, lengthBytes, bytes: decoded.subarray(unit.start, unit.start + lengthBytes) };
  });
}

/** The bytes of one file, in order; those of holes are shared: never write or transfer them. @throws as {@link readFiles} */
export async function* readFile(
  image: ReadableImage,
  nid: number,
  options: ReadFilesOptions,
): AsyncGenerator<Uint8Array> {
  for await (const piece of readFiles(image, [nid], options)) yield* pieceBytes(piece);
}

/** The bytes of a piece; of a hole, zeros that are shared: never write or transfer them. */
export function* pieceBytes({ bytes, lengthBytes }: FilePiece): Generator<Uint8Array> {
  if (bytes !== undefined) {
    yield bytes;
    return;
  }
  for (let rest = lengthBytes; rest > 0; rest -= ZEROS.length) yield ZEROS.subarray(0, Math.min(rest, ZEROS.length));
}

/**
 * Gives the contents of files to a consumer that takes them one by one, in order and whole: the pieces of
 * {@link readFiles} cut into files.
 */
export class ContentQueue implements AsyncDisposable {
  readonly #pieces: AsyncGenerator<FilePiece>;
  #next: FilePiece | undefined;
  #file = 0;

  constructor(image: ReadableImage, nids: Iterable<number>, options: ReadFilesOptions) {
    this.#pieces = readFiles(image, nids, options);
  }

  /** The pieces of the next file; must be read to their end before the file after it. */
  async *nextFile(): AsyncGenerator<FilePiece> {
    const file = this.#file++;
    for (;;) {
      this.#next ??= await this.#pull();
      if (this.#next === undefined || this.#next.file !== file) return;
      const piece = this.#next;
      this.#next = undefined;
      yield piece;
    }
  }

  async #pull(): Promise<FilePiece | undefined> {
    const { value, done } = await this.#pieces.next();
    return done ? undefined : value;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#pieces.return(undefined);
  }
}
