import { createHash } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { alignUp, BLOCK_BYTES } from "../../src/base/bytes.ts";
import { BLOB_FEATURES, type BlobRecord } from "../../src/format/rafs/blob-table.ts";
import { encodeBootstrap } from "../../src/format/rafs/writer.ts";
import { type ChunkRecord, makeNode, type TreeNode } from "../../src/format/tree/node.ts";

/** An image without compression, of files whose names and bytes follow from their numbers. */
export interface SyntheticImage {
  readonly bootstrapPath: string;
  readonly blobDir: string;
  readonly files: number;
  pathOf(file: number): string;
  contentOf(file: number): Uint8Array;
}

const CHUNK_BYTES = 65536;
const FILES_PER_DIR = 1000;

/** What an image is made of. */
export interface SyntheticOptions {
  readonly files: number;
  /** Other seeds give other bytes in the same places: what a stale inode or page would show. */
  readonly seed: number;
  /** Bytes of each file, at most one chunk. */
  readonly fileBytes: number;
}

/** Bytes of a file: its seed and number, over and over. */
function contentOf({ seed, fileBytes }: SyntheticOptions, file: number): Uint8Array {
  const text = new TextEncoder().encode(`image ${seed} file ${file}\n`);
  return Uint8Array.from({ length: fileBytes }, (_, at) => text[at % text.length] as number);
}

function pathOf(file: number): string {
  return `d${Math.floor(file / FILES_PER_DIR)}/f${file}`;
}

/** Makes the image below `dir`, which must be there. */
export function makeSyntheticImage(dir: string, options: SyntheticOptions): SyntheticImage {
  const { files, fileBytes } = options;
  const blob = new Uint8Array(files * fileBytes);
  const noXattrs = new Map<string, Uint8Array>();
  const noChildren = new Map<string, TreeNode>();
  const root = makeNode("dir");
  const deviceStep = alignUp(fileBytes, BLOCK_BYTES);
  for (let file = 0; file < files; file++) {
    const content = contentOf(options, file);
    blob.set(content, file * fileBytes);
    const chunk: ChunkRecord = {
      blob: 0,
      index: file,
      digest: createHash("sha256").update(content).digest(),
      compressed: false,
      blobOffset: file * fileBytes,
      blobSizeBytes: fileBytes,
      deviceOffset: file * deviceStep,
      sizeBytes: fileBytes,
    };
    const node = makeNode("file", { sizeBytes: fileBytes, chunks: [chunk], xattrs: noXattrs, children: noChildren });
    dirOf(root, file).children.set(`f${file}`, node);
  }
  const id = createHash("sha256").update(blob).digest("hex");
  const blobDir = join(dir, "blobs");
  mkdirSync(blobDir, { recursive: true });
  writeFileSync(join(blobDir, id), blob);
  const record = blobRecord(id, { files, blobBytes: blob.length, deviceBytes: files * deviceStep });
  const bootstrapPath = join(dir, "image.boot");
  const image = { root, blobs: [record], chunkBytes: CHUNK_BYTES, compressor: "none", digester: "sha256" } as const;
  writeFileSync(bootstrapPath, encodeBootstrap(image));
  return { bootstrapPath, blobDir, files, pathOf, contentOf: (file) => contentOf(options, file) };
}

function dirOf(root: TreeNode, file: number): TreeNode {
  const name = `d${Math.floor(file / FILES_PER_DIR)}`;
  const known = root.children.get(name);
  if (known !== undefined) return known;
  const dir = makeNode("dir");
  root.children.set(name, dir);
  return dir;
}

function blobRecord(id: string, sizes: { files: number; blobBytes: number; deviceBytes: number }): BlobRecord {
  return {
    id,
    chunkBytes: CHUNK_BYTES,
    chunkCount: sizes.files,
    compressor: "none",
    digester: "sha256",
    features: BLOB_FEATURES.aligned,
    compressedBytes: sizes.blobBytes,
    deviceBytes: sizes.deviceBytes,
    ciCompressor: "none",
    ciOffset: 0,
    ciCompressedBytes: 0,
    ciBytes: 0,
    tocBytes: 0,
    tocDigest: new Uint8Array(32),
    metaBytes: 0,
    metaDigest: new Uint8Array(32),
  };
}
