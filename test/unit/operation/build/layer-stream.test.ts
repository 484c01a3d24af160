import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { hexOf } from "../../../../src/base/digest.ts";
import { openFileSource } from "../../../../src/content/store/file-source.ts";
import { BLOB_FEATURES, hasFeature } from "../../../../src/format/rafs/blob-table.ts";
import { checkBootstrap } from "../../../../src/format/rafs/check.ts";
import { openRafs } from "../../../../src/format/rafs/image.ts";
import { readTree } from "../../../../src/format/rafs/read-tree.ts";
import { readTar } from "../../../../src/format/tar/reader.ts";
import type { TarMember } from "../../../../src/format/tar/writer.ts";
import { LayerTree } from "../../../../src/format/tree/build.ts";
import type { TreeNode } from "../../../../src/format/tree/node.ts";
import { mergeLayers } from "../../../../src/format/tree/overlay.ts";
import { openBootstrapFile, readBootstrapFile } from "../../../../src/operation/build/bootstrap-file.ts";
import { ChunkDict } from "../../../../src/operation/build/chunk-dict.ts";
import { buildApart, type StreamOptions, streamLayer } from "../../../../src/operation/build/layer-stream.ts";
import { type LayerBootstrap, mergeBootstraps } from "../../../../src/operation/build/merge-files.ts";
import { unpackLayerToTar } from "../../../../src/operation/image/unpack-layer.ts";
import { openCodecPool } from "../../../../src/os/codec-threads.ts";
import { loadCodecs } from "../../../../src/os/codecs.ts";
import { makeLayerStack, tarBytes } from "../../../kit/layer-stack.ts";
import { listNodes } from "../../../kit/list-nodes.ts";
import { MemoryBlob } from "../../../kit/memory-blob.ts";

const SEEDS = Array.from({ length: 80 }, (_, i) => 4000 + i);
const codecs = await loadCodecs();
const pool = openCodecPool({ threads: 2 });
const OPTIONS: StreamOptions = {
  codecs,
  pool,
  options: { compressor: "zstd", level: 3, digester: "blake3", chunkBytes: 4096 },
  prefetchPaths: [],
};
const utf8 = (text: string): Uint8Array => new TextEncoder().encode(text);

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), "nydus-layer-stream-"));
});
afterAll(async () => {
  await pool[Symbol.asyncDispose]();
  rmSync(dir, { recursive: true, force: true });
});

async function* pieces(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}

const entries = (tar: Uint8Array) => readTar(pieces(tar));

async function treeOf(tar: AsyncIterable<Uint8Array>): Promise<TreeNode> {
  const tree = new LayerTree();
  for await (const entry of readTar(tar)) tree.add(entry);
  return tree.root;
}

/** Builds a layer into a file that is named by its digest. */
async function stream(tar: Uint8Array, options = OPTIONS) {
  const sink = new MemoryBlob();
  const { blob, blobs } = await streamLayer(entries(tar), sink, options);
  if (blob === undefined) throw new Error("no blob");
  const path = join(dir, hexOf(blob.digest));
  writeFileSync(path, sink.bytes);
  return { path, bytes: sink.bytes, blobs };
}

const load = async (path: string): Promise<LayerBootstrap> => ({ path, image: await openBootstrapFile(path, codecs) });
const listing = (root: TreeNode) => listNodes(root, { groups: true });

function file(path: string, content: Uint8Array): TarMember {
  return { path: utf8(path), type: "file", mode: 0o644, sizeBytes: content.length, content: [content] };
}

const noise = (seed: number): Uint8Array => {
  const bytes = new Uint8Array(20_000);
  for (let i = 0, word = seed; i < bytes.length; i++) {
    word = (Math.imul(word, 1_103_515_245) + 12_345) >>> 0;
    bytes[i] = word >>> 16;
  }
  return bytes;
};

describe("streamLayer() and mergeBootstraps()", () => {
  test.each(SEEDS)("show what the layers show that they were made of, seed %i", async (seed) => {
    const { layers } = await makeLayerStack(seed);
    const built = await Promise.all(layers.map((tar) => stream(tar)));
    const { bootstrap } = mergeBootstraps(await Promise.all(built.map(({ path }) => load(path))), {
      prefetchPaths: [],
    });
    const trees = await Promise.all(layers.map((tar) => treeOf(pieces(tar))));
    expect(listing(readTree(openRafs(bootstrap)))).toEqual(listing(mergeLayers(trees)));
    expect(checkBootstrap(bootstrap).findings).toEqual([]);
    expect(openRafs(bootstrap).blobs.some((blob) => hasFeature(blob, BLOB_FEATURES.inlinedFsMeta))).toBe(false);
  });
});

/** A layer's tar, made of its blob. */
async function* unpack(path: string): AsyncGenerator<Uint8Array> {
  const rafs = await openBootstrapFile(path, codecs);
  const source = await openFileSource(path);
  const blobs = rafs.blobs.map(({ id, index }) => ({ digest: id, chunks: rafs.chunkMap(index), source }));
  yield* unpackLayerToTar({ rafs, blobs }, { pool });
  await source.close();
}

