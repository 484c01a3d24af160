import { keyOfBytes } from "../../base/bytes.ts";
import { NydusError } from "../../base/errors.ts";
import { DIGEST_BYTES } from "../../format/codec/codecs.ts";
import type { BlobRecord } from "../../format/rafs/blob-table.ts";
import { decodeChunk, RafsChunk } from "../../format/rafs/chunk-table.ts";
import type { RafsImage } from "../../format/rafs/image.ts";
import { chunkTableRows } from "../../format/rafs/table-map.ts";
import type { ChunkRecord } from "../../format/tree/node.ts";
import type { EncodedPieces } from "../../os/codec-pool.ts";
import type { ChunkOptions, PieceSink } from "./chunk-pipeline.ts";

/** Chunks of another image, which a layer that is built may point at instead of having them itself. */
export class ChunkDict {
  readonly blobs: readonly BlobRecord[];
  readonly #chunks = new Map<string, ChunkRecord>();

  /** @throws EINVAL chunks that are cut or digested otherwise, so that none could be found; EUCLEAN damaged */
  constructor(image: RafsImage, options: Pick<ChunkOptions, "chunkBytes" | "digester">) {
    if (image.chunkBytes !== options.chunkBytes || image.digester !== options.digester) {
      const found = `chunks of ${image.chunkBytes} bytes by ${image.digester}`;
      const wanted = `${options.chunkBytes} by ${options.digester}`;
      throw new NydusError("EINVAL", `Cannot use chunk dictionary: ${found}, ${wanted} wanted`);
    }
    this.blobs = image.blobs;
    const region = image.superblock.chunkTable;
    const rows = chunkTableRows({ image: image.bytes, region });
    for (let i = 0; i < rows; i++) {
      const chunk = decodeChunk(image.bytes, region.offset + i * RafsChunk.sizeBytes);
      if (image.blobs[chunk.blob] === undefined)
        throw new NydusError("EUCLEAN", `Cannot read chunk ${i}: no such blob`);
      const key = keyOfBytes(chunk.digest);
      if (!this.#chunks.has(key)) this.#chunks.set(key, chunk);
    }
  }

  /** A chunk of the same content, if there is one; its `blob` is a place in {@link blobs}. */
  find(digest: Uint8Array, sizeBytes: number): ChunkRecord | undefined {
    const chunk = this.#chunks.get(keyOfBytes(digest));
    return chunk?.sizeBytes === sizeBytes ? chunk : undefined;
  }
}

/** Number of the blob that is written, and of the first blob of the dictionary, in the records of {@link DictSink}. */
const OWN_BLOBS = 1;

/** Keeps the pieces that a dictionary has from the blob. Its records name the dictionary's blobs from 1 on. */
export class DictSink implements PieceSink {
  readonly #dict: ChunkDict;
  readonly #own: PieceSink;

  constructor(dict: ChunkDict, own: PieceSink) {
    this.#dict = dict;
    this.#own = own;
  }

  async append(encoded: EncodedPieces, sizes: Uint32Array): Promise<readonly ChunkRecord[]> {
    const found = [...sizes].map((size, i) => this.#dict.find(digestAt(encoded, i), size));
    const own = [...sizes.keys()].filter((i) => found[i] === undefined);
    const ownSizes = sizes.filter((_, i) => found[i] === undefined);
    const written = [...(await this.#own.append(picked(encoded, own), ownSizes))].reverse();
    return found.map((chunk) =>
      chunk === undefined ? (written.pop() as ChunkRecord) : { ...chunk, blob: chunk.blob + OWN_BLOBS },
    );
  }
}

function digestAt({ digests }: EncodedPieces, i: number): Uint8Array {
  return digests.subarray(i * DIGEST_BYTES, (i + 1) * DIGEST_BYTES);
}

/** Some of the pieces, moved together in the same buffer. */
function picked(encoded: EncodedPieces, wanted: readonly number[]): EncodedPieces {
  const { digests, stored, storedSizes, compressed } = encoded;
  if (wanted.length === storedSizes.length) return encoded;
  const isWanted = new Set(wanted);
  let [start, end, place] = [0, 0, 0];
  for (const [i, size] of storedSizes.entries()) {
    if (isWanted.has(i)) {
      digests.copyWithin(place * DIGEST_BYTES, i * DIGEST_BYTES, (i + 1) * DIGEST_BYTES);
      stored.copyWithin(end, start, start + size);
      place++;
      end += size;
    }
    start += size;
  }
  return {
    digests: digests.subarray(0, wanted.length * DIGEST_BYTES),
    stored: stored.subarray(0, end),
    storedSizes: Uint32Array.from(wanted, (i) => storedSizes[i] as number),
    compressed: Uint8Array.from(wanted, (i) => compressed[i] as number),
  };
}
