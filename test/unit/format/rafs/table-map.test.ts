import { describe, expect, test } from "bun:test";
import { BLOB_FEATURES, type BlobInfo } from "../../../../src/format/rafs/blob-table.ts";
import { encodeChunk, RafsChunk } from "../../../../src/format/rafs/chunk-table.ts";
import { chunkMapOf } from "../../../../src/format/rafs/table-map.ts";
import type { ChunkRecord } from "../../../../src/format/tree/node.ts";
import { FakeBlob, randomOf } from "./samples.ts";

/** A chunk table of two blobs, its rows in the order that `order` makes of them. */
function tableOf(order: (rows: ChunkRecord[]) => ChunkRecord[]): {
  readonly table: { image: Uint8Array; region: { offset: number; length: number } };
  readonly blobs: BlobInfo[];
  readonly rows: ChunkRecord[];
} {
  const makers = [new FakeBlob(0, 8192), new FakeBlob(1, 8192)];
  const rows = makers.flatMap((maker) => Array.from({ length: 50 }, (_, i) => maker.chunk(1 + ((i * 977) % 8192))));
  const image = new Uint8Array(rows.length * RafsChunk.sizeBytes);
  order([...rows]).forEach((chunk, i) => {
    encodeChunk(image, i * RafsChunk.sizeBytes, { chunk, fileOffset: 0 });
  });
  const blobs = makers.map((maker, index) => ({ ...maker.record, index, deviceSlot: index + 1 }));
  return { table: { image, region: { offset: 0, length: image.length } }, blobs, rows };
}

const random = randomOf(8);
const orders: [string, (rows: ChunkRecord[]) => ChunkRecord[]][] = [
  ["sorted", (rows) => rows],
  [
    "in random order",
    (rows) =>
      rows
        .map((row) => ({ row, key: random() }))
        .sort((a, b) => a.key - b.key)
        .map(({ row }) => row),
  ],
  ["backwards", (rows) => rows.reverse()],
];

describe.each(orders)("a chunk table %s", (_, order) => {
  const { table, blobs, rows } = tableOf(order);

  test("gives each blob its chunks by device offset", () => {
    for (const blob of blobs) {
      const map = chunkMapOf(table, blob);
      const wanted = rows.filter((row) => row.blob === blob.index);
      expect(map.count).toBe(50);
      const found = wanted.map((_, i) => ({
        deviceOffset: map.deviceOffset(i),
        sizeBytes: map.sizeBytes(i),
        blobOffset: map.blobOffset(i),
        digest: Buffer.from(map.digest(i) as Uint8Array).toString("hex"),
      }));
      expect(found).toEqual(
        wanted.map(({ deviceOffset, sizeBytes, blobOffset, digest }) => ({
          deviceOffset,
          sizeBytes,
          blobOffset,
          digest: Buffer.from(digest).toString("hex"),
        })),
      );
    }
  });

  test("find() hits first and last bytes of chunks and nothing between or behind them", () => {
    const blob = blobs[1] as BlobInfo;
    const map = chunkMapOf(table, blob);
    for (let i = 0; i < map.count; i++) {
      const [start, end] = [map.deviceOffset(i), map.deviceOffset(i) + map.sizeBytes(i)];
      expect([map.find(start), map.find(end - 1)]).toEqual([i, i]);
      if (end % 4096 !== 0) expect(map.find(end)).toBe(-1);
    }
    expect([map.find(-1), map.find(blob.deviceBytes), map.find(2 ** 50)]).toEqual([-1, -1, -1]);
  });
});

describe("chunkMapOf() refuses", () => {
  const { table, blobs } = tableOf((rows) => rows);
  const blob = blobs[0] as BlobInfo;
  const changed = (field: keyof typeof RafsChunk.at, value: number): (() => unknown) => {
    const image = table.image.slice();
    new DataView(image.buffer).setUint32(3 * RafsChunk.sizeBytes + RafsChunk.at[field], value, true);
    return () => chunkMapOf({ ...table, image }, blob);
  };
  const cases: [string, () => unknown, string][] = [
    ["a chunk off the blocks", changed("uncompressedOffset", 5000), "device offset 5000"],
    ["a chunk on another", changed("uncompressedOffset", 4096), "the one before ends at"],
    ["a chunk above the chunk size", changed("uncompressedSize", 8193), "8193 bytes"],
    ["an empty chunk", changed("uncompressedSize", 0), "0 bytes"],
    ["a chunk past the blob", changed("compressedOffset", 2 ** 31), "past the blob"],
    ["a chunk past the device", changed("uncompressedOffset", 2 ** 30), "past the device"],
    ["a plain chunk of two sizes", changed("compressedSize", 1), "1 in the blob"],
    ["an encrypted chunk", changed("flags", 4), "encrypted"],
    ["a zran blob", () => chunkMapOf(table, { ...blob, features: blob.features | BLOB_FEATURES.zran }), "zran"],
    [
      "batches without their meta",
      () => chunkMapOf(table, { ...blob, features: blob.features | BLOB_FEATURES.batch }),
      "meta is not at hand",
    ],
    ["a part of a row", () => chunkMapOf({ ...table, region: { offset: 0, length: 81 } }, blob), "81 bytes"],
  ];
  test.each(cases)("%s", (_, fn, message) => {
    expect(fn).toThrow(message);
  });

  test("a chunk that does not exist", () => {
    const map = chunkMapOf(table, blob);
    expect(() => map.deviceOffset(50)).toThrow("there are 50");
    expect(() => map.deviceOffset(-1)).toThrow("there are 50");
  });
});
