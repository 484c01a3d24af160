import { alignUp, BLOCK_BYTES, keyOfBytes } from "../../base/bytes.ts";
import { type Digest, digestOfSum, type Hasher, hexOf } from "../../base/digest.ts";
import { NydusError } from "../../base/errors.ts";
import type { BlobSink } from "../../content/store/store.ts";
import { type Codecs, type Compressor, DIGEST_BYTES } from "../../format/codec/codecs.ts";
import { encodeBlobMetaFile, encodeBlobMetaHeader, encodeChunkInfoV1 } from "../../format/rafs/blob-meta.ts";
import { BLOB_FEATURES, BLOB_LIMITS, type BlobRecord, INLINE_BLOB_ID } from "../../format/rafs/blob-table.ts";
import { encodeTarHeader, encodeToc, TOC_NAMES, type TocEntry } from "../../format/rafs/blob-toc.ts";
import type { ChunkRecord } from "../../format/tree/node.ts";
import type { EncodedPieces } from "../../os/codec-pool.ts";
import type { ChunkOptions } from "./chunk-pipeline.ts";

/** Features of the blobs that this program writes, as nydus-image has them for `--features blob-toc`. */
const FEATURES =
  BLOB_FEATURES.aligned |
  BLOB_FEATURES.inlinedChunkDigest |
  BLOB_FEATURES.hasTarHeader |
  BLOB_FEATURES.hasToc |
  BLOB_FEATURES.capTarToc;

/** Level of the metadata's own compression; it is small. */
const META_LEVEL = 3;

/** A blob that lies complete in its target. */
export interface WrittenBlob {
  readonly digest: Digest;
  readonly sizeBytes: number;
  /** The blob table row, or undefined when the layer has no file data and so needs no device. */
  readonly record: BlobRecord | undefined;
  /** Content of the bootstrap layer's `image/<id>.blob.meta`; empty without data. */
  readonly metaFile: Uint8Array;
}

/**
 * Writes one layer's blob: chunk data first, in the order of the files and each content once, then what describes it
 * (docs/conversion.md has the layout). Everything passes through once; the digest of the whole is known at the end.
 */
export class BlobWriter {
  readonly #sink: BlobSink;
  readonly #codecs: Codecs;
  readonly #options: ChunkOptions;
  readonly #whole: Hasher;
  readonly #chunks: ChunkRecord[] = [];
  readonly #known = new Map<string, ChunkRecord>();
  readonly #toc: TocEntry[] = [];
  #offset = 0;
  #deviceBytes = 0;

  constructor(sink: BlobSink, codecs: Codecs, options: ChunkOptions) {
    this.#sink = sink;
    this.#codecs = codecs;
    this.#options = options;
    this.#whole = codecs.sha256();
  }

  /**
   * Appends a batch's pieces, those whose content the blob has already aside.
   * @returns the record of every piece
   * @throws ENOTSUP past the format's limits
   */
  async append(encoded: EncodedPieces, sizes: Uint32Array): Promise<readonly ChunkRecord[]> {
    const records: ChunkRecord[] = [];
    let at = 0;
    let runStart = 0; // new pieces that follow one another are written at once
    for (const [i, sizeBytes] of sizes.entries()) {
      const storedBytes = encoded.storedSizes[i] as number;
      const digest = encoded.digests.slice(i * DIGEST_BYTES, (i + 1) * DIGEST_BYTES);
      const key = keyOfBytes(digest);
      const known = this.#known.get(key);
      if (known !== undefined && known.sizeBytes === sizeBytes) {
        records.push(known);
        await this.#write(encoded.stored.subarray(runStart, at));
        runStart = at + storedBytes;
      } else {
        const blobOffset = this.#offset + (at - runStart);
        const compressed = encoded.compressed[i] === 1;
        const record = this.#newChunk({ digest, sizeBytes, storedBytes, compressed, blobOffset });
        this.#known.set(key, record);
        records.push(record);
      }
      at += storedBytes;
    }
    await this.#write(encoded.stored.subarray(runStart, at));
    return records;
  }

