import { describe, expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { BLOB_FEATURES, hasFeature, INLINE_BLOB_ID } from "../../../../src/format/rafs/blob-table.ts";
import { checkBootstrap } from "../../../../src/format/rafs/check.ts";
import { openRafs } from "../../../../src/format/rafs/image.ts";
import { readTree } from "../../../../src/format/rafs/read-tree.ts";
import { type LayerBootstrap, mergeBootstraps } from "../../../../src/operation/build/merge-files.ts";
import { smallGolden } from "../../../kit/golden.ts";
import { listNodes } from "../../../kit/list-nodes.ts";

const VARIANTS = ["v6-zstd-blake3-64k", "v6-lz4-sha256-4k", "v6-batch-64k"];
const utf8 = (text: string): Uint8Array => new TextEncoder().encode(text);
const rafsDir = (variant: string): string => join(smallGolden(), "rafs", variant);
const open = (path: string) => openRafs(new Uint8Array(readFileSync(path)));

/** The layers' bootstraps as nydus-image left them, in files named by their blobs' ids. */
function layersOf(variant: string): LayerBootstrap[] {
  return [1, 2, 3].map((number) => {
    const dir = join(rafsDir(variant), `layer${number}`);
    const path = join(dir, readdirSync(dir)[0] as string);
    return { path, image: open(path) };
  });
}

/** A tree's listing; a layer without a root entry has the time of its making there. */
function listing(bytes: Uint8Array) {
  const nodes = listNodes(readTree(openRafs(bytes)), { groups: true });
  return nodes.map((node) => (node.path === "/" ? { ...node, mtime: "" } : node));
}

describe.each(VARIANTS)("mergeBootstraps() of nydus-image's layers, %s", (variant) => {
  const { bootstrap, blobs } = mergeBootstraps(layersOf(variant), { prefetchPaths: [] });

  test("makes the tree that nydus-image makes of them", () => {
    expect(listing(bootstrap)).toEqual(listing(new Uint8Array(readFileSync(join(rafsDir(variant), "merged.boot")))));
  });

  test("lists the blobs that nydus-image lists, none of them with a bootstrap inside", () => {
    const report = JSON.parse(readFileSync(join(rafsDir(variant), "merge.json"), "utf8")) as { blobs: string[] };
    expect(blobs.map(({ id }) => id).sort()).toEqual(report.blobs.sort());
    expect(blobs.some((blob) => hasFeature(blob, BLOB_FEATURES.inlinedFsMeta))).toBe(false);
  });

  test("makes a sound bootstrap, the same each time", () => {
    expect(checkBootstrap(bootstrap).findings).toEqual([]);
    expect(mergeBootstraps(layersOf(variant), { prefetchPaths: [] }).bootstrap).toEqual(bootstrap);
  });
});

describe("mergeBootstraps()", () => {
  const layers = layersOf("v6-zstd-blake3-64k");

  test("merges onto a parent what merging all at once gives", () => {
    const [first, ...others] = layers as [LayerBootstrap, ...LayerBootstrap[]];
    const parent = openRafs(mergeBootstraps([first], { prefetchPaths: [] }).bootstrap);
    const onParent = mergeBootstraps(others, { parent, prefetchPaths: [] });
    expect(onParent.bootstrap).toEqual(mergeBootstraps(layers, { prefetchPaths: [] }).bootstrap);
  });

  test("puts the paths to prefetch that it has into the table, each once", () => {
    const paths = ["/etc", "/", "/nothing/here", "etc"].map(utf8);
    const { bootstrap } = mergeBootstraps(layers, { prefetchPaths: paths });
    const image = openRafs(bootstrap);
    const [etc, root, ...rest] = image.prefetch;
    expect(etc).toBe(image.erofs.lookup(image.erofs.rootNid, utf8("etc"))?.nid as number);
    expect([root, rest]).toEqual([image.erofs.rootNid, []]);
  });

  test("takes ids, sizes and digests of blobs from elsewhere", () => {
    const [layer] = layers as [LayerBootstrap];
    const blob = { id: "ab".repeat(32), sizeBytes: 12345, tocDigest: new Uint8Array(32).fill(7), tocBytes: 1152 };
    const [row] = mergeBootstraps([{ ...layer, blob }], { prefetchPaths: [] }).blobs;
    expect(row).toMatchObject({ id: blob.id, compressedBytes: 12345, tocBytes: 1152, tocDigest: blob.tocDigest });
  });

  test("refuses a layer whose blob nothing names", () => {
    const { image } = layers[0] as LayerBootstrap;
    const unnamed = image.blobs.map((blob) => ({ ...blob, id: INLINE_BLOB_ID }));
    const nameless = { path: "/tmp/layer.boot", image: { ...image, blobs: unnamed } };
    const named = { ...nameless, path: `/tmp/${"cd".repeat(32)}` };
    expect(mergeBootstraps([named], { prefetchPaths: [] }).blobs[0]?.id).toBe("cd".repeat(32));
    expect(() => mergeBootstraps([nameless], { prefetchPaths: [] })).toThrow('"layer.boot" is not 64 hex digits');
  });

  test("refuses layers of other chunk sizes, and none at all", () => {
    const other = layersOf("v6-lz4-sha256-4k");
    const mixed = [layers[0], other[1]] as LayerBootstrap[];
    expect(() => mergeBootstraps(mixed, { prefetchPaths: [] })).toThrow("chunks of 4096 bytes by sha256 and of 65536");
    expect(() => mergeBootstraps([], { prefetchPaths: [] })).toThrow("there is none");
  });

  test("takes blobs that a dictionary has for no layer's own", () => {
    const merged = openRafs(mergeBootstraps(layers, { prefetchPaths: [] }).bootstrap);
    const asLayer = { path: "x", image: merged };
    expect(() => mergeBootstraps([asLayer], { prefetchPaths: [] })).toThrow("3 blobs that are in no chunk dictionary");
    const dictBlobs = new Set(merged.blobs.map(({ id }) => id));
    const again = mergeBootstraps([asLayer], { prefetchPaths: [], dictBlobs });
    expect(again.blobs.map(({ id }) => id)).toEqual([...dictBlobs]);
  });
});
