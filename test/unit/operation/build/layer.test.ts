import { expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { NydusError } from "../../../../src/base/errors.ts";
import { decodeBlobMeta } from "../../../../src/format/rafs/blob-meta.ts";
import { BLOB_FEATURES } from "../../../../src/format/rafs/blob-table.ts";
import { decodeToc, TOC_NAMES, type TocEntry } from "../../../../src/format/rafs/blob-toc.ts";
import { openRafs } from "../../../../src/format/rafs/image.ts";
import { readTree } from "../../../../src/format/rafs/read-tree.ts";
import { type ChunkOptions, ChunkPipeline } from "../../../../src/operation/build/chunk-pipeline.ts";
import { type BuiltLayer, buildLayer } from "../../../../src/operation/build/layer.ts";
import { mergeBuiltLayers } from "../../../../src/operation/build/merge.ts";
import { loadCodecs } from "../../../../src/os/codecs.ts";
import { tarBytes } from "../../../kit/layer-stack.ts";
import { InlinePool, MemoryBlob } from "../../../kit/memory-blob.ts";
import { Random } from "../../../kit/random.ts";

const OPTIONS: ChunkOptions = { compressor: "zstd", level: 3, digester: "blake3", chunkBytes: 4096 };
const codecs = await loadCodecs();
const utf8 = (text: string): Uint8Array => new TextEncoder().encode(text);
const words = (count: number): Uint8Array => utf8("all the same words ".repeat(count));

function noise(length: number, seed: number): Uint8Array {
  const random = new Random(seed);
  return Uint8Array.from({ length }, () => random.below(256));
}

function file(path: string, content: Uint8Array) {
  return { path: utf8(path), type: "file", mode: 0o644, sizeBytes: content.length, content: [content] } as const;
}

async function* pieces(bytes: Uint8Array, size = bytes.length): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

async function build(
  files: readonly ReturnType<typeof file>[],
  options = OPTIONS,
  isAlone = false,
): Promise<BuiltLayer & { blob: BuiltLayer["blob"] & { bytes: Uint8Array } }> {
  const sink = new MemoryBlob();
  const tar = await tarBytes(files);
  const built = await buildLayer(pieces(tar, 1000), sink, { codecs, pool: new InlinePool(), options, isAlone });
  return { ...built, blob: { ...built.blob, bytes: sink.bytes } };
}

function part(blob: Uint8Array, name: string): TocEntry & { readonly stored: Uint8Array } {
  const toc = decodeToc(blob.subarray(-4096), blob.length);
  const entry = toc?.entries.find((one) => one.name === name);
  if (entry === undefined) throw new Error(`the TOC has no ${name}`);
  return { ...entry, stored: blob.subarray(entry.offset, entry.offset + entry.compressedBytes) };
}

function content(blob: Uint8Array, name: string): Uint8Array {
  const { compressor, stored, sizeBytes } = part(blob, name);
  return codecs.decompress(compressor, stored, sizeBytes);
}

const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

test("buildLayer() writes each content once and refers to it wherever it occurs", async () => {
  const shared = noise(9000, 1);
  const { tree, blob } = await build([file("a", shared), file("b", shared), file("c", shared.slice(0, 4096))]);
  const [a, b, c] = ["a", "b", "c"].map((name) => tree.children.get(name)?.chunks ?? []);
  expect(a?.map((chunk) => [chunk.index, chunk.deviceOffset, chunk.sizeBytes])).toEqual([
    [0, 0, 4096],
    [1, 4096, 4096],
    [2, 8192, 808],
  ]);
  expect(b).toEqual(a as []);
  expect(c).toEqual(a?.slice(0, 1) as []);
  expect(blob.record?.chunkCount).toBe(3);
  expect(blob.record?.deviceBytes).toBe(12288);
  expect(part(blob.bytes, TOC_NAMES.data).compressedBytes).toBe(9000);
});

test("buildLayer() stores a chunk plain when it does not shrink, and says so", async () => {
  const { tree, blob } = await build([file("noise", noise(4096, 2)), file("words", words(200))]);
  const [noisy] = tree.children.get("noise")?.chunks ?? [];
  const [wordy] = tree.children.get("words")?.chunks ?? [];
  expect(noisy).toMatchObject({ compressed: false, blobSizeBytes: 4096 });
  expect(wordy?.compressed).toBe(true);
  expect(wordy?.blobSizeBytes).toBeLessThan(200);
  expect(blob.bytes.subarray(0, 4096)).toEqual(noise(4096, 2));
});

test("buildLayer() describes the blob at its end: TOC, chunk information, digests and the layer's own bootstrap", async () => {
  const { tree, blob } = await build([file("words", words(3000)), file(".wh.gone", utf8(""))]);
  const { bytes, record, metaFile } = blob;
  expect(`sha256:${sha256(bytes)}`).toBe(blob.digest);
  const data = part(bytes, TOC_NAMES.data);
  expect(data.offset).toBe(0);
  expect(Buffer.from(data.digest).toString("hex")).toBe(sha256(bytes.subarray(0, data.compressedBytes + 512)));
  for (const name of [TOC_NAMES.meta, TOC_NAMES.metaHeader, TOC_NAMES.digests, TOC_NAMES.bootstrap]) {
    expect(Buffer.from(part(bytes, name).digest).toString("hex")).toBe(sha256(content(bytes, name)));
  }
  const chunks = tree.children.get("words")?.chunks ?? [];
  expect(content(bytes, TOC_NAMES.digests)).toEqual(Buffer.concat(chunks.map((chunk) => chunk.digest)));
  const meta = decodeBlobMeta(metaFile);
  expect(meta.chunkCount).toBe(chunks.length);
  expect(chunks.map((_, i) => meta.chunk(i).blobOffset)).toEqual(chunks.map((chunk) => chunk.blobOffset));
  expect(record?.compressedBytes).toBe(part(bytes, TOC_NAMES.bootstrap).offset);
  const inner = openRafs(content(bytes, TOC_NAMES.bootstrap));
  expect(inner.blobs[0]?.id).toBe("x".repeat(64));
  expect((inner.blobs[0]?.features ?? 0) & BLOB_FEATURES.inlinedFsMeta).not.toBe(0);
  expect((record?.features ?? 0) & BLOB_FEATURES.inlinedFsMeta).toBe(0);
  expect([...readTree(inner).children.keys()].sort()).toEqual([".wh.gone", "words"]);
});

test("buildLayer() of a layer without file data makes a blob that needs no device", async () => {
  const { blob } = await build([file("empty", utf8(""))]);
  expect(blob.record).toBeUndefined();
  expect(blob.metaFile.length).toBe(0);
  expect(decodeToc(blob.bytes, blob.bytes.length)?.entries.map((entry) => entry.name)).toEqual([TOC_NAMES.bootstrap]);
});

test("buildLayer() gives the same blob whichever batch is ready first and however the tar arrives", async () => {
  const tar = await tarBytes(Array.from({ length: 40 }, (_, i) => file(`f${i}`, noise(100_000 + i, i))));
  const random = new Random(7);
  const digests = await Promise.all(
    [tar.length, 777, 65_536].map(async (size) => {
      const pool = new InlinePool();
      pool.before = () => Bun.sleep(random.below(4));
      const sink = new MemoryBlob();
      const options = { ...OPTIONS, chunkBytes: 1 << 16 };
      const { tree, blob } = await buildLayer(pieces(tar, size), sink, { codecs, pool, options });
      const indexes = [...tree.children.values()].flatMap((node) => node.chunks.map((chunk) => chunk.index));
      expect(indexes).toEqual(Array.from(indexes, (_, i) => i)); // the data lies in the order of the files
      return blob.digest;
    }),
  );
  expect(new Set(digests).size).toBe(1);
});

test("ChunkPipeline keeps a bounded number of batches under way", async () => {
  const pool = new InlinePool();
  pool.before = () => Bun.sleep(1);
  const options = { ...OPTIONS, compressor: "none", chunkBytes: 1 << 20 } as const;
  const pipeline = new ChunkPipeline(pool, options, { append: async (_, sizes) => Array(sizes.length).fill({}) });
  await pipeline.addFile(pieces(new Uint8Array(24 << 20), 1 << 16), 24 << 20);
  await pipeline.end();
  expect(pool.mostUnderWay).toBeLessThanOrEqual(pool.threads + 2);
  expect(pool.mostUnderWay).toBeGreaterThan(1);
});

test.each([
  ["shorter", 10, 11],
  ["longer", 10, 9],
])("ChunkPipeline refuses a content %s than its entry says", async (_, length, said) => {
  const pipeline = new ChunkPipeline(new InlinePool(), OPTIONS, { append: async () => [] });
  const adding = pipeline.addFile(pieces(new Uint8Array(length)), said);
  expect(await adding.catch((error: NydusError) => error.code)).toBe("EUCLEAN");
});

test("ChunkPipeline passes on the failure of a thread", async () => {
  const pool = new InlinePool();
  pool.before = async () => {
    throw new NydusError("EFAULT", "Codec thread failed: on purpose");
  };
  const pipeline = new ChunkPipeline(pool, OPTIONS, { append: async () => [] });
  await pipeline.addFile(pieces(new Uint8Array(10)), 10);
  expect(pipeline.end()).rejects.toThrow("on purpose");
});

test("mergeBuiltLayers() points equal chunks of two layers at the lower copy and leaves out a blob nobody needs", async () => {
  const shared = noise(5000, 3);
  const bottom = await build([file("a", shared)]);
  const middle = await build([file("b", shared), file("hidden", noise(100, 4))]);
  const top = await build([file("c", noise(100, 5)), file(".wh.hidden", utf8(""))]);
  const { bootstrap, blobs } = mergeBuiltLayers([bottom, middle, top], OPTIONS);
  expect(blobs.map((blob) => blob.digest)).toEqual([bottom.blob.digest, top.blob.digest]);
  const image = openRafs(bootstrap);
  expect(image.blobs.map((blob) => `sha256:${blob.id}`)).toEqual([bottom.blob.digest, top.blob.digest]);
  const tree = readTree(image);
  expect([...tree.children.keys()].sort()).toEqual(["a", "b", "c"]);
  expect(tree.children.get("b")?.chunks.map((chunk) => chunk.blob)).toEqual([0, 0]);
  expect(tree.children.get("c")?.chunks.map((chunk) => chunk.blob)).toEqual([1]);
});

test("mergeBuiltLayers() lists a layer that occurs twice once", async () => {
  const layer = await build([file("a", noise(50, 6))]);
  const other = await build([file("b", noise(50, 7))]);
  const { blobs } = mergeBuiltLayers([layer, other, layer], OPTIONS);
  expect(blobs.map((blob) => blob.digest)).toEqual([layer.blob.digest, other.blob.digest]);
});

const DIR = { type: "dir", mode: 0o755, sizeBytes: 0, content: [] } as const;
const ROOT = { ...DIR, path: utf8("") };
const KEPT_LAYERS = [
  ["files", true, [ROOT, file("a", noise(9000, 8)), file("b", noise(9000, 8)), file("empty", utf8(""))]],
  ["a path that comes twice", true, [ROOT, file("a", noise(9000, 9)), file("a", noise(4097, 10))]],
  ["a root that no entry describes", false, [file("a", noise(90, 11))]],
  ["a directory that no entry describes", false, [ROOT, file("dir/a", noise(90, 12))]],
  ["a whiteout", false, [ROOT, file("a", noise(90, 13)), file(".wh.b", utf8(""))]],
  ["a whiteout of overlayfs's", false, [ROOT, file("a", noise(90, 13)), { ...DIR, path: utf8("b"), type: "char" }]],
  ["no data", false, [ROOT, file("empty", utf8(""))]],
  ["data that nobody sees", false, [ROOT, file("a", noise(90, 14)), file("a", utf8(""))]],
] as const;

test.each(KEPT_LAYERS)(
  "an image of one layer with %s is the same whether its own bootstrap was kept (used: %p) or not",
  async (_, isUsed, entries) => {
    const kept = await build(entries as Parameters<typeof build>[0], OPTIONS, true);
    const { tree, blob, bootstrap } = kept;
    if (bootstrap === undefined) throw new Error("the bootstrap was not kept");
    const { bootstrap: merged, blobs } = mergeBuiltLayers([{ tree, blob }], OPTIONS);
    const found = mergeBuiltLayers([kept], OPTIONS);
    expect(Buffer.compare(found.bootstrap, merged)).toBe(0);
    expect(found.blobs.map(({ digest }) => digest)).toEqual(blobs.map(({ digest }) => digest));
    // What is kept is what is used: a mark in it is in the image.
    bootstrap[0] = 0x6e;
    expect(mergeBuiltLayers([kept], OPTIONS).bootstrap[0]).toBe(isUsed ? 0x6e : 0);
  },
);
