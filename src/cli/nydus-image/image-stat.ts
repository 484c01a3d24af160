import { alignUp, BLOCK_BYTES, keyOfBytes } from "../../base/bytes.ts";
import type { ChunkRecord, TreeNode } from "../../format/tree/node.ts";

/** Bits of chunk sizes and of file sizes that are counted. */
const CHUNK_BITS = { first: 12, last: 20 } as const;
const FILE_BITS = 45;
/** Thresholds of the table of deduplication. */
const DEDUP_ROWS = 20;

/** Counts of one or more images, by the names that nydus-image's JSON has. Sizes in bytes. */
export class ImageCounts {
  dirs = 0;
  files = 0;
  symlinks = 0;
  chunks = 0;
  file_size = 0;
  comp_size = 0;
  uncomp_size = 0;
  padding_size = 0;
  readonly chunk_sizes: number[] = new Array(CHUNK_BITS.last - CHUNK_BITS.first + 1).fill(0);
  readonly file_sizes: number[] = new Array(FILE_BITS).fill(0);
  dedup_chunks = 0;
  dedup_comp_size = 0;
  dedup_uncomp_size = 0;
  own_chunks = 0;
  own_comp_size = 0;
  own_uncomp_size = 0;
  ref_chunks = 0;
  ref_comp_size = 0;
  ref_uncomp_size = 0;

  /** Counts a tree's inodes. Hard links count as files, their content once. @returns its chunks, each once */
  addTree(root: TreeNode): readonly ChunkRecord[] {
    const chunks = new Map<string, ChunkRecord>();
    const seen = new Set<TreeNode>();
    const ahead = [root];
    for (let node = ahead.pop(); node !== undefined; node = ahead.pop()) {
      ahead.push(...node.children.values());
      this.#addNode(node, seen.has(node));
      seen.add(node);
      for (const chunk of node.chunks) chunks.set(chunkKey(chunk), chunk);
    }
    return [...chunks.values()];
  }

  #addNode(node: TreeNode, isKnown: boolean): void {
    if (node.type === "dir") this.dirs++;
    if (node.type === "symlink") this.symlinks++;
    if (node.type !== "file") return;
    this.files++;
    if (isKnown) return;
    const { sizeBytes, chunks } = node;
    const bits = Math.min(sizeBytes === 0 ? 0 : Math.floor(Math.log2(sizeBytes)) + 1, FILE_BITS - 1);
    this.file_sizes[bits] = (this.file_sizes[bits] ?? 0) + 1;
    const padding = alignUp(sizeBytes, BLOCK_BYTES) - sizeBytes;
    this.file_size += sizeBytes;
    this.padding_size += padding;
    this.uncomp_size += padding;
    this.chunks += chunks.length;
    for (const chunk of chunks) {
      this.comp_size += chunk.blobSizeBytes;
      this.uncomp_size += chunk.sizeBytes;
    }
    for (let i = 0; i < this.chunk_sizes.length; i++) {
      this.chunk_sizes[i] = (this.chunk_sizes[i] ?? 0) + Math.ceil(sizeBytes / 2 ** (CHUNK_BITS.first + i));
    }
  }

  addOwn({ blobSizeBytes, sizeBytes }: ChunkRecord): void {
    this.own_chunks++;
    this.own_comp_size += blobSizeBytes;
    this.own_uncomp_size += sizeBytes;
  }

  addReferenced({ blobSizeBytes, sizeBytes }: ChunkRecord): void {
    this.ref_chunks++;
    this.ref_comp_size += blobSizeBytes;
    this.ref_uncomp_size += sizeBytes;
  }

  addDeduplicated({ blobSizeBytes, sizeBytes }: ChunkRecord): void {
    this.dedup_chunks++;
    this.dedup_comp_size += blobSizeBytes;
    this.dedup_uncomp_size += sizeBytes;
  }
}

function chunkKey({ digest, sizeBytes }: ChunkRecord): string {
  return `${keyOfBytes(digest)}:${sizeBytes}`;
}

interface Shared {
  readonly chunk: ChunkRecord;
  images: number;
}

/** Statistics of base images together, and of a target image over them. */
export class ImageStatistics {
  readonly base = new ImageCounts();
  readonly target = new ImageCounts();
  readonly #known = new Map<string, Shared>();

  addBase(root: TreeNode): void {
    for (const chunk of this.base.addTree(root)) {
      this.base.addOwn(chunk);
      const known = this.#known.get(chunkKey(chunk));
      if (known === undefined) this.#known.set(chunkKey(chunk), { chunk, images: 1 });
      else known.images++;
    }
  }

  addTarget(root: TreeNode): void {
    for (const chunk of this.target.addTree(root)) {
      if (this.#known.has(chunkKey(chunk))) this.target.addReferenced(chunk);
      else this.target.addOwn(chunk);
    }
  }

  /** Counts what is left of the base images when each chunk is kept once. */
  deduplicate(): void {
    for (const { chunk } of this.#known.values()) this.base.addDeduplicated(chunk);
  }

  /**
   * What is left when chunks that so many images or more have are kept once, and the others in each image:
   * rows of threshold, chunks, and chunks left.
   */
  dedupRows(): readonly (readonly [threshold: number, chunks: number, left: number])[] {
    const all = [...this.#known.values()];
    const total = all.reduce((sum, { images }) => sum + images, 0);
    return Array.from({ length: DEDUP_ROWS }, (_, i) => {
      const left = all.reduce((sum, { images }) => sum + (images > i ? 1 : images), 0);
      return [i + 1, total, left] as const;
    });
  }
}

/** Counts as text. */
export function formatCounts(counts: ImageCounts): string {
  const rows: (readonly [string, number])[] = [
    ["Directories:", counts.dirs],
    ["Files:", counts.files],
    ["Symlinks:", counts.symlinks],
    ["Chunks:", counts.chunks],
    ["File Size:", counts.file_size],
    ["Padding Size:", counts.padding_size],
    ["Uncompressed Size:", counts.uncomp_size],
    ["Compressed Size:", counts.comp_size],
  ];
  const sums: (readonly [string, number])[] = [
    ["Dedup Comp Size:", counts.dedup_comp_size],
    ["Dedup Uncomp Size:", counts.dedup_uncomp_size],
    ["Dedup Chunk Count:", counts.dedup_chunks],
    ["Owned Comp Size:", counts.own_comp_size],
    ["Owned Uncomp Size:", counts.own_uncomp_size],
    ["Owned Chunk Count:", counts.own_chunks],
    ["Referenced Comp Size:", counts.ref_comp_size],
    ["Referenced Uncomp Size:", counts.ref_uncomp_size],
    ["Referenced Chunk Count:", counts.ref_chunks],
  ];
  const lines = (list: typeof rows): string => list.map(([name, value]) => `${name.padEnd(24)}${value}\n`).join("");
  const bits = (list: readonly number[], first: number): string =>
    list.map((count, i) => `${first + i}:\t\t\t${count}\n`).join("");
  return `\n${lines(rows)}\nFile Size Bits:\t\tFile Count:\n${bits(counts.file_sizes, 0)}
Chunk Size Bits:\tChunk Count:\n${bits(counts.chunk_sizes, CHUNK_BITS.first)}\n${lines(sums)}`;
}