  #newChunk(piece: {
    digest: Uint8Array;
    sizeBytes: number;
    storedBytes: number;
    compressed: boolean;
    blobOffset: number;
  }): ChunkRecord {
    const record: ChunkRecord = {
      blob: 0,
      index: this.#chunks.length,
      digest: piece.digest,
      compressed: piece.compressed,
      blobOffset: piece.blobOffset,
      blobSizeBytes: piece.storedBytes,
      deviceOffset: this.#deviceBytes,
      sizeBytes: piece.sizeBytes,
    };
    this.#deviceBytes += alignUp(piece.sizeBytes, BLOCK_BYTES);
    const tooLarge =
      record.index >= BLOB_LIMITS.chunks ||
      this.#deviceBytes > BLOB_LIMITS.deviceBytes ||
      record.blobOffset + record.blobSizeBytes > BLOB_LIMITS.blobBytes;
    if (tooLarge) {
      const found = `${record.index + 1} chunks, ${this.#deviceBytes} bytes`;
      throw new NydusError(
        "ENOTSUP",
        `Cannot write blob: ${found} are more than RAFS v6 holds; a larger chunk size may do`,
      );
    }
    this.#chunks.push(record);
    return record;
  }

  async #write(bytes: Uint8Array): Promise<void> {
    if (bytes.length === 0) return;
    this.#whole.update(bytes);
    this.#offset += bytes.length;
    await this.#sink.write(bytes);
  }

  /** Writes one part in the smaller of its two forms. */
  async #writePart(name: string, compressor: Compressor, content: Uint8Array): Promise<PartForm> {
    const packed = compressor === "none" ? content : this.#codecs.compress(compressor, content, META_LEVEL);
    const shrinks = packed.length < content.length;
    const stored = shrinks ? packed : content;
    const used = shrinks && compressor !== "gzip" ? compressor : "none";
    const offset = this.#offset;
    await this.#write(stored);
    const digest = this.#codecs.digest("sha256", content);
    const form: PartForm = { compressor: used, offset, compressedBytes: stored.length };
    this.#toc.push({ name, ...form, sizeBytes: content.length, digest });
    return form;
  }

  /** Chunk information, its header, and the chunk digests: what a reader of the data needs, behind the data. */
  async #writeChunkTables(): Promise<{ ci: PartForm & { bytes: number }; metaFile: Uint8Array }> {
    const dataBytes = this.#offset;
    await this.#write(encodeTarHeader(TOC_NAMES.data, dataBytes));
    this.#toc.push({
      name: TOC_NAMES.data,
      compressor: "none",
      offset: 0,
      compressedBytes: dataBytes,
      sizeBytes: this.#deviceBytes,
      digest: this.#whole.peek(), // of the stored form and its tar header, as nydus-image has it for this entry
    });
    const info = encodeChunkInfoV1(this.#chunks);
    const { compressor } = this.#options;
    // nydus-snapshotter's converter, which copies this part beside the bootstrap, reads zstd and plain ones only.
    const ci = await this.#writePart(TOC_NAMES.meta, compressor === "none" ? "none" : "zstd", info);
    const header = encodeBlobMetaHeader({
      features: FEATURES | BLOB_FEATURES.inlinedFsMeta,
      ciCompressor: ci.compressor,
      chunkCount: this.#chunks.length,
      ciOffset: ci.offset,
      ciCompressedBytes: ci.compressedBytes,
      ciBytes: info.length,
      contextOffset: 0,
      contextBytes: 0,
      contextCount: 0,
    });
    await this.#writePart(TOC_NAMES.metaHeader, "none", header);
    await this.#write(encodeTarHeader(TOC_NAMES.meta, ci.compressedBytes + header.length));
    const digests = new Uint8Array(this.#chunks.length * DIGEST_BYTES);
    for (const chunk of this.#chunks) digests.set(chunk.digest, chunk.index * DIGEST_BYTES);
    await this.#writePart(TOC_NAMES.digests, "none", digests);
    await this.#write(encodeTarHeader(TOC_NAMES.digests, digests.length));
    return { ci: { ...ci, bytes: info.length }, metaFile: encodeBlobMetaFile(info, header) };
  }

  /**
   * Completes the blob and makes it visible.
   * @param encodeLayer makes the layer's own bootstrap, given the blob's row (none without data); left out where the
   *   bootstrap is to lie outside of the blob
   */
  async finish(encodeLayer?: (record: BlobRecord | undefined) => Uint8Array): Promise<WrittenBlob> {
    const hasData = this.#chunks.length > 0;
    const tables = hasData ? await this.#writeChunkTables() : undefined;
    const row = tables === undefined ? undefined : this.#row(tables.ci);
    if (encodeLayer !== undefined) {
      const inner = row && { ...row, features: row.features | BLOB_FEATURES.inlinedFsMeta };
      const bootstrap = await this.#writePart(TOC_NAMES.bootstrap, "zstd", encodeLayer(inner));
      await this.#write(encodeTarHeader(TOC_NAMES.bootstrap, bootstrap.compressedBytes));
    }
    await this.#write(encodeToc(this.#toc));
    const digest = digestOfSum(this.#whole.digest());
    await this.#sink.commit(digest, this.#offset);
    const record = row && { ...row, id: hexOf(digest) };
    return { digest, sizeBytes: this.#offset, record, metaFile: tables?.metaFile ?? new Uint8Array(0) };
  }

  #row(ci: PartForm & { bytes: number }): BlobRecord {
    return {
      id: INLINE_BLOB_ID,
      chunkBytes: this.#options.chunkBytes,
      chunkCount: this.#chunks.length,
      compressor: this.#options.compressor,
      digester: this.#options.digester,
      features: FEATURES,
      compressedBytes: this.#offset, // image.boot comes next and is not counted, as in nydus-image
      deviceBytes: this.#deviceBytes,
      ciCompressor: ci.compressor,
      ciOffset: ci.offset,
      ciCompressedBytes: ci.compressedBytes,
      ciBytes: ci.bytes,
      tocBytes: 0,
      tocDigest: new Uint8Array(DIGEST_BYTES),
      metaBytes: 0,
      metaDigest: new Uint8Array(DIGEST_BYTES),
    };
  }
}

interface PartForm {
  readonly compressor: "none" | "zstd" | "lz4_block";
  readonly offset: number;
  readonly compressedBytes: number;
}
