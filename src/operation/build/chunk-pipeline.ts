import { NydusError } from "../../base/errors.ts";
import type { Compressor, Digester } from "../../format/codec/codecs.ts";
import type { ChunkRecord } from "../../format/tree/node.ts";
import type { CodecPool, EncodedPieces } from "../../os/codec-pool.ts";

/** How file data becomes chunks; with the layer itself, all that a blob's bytes depend on. */
export interface ChunkOptions {
  readonly compressor: Compressor;
  /** Of zstd; others ignore it. */
  readonly level: number;
  readonly digester: Digester;
  /** A power of two, 4 KiB to 16 MiB. */
  readonly chunkBytes: number;
}

/** What takes the encoded pieces, in the order of the files. */
export interface PieceSink {
  /** @returns the record of each piece of the batch */
  append(encoded: EncodedPieces, sizes: Uint32Array): Promise<readonly ChunkRecord[]>;
}

/** Files are gathered into batches of about this size, so that a message to a thread is worth its cost. Bytes. */
const BATCH_BYTES = 1 << 20;
/** The first batch is of this size, each next one twice as large: the threads wait for it. Bytes. */
const FIRST_BATCH_BYTES = 128 << 10;
/** Batches under way beyond one a thread: enough to keep every thread busy while the oldest is written. */
const EXTRA_BATCHES = 2;

interface PendingBatch {
  readonly sizes: Uint32Array;
  readonly encoded: Promise<EncodedPieces>;
  /** Where the records of the pieces go: one file's list a piece, in order. */
  readonly owners: readonly ChunkRecord[][];
}

/**
 * Cuts files into chunks, has them digested and compressed by the pool's threads, and gives the results to the sink in
 * the order of the files: the bytes of a blob do not depend on which thread was faster. Memory is bounded by the number
 * of batches under way.
 */
export class ChunkPipeline {
  readonly #pool: CodecPool;
  readonly #options: ChunkOptions;
  readonly #sink: PieceSink;
  readonly #batchBytes: number;
  /** A batch with so much in it goes to a thread. */
  #enoughBytes = FIRST_BATCH_BYTES;
  readonly #pending: PendingBatch[] = [];
  readonly #spare: Uint8Array[] = [];
  #buffer: Uint8Array;
  #used = 0;
  #sizes: number[] = [];
  #owners: ChunkRecord[][] = [];

  constructor(pool: CodecPool, options: ChunkOptions, sink: PieceSink) {
    this.#pool = pool;
    this.#options = options;
    this.#sink = sink;
    this.#batchBytes = Math.max(BATCH_BYTES, options.chunkBytes);
    this.#buffer = new Uint8Array(this.#batchBytes);
  }

  /**
   * Takes one file's content.
   * @param sizeBytes what `content` must add up to
   * @returns the file's chunks: filled by the time {@link end} is done
   * @throws EUCLEAN when the content has another length
   */
  async addFile(content: AsyncIterable<Uint8Array>, sizeBytes: number): Promise<readonly ChunkRecord[]> {
    const file = new OpenFile(sizeBytes);
    for await (const part of content) {
      this.#take(file, part);
      while (this.isFull) await this.settle();
    }
    if (file.left > 0) throw wrongLength(`${file.left} of its ${sizeBytes} bytes are missing`);
    return file.chunks;
  }

  /** Takes one file's whole content, as {@link addFile} does, without waiting: ask {@link isFull} after it. */
  addWhole(content: Uint8Array): readonly ChunkRecord[] {
    const file = new OpenFile(content.length);
    this.#take(file, content);
    return file.chunks;
  }

  /** Whether so many batches are under way that {@link settle} is to be awaited before more content is given. */
  get isFull(): boolean {
    return this.#pending.length >= this.#pool.threads + EXTRA_BATCHES;
  }

  /** Waits for the oldest batch under way, and has it written. */
  async settle(): Promise<void> {
    const batch = this.#pending.shift();
    if (batch === undefined) return;
    const encoded = await batch.encoded;
    const records = await this.#sink.append(encoded, batch.sizes);
    for (let i = 0; i < records.length; i++) batch.owners[i]?.push(records[i] as ChunkRecord);
    this.#spare.push(new Uint8Array(encoded.stored.buffer));
  }

  /** Has everything encoded and written. */
  async end(): Promise<void> {
    this.#dispatch();
    while (this.#pending.length > 0) await this.settle();
  }

  #take(file: OpenFile, part: Uint8Array): void {
    let at = 0;
    while (at < part.length) {
      if (file.left === 0) throw wrongLength(`it goes on after its ${file.sizeBytes} bytes`);
      if (file.pieceLeft === 0) this.#openPiece(file);
      const take = Math.min(file.pieceLeft, part.length - at);
      this.#buffer.set(take === part.length ? part : part.subarray(at, at + take), this.#used);
      this.#used += take;
      at += take;
      file.left -= take;
      file.pieceLeft -= take;
    }
  }

  /** Makes room for the next piece of a file. */
  #openPiece(file: OpenFile): void {
    const size = Math.min(file.left, this.#options.chunkBytes);
    if (this.#used >= this.#enoughBytes || this.#used + size > this.#batchBytes) this.#dispatch();
    this.#sizes.push(size);
    this.#owners.push(file.chunks);
    file.pieceLeft = size;
  }

  #dispatch(): void {
    if (this.#sizes.length === 0) return;
    const { digester, compressor, level } = this.#options;
    const sizes = Uint32Array.from(this.#sizes);
    const data = this.#buffer.subarray(0, this.#used);
    const encoded = this.#pool.encode({ data, pieces: sizes, digester, compressor, level });
    encoded.catch(() => undefined); // awaited in order; until then it must not count as unhandled
    this.#pending.push({ sizes, encoded, owners: this.#owners });
    this.#sizes = [];
    this.#owners = [];
    this.#used = 0;
    this.#enoughBytes *= 2;
    this.#buffer = this.#spare.pop() ?? new Uint8Array(this.#batchBytes);
  }
}

/** A file on its way into pieces. */
class OpenFile {
  readonly sizeBytes: number;
  readonly chunks: ChunkRecord[] = [];
  /** Bytes to come, and those of them that are of the piece begun. */
  left: number;
  pieceLeft = 0;

  constructor(sizeBytes: number) {
    this.sizeBytes = sizeBytes;
    this.left = sizeBytes;
  }
}

function wrongLength(found: string): NydusError {
  return new NydusError("EUCLEAN", `Cannot read file: ${found}`);
}