describe("unpackLayerToTar()", () => {
  test("writes a whiteout with too long a name as the whiteout that it was", async () => {
    const name = utf8(`.wh.${"w".repeat(252)}`);
    const { path } = await stream(await tarBytes([{ path: name, type: "file", mode: 0o644, sizeBytes: 0 }]));
    const found: (readonly [string, Uint8Array])[] = [];
    for await (const entry of readTar(unpack(path))) found.push([entry.type, entry.path]);
    expect(found).toEqual([["file", name]]);
  });

  test.each(SEEDS)("gives the layer back that a blob was made of, seed %i", async (seed) => {
    const { layers } = await makeLayerStack(seed);
    for (const tar of layers) {
      const { path } = await stream(tar);
      const unpacked = await treeOf(unpack(path));
      const withoutSockets = listing(await treeOf(pieces(tar))).filter(({ type }) => type !== "socket");
      expect(listing(unpacked)).toEqual(withoutSockets);
    }
  });
});

test("readBootstrapFile() refuses what is neither a bootstrap nor a blob with one, and a damaged one inside", async () => {
  const path = join(dir, "other");
  writeFileSync(path, new Uint8Array(9000));
  await expect(readBootstrapFile(path, codecs)).rejects.toMatchObject({ code: "EUCLEAN", at: { path } });
  const { bytes } = await stream(await tarBytes([file("a", noise(1))]));
  const damaged = bytes.slice();
  const toc = bytes.length - 512 - 5 * 128; // the digest of image.boot is in the last entry
  damaged[toc + 4 * 128 + 24] = (damaged[toc + 4 * 128 + 24] as number) ^ 1;
  writeFileSync(path, damaged);
  await expect(readBootstrapFile(path, codecs)).rejects.toMatchObject({ code: "EBADMSG" });
});

describe("a chunk dictionary", () => {
  const [one, two, three] = [noise(1), noise(2), noise(3)];

  test("keeps its chunks out of the blob, and its blobs in the merged table", async () => {
    const unused = await stream(await tarBytes([file("unused", noise(9))]));
    const dictionary = await stream(await tarBytes([file("one", one), file("two", two)]));
    const layers = [await load(unused.path), await load(dictionary.path)];
    const dictImage = openRafs(mergeBootstraps(layers, { prefetchPaths: [] }).bootstrap);
    const dict = new ChunkDict(dictImage, OPTIONS.options);
    const tar = await tarBytes([file("a", three), file("b", two)]);
    const [plain, layer] = [await stream(tar), await stream(tar, { ...OPTIONS, dict })];
    expect(plain.bytes.length - layer.bytes.length).toBeGreaterThan(15_000);
    expect(layer.blobs.map(({ id }) => id)).toEqual(["x".repeat(64), dictImage.blobs[1]?.id as string]);
    const dictBlobs = new Set(dictImage.blobs.map(({ id }) => id));
    const merged = mergeBootstraps([await load(layer.path)], { prefetchPaths: [], dictBlobs });
    expect(merged.blobs.map(({ id }) => join(dir, id))).toEqual([layer.path, dictionary.path]);
    expect(checkBootstrap(merged.bootstrap).findings).toEqual([]);
  });

  test("that has everything leaves a blob without data", async () => {
    const dictionary = await stream(await tarBytes([file("one", one)]));
    const dictImage = openRafs(mergeBootstraps([await load(dictionary.path)], { prefetchPaths: [] }).bootstrap);
    const dict = new ChunkDict(dictImage, OPTIONS.options);
    const { blobs } = await stream(await tarBytes([file("again", one)]), { ...OPTIONS, dict });
    expect(blobs.map(({ id }) => join(dir, id))).toEqual([dictionary.path]);
  });
});

describe("buildApart()", () => {
  test("leaves the bootstrap out of the blob, and says so", async () => {
    const sink = new MemoryBlob();
    const { blob, bootstrap, blobs } = await buildApart(entries(await tarBytes([file("a", noise(1))])), sink, OPTIONS);
    expect(blobs.map(({ id }) => id)).toEqual([hexOf(sink.committed?.digest as never)]);
    expect(blob?.sizeBytes).toBe(sink.bytes.length);
    expect(hasFeature(blobs[0] as never, BLOB_FEATURES.inlinedFsMeta)).toBe(false);
    expect(checkBootstrap(bootstrap as Uint8Array).findings).toEqual([]);
  });

  test("writes no blob where there is no data", async () => {
    const sink = new MemoryBlob();
    const { blob, blobs } = await buildApart(entries(await tarBytes([file("a", new Uint8Array(0))])), sink, OPTIONS);
    expect([blob, blobs, sink.committed, sink.bytes.length]).toEqual([undefined, [], undefined, 0]);
  });

  test("refuses a hard link to what it does not have, and makes it on a parent that has it", async () => {
    const link: TarMember = { path: utf8("link"), type: "hardlink", mode: 0o644, linkPath: utf8("a") };
    const tar = await tarBytes([link, file("b", noise(2))]);
    await expect(buildApart(entries(tar), new MemoryBlob(), OPTIONS)).rejects.toMatchObject({ code: "EUCLEAN" });
    const lower = await buildApart(entries(await tarBytes([file("a", noise(1))])), new MemoryBlob(), OPTIONS);
    const parent = { root: readTree(openRafs(lower.bootstrap as Uint8Array)), blobs: lower.blobs };
    const { bootstrap, blobs } = await buildApart(entries(tar), new MemoryBlob(), { ...OPTIONS, parent });
    const root = readTree(openRafs(bootstrap as Uint8Array));
    expect(root.children.get("link")).toBe(root.children.get("a") as TreeNode);
    expect(blobs.length).toBe(2);
  });
});
