import type { Compressor, Digester } from "../../format/codec/codecs.ts";
import type { NodeType } from "../../format/tree/node.ts";
import { type BlobReader, chunkParts, type ReadableImage } from "./unit-batches.ts";
import { walkImage } from "./walk.ts";

/** One blob of an image. All sizes in bytes. */
export interface BlobReport {
  readonly digest: string;
  readonly compressor: Compressor;
  readonly digester: Digester;
  /** Of the whole blob. */
  readonly blobBytes: number;
  /** Uncompressed address space. */
  readonly deviceBytes: number;
  /** Chunks in the blob, whether this image references them or not. */
  readonly chunks: number;
  /** Chunks that a file references. */
  readonly referencedChunks: number;
  /** Of these, chunks that are referenced more than once. */
  readonly sharedChunks: number;
  /** Uncompressed bytes of the referenced chunks, each once. */
  readonly uniqueBytes: number;
  /** Uncompressed bytes that files take from this blob, a chunk as often as it is referenced. */
  readonly usedBytes: number;
}

/** What an image is made of. All sizes in bytes. */
export interface ImageReport {
  readonly fsVersion: 6;
  readonly chunkBytes: number;
  readonly compressor: Compressor;
  readonly digester: Digester;
  readonly bootstrapBytes: number;
  /** Inodes by type; hard links count once. */
  readonly inodes: Readonly<Record<NodeType, number>>;
  /** Names, the root's included. */
  readonly names: number;
  /** Sizes of all regular files, hard links once. */
  readonly fileBytes: number;
  readonly blobs: readonly BlobReport[];
  /** Over all blobs. */
  readonly chunks: number;
  readonly referencedChunks: number;
  readonly sharedChunks: number;
  readonly uniqueBytes: number;
  /** What chunks that are referenced again save. */
  readonly dedupBytes: number;
}

/** References of each chunk of a blob by files, and the bytes that files take from it. */
class BlobUse {
  readonly blob: BlobReader;
  readonly #references: Uint32Array;
  #usedBytes = 0;

  constructor(blob: BlobReader) {
    this.blob = blob;
    this.#references = new Uint32Array(blob.chunks.count);
  }

  use(deviceOffset: number, length: number): void {
    for (const { chunk, lengthBytes } of chunkParts(this.blob, deviceOffset, length)) {
      this.#references[chunk] = (this.#references[chunk] ?? 0) + 1;
      this.#usedBytes += lengthBytes;
    }
  }

  report(): Pick<BlobReport, "referencedChunks" | "sharedChunks" | "uniqueBytes" | "usedBytes"> {
    let [referencedChunks, sharedChunks, uniqueBytes] = [0, 0, 0];
    for (const [chunk, count] of this.#references.entries()) {
      if (count > 0) referencedChunks++;
      if (count > 1) sharedChunks++;
      if (count > 0) uniqueBytes += this.blob.chunks.sizeBytes(chunk);
    }
    return { referencedChunks, sharedChunks, uniqueBytes, usedBytes: this.#usedBytes };
  }
}

/**
 * Counts what an image is made of; reads metadata only.
 * @throws EUCLEAN damaged bootstrap
 */
export function inspectImage(image: ReadableImage): ImageReport {
  const { rafs } = image;
  const uses = image.blobs.map((blob) => new BlobUse(blob));
  const inodes = { file: 0, dir: 0, symlink: 0, char: 0, block: 0, fifo: 0, socket: 0 };
  const linked = new Set<number>();
  let [names, fileBytes] = [0, 0];
  for (const { inode } of walkImage(rafs.erofs)) {
    names++;
    if (linked.has(inode.nid)) continue;
    if (inode.nlink > 1 && inode.type !== "dir") linked.add(inode.nid);
    inodes[inode.type]++;
    if (inode.type !== "file") continue;
    fileBytes += inode.sizeBytes;
    for (const extent of rafs.erofs.extents(inode.nid, 0, inode.sizeBytes)) {
      if (extent.kind === "device") uses[extent.device - 1]?.use(extent.deviceOffset, extent.length);
    }
  }
  const blobs = rafs.blobs.map((info, i): BlobReport => {
    const { compressor, digester, compressedBytes, deviceBytes, chunkCount: chunks } = info;
    const blobBytes = image.blobs[i]?.source.sizeBytes ?? compressedBytes;
    const use = uses[i]?.report() ?? { referencedChunks: 0, sharedChunks: 0, uniqueBytes: 0, usedBytes: 0 };
    return { digest: `sha256:${info.id}`, compressor, digester, blobBytes, deviceBytes, chunks, ...use };
  });
  const sum = (field: (blob: BlobReport) => number): number => blobs.reduce((total, blob) => total + field(blob), 0);
  return {
    fsVersion: 6,
    chunkBytes: rafs.chunkBytes,
    compressor: rafs.compressor,
    digester: rafs.digester,
    bootstrapBytes: rafs.bytes.length,
    inodes,
    names,
    fileBytes,
    blobs,
    chunks: sum((blob) => blob.chunks),
    referencedChunks: sum((blob) => blob.referencedChunks),
    sharedChunks: sum((blob) => blob.sharedChunks),
    uniqueBytes: sum((blob) => blob.uniqueBytes),
    dedupBytes: sum((blob) => blob.usedBytes - blob.uniqueBytes),
  };
}
