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
    const chunks: ChunkRecord[] = [];
    let left = sizeBytes;
    let pieceLeft = left > 0 ? await this.#openPiece(left, chunks) : 0;
    for await (const part of content) {
      let at = 0;
      while (at < part.length) {
        if (left === 0) throw new NydusError("EUCLEAN", `Cannot read file: it goes on after its ${sizeBytes} bytes`);
        const take = Math.min(pieceLeft, part.length - at);
        this.#buffer.set(part.subarray(at, at + take), this.#used);
        this.#used += take;
        at += take;
        left -= take;
        pieceLeft -= take;
        if (pieceLeft === 0 && left > 0) pieceLeft = await this.#openPiece(left, chunks);
      }
    }
    if (left > 0) throw new NydusError("EUCLEAN", `Cannot read file: ${left} of its ${sizeBytes} bytes are missing`);
    return chunks;
  }

  /** Has everything encoded and written. */
  async end(): Promise<void> {
    await this.#dispatch();
    while (this.#pending.length > 0) await this.#settleOldest();
  }

  /** Makes room for the next piece of a file with `left` bytes to come; returns the piece's length. */
  async #openPiece(left: number, chunks: ChunkRecord[]): Promise<number> {
    const size = Math.min(left, this.#options.chunkBytes);
    if (this.#used + size > this.#batchBytes) await this.#dispatch();
    this.#sizes.push(size);
    this.#owners.push(chunks);
    return size;
  }

  async #dispatch(): Promise<void> {
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
    if (this.#pending.length >= this.#pool.threads + EXTRA_BATCHES) await this.#settleOldest();
    this.#buffer = this.#spare.pop() ?? new Uint8Array(this.#batchBytes);
  }

  async #settleOldest(): Promise<void> {
    const batch = this.#pending.shift();
    if (batch === undefined) return;
    const encoded = await batch.encoded;
    const records = await this.#sink.append(encoded, batch.sizes);
    for (const [i, record] of records.entries()) batch.owners[i]?.push(record);
    this.#spare.push(new Uint8Array(encoded.stored.buffer));
  }
}
