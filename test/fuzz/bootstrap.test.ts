import { describe, expect, test } from "bun:test";
import { keyOfBytes } from "../../src/base/bytes.ts";
import { NydusError } from "../../src/base/errors.ts";
import { decodeBlobMeta } from "../../src/format/rafs/blob-meta.ts";
import { decodeToc, encodeToc } from "../../src/format/rafs/blob-toc.ts";
import { checkBootstrap } from "../../src/format/rafs/check.ts";
import { openRafs } from "../../src/format/rafs/image.ts";
import { readTree } from "../../src/format/rafs/read-tree.ts";
import { encodeBootstrap } from "../../src/format/rafs/writer.ts";
import { bootstrapsOf, randomOf, randomTree, variants } from "../unit/format/rafs/samples.ts";

/** Damaged copies of each bootstrap: fewer of the large ones. */
function mutationsOf(bytes: Uint8Array): number {
  return bytes.length > 100_000 ? 40 : 150;
}

/** A walk of a damaged image stops here: it may loop, and the reader keeps no state that would notice. */
const WALK_LIMIT = 20_000;

/** Runs `fn`; the only error that may leave it is a NydusError. Whether it ended well. */
function survives(fn: () => void): boolean {
  try {
    fn();
    return true;
  } catch (error) {
    if (error instanceof NydusError) return false;
    throw error;
  }
}

/** Everything that a mount asks of an image, each question on its own: one bad inode hides no other. */
function walkAll(bytes: Uint8Array): void {
  const image = openRafs(bytes);
  const { erofs } = image;
  for (const blob of image.blobs) {
    survives(() => {
      const map = image.chunkMap(blob.index);
      for (let i = 0; i < map.count; i++) {
        if (map.find(map.deviceOffset(i)) !== i) throw new Error(`find() misses chunk ${i}`);
        expect(map.blobOffset(i) + map.blobSizeBytes(i)).toBeLessThanOrEqual(blob.compressedBytes);
        map.compressor(i);
        map.digest(i);
      }
    });
  }
  const queue = [erofs.rootNid];
  let left = WALK_LIMIT;
  for (let nid = queue.pop(); nid !== undefined; nid = queue.pop()) {
    const dir = nid;
    survives(() => {
      for (const entry of erofs.readdir(dir)) {
        if (left-- <= 0) return;
        survives(() => void erofs.inode(entry.nid));
        survives(() => void erofs.lookup(dir, entry.name));
        survives(() => void erofs.xattrs(entry.nid));
        survives(() => void erofs.readlink(entry.nid));
        survives(() => {
          let at = 0;
          for (const extent of erofs.extents(entry.nid, 0, Number.MAX_SAFE_INTEGER)) {
            if (extent.fileOffset !== at || extent.length < 1)
              throw new Error(`extent at ${extent.fileOffset}, wanted ${at}`);
            at += extent.length;
          }
        });
        const name = keyOfBytes(entry.name);
        if (entry.type === "dir" && name !== "." && name !== "..") queue.push(entry.nid);
      }
    });
  }
}

/** One damaged copy: bytes changed where structures are likely, a cut, or a run of noise. */
function mutate(source: Uint8Array, random: () => number): Uint8Array {
  const below = (limit: number): number => Math.floor(random() * limit);
  const copy = source.slice();
  const head = random() < 0.4 ? Math.min(8192, copy.length) : copy.length;
  const kind = below(10);
  if (kind === 0) return copy.subarray(0, below(copy.length));
  for (let i = 0; i < 1 + below(kind === 1 ? 200 : 6); i++) {
    const at = below(head);
    const values = [0, 0xff, 0x80, 1, below(256), (copy[at] as number) ^ (1 << below(8))];
    copy[at] = values[below(values.length)] as number;
  }
  if (kind === 2) copy.copyWithin(below(copy.length), below(copy.length), below(copy.length));
  return copy;
}

const sources = [
  ...variants()
    .filter(({ name }) => name.startsWith("small"))
    .flatMap((variant) => bootstrapsOf(variant).map(({ name, bytes }) => ({ name: `${variant.name} ${name}`, bytes }))),
  ...[11, 12].map((seed) => ({
    name: `random tree ${seed}`,
    bytes: encodeBootstrap({ ...randomTree(seed), compressor: "none", digester: "sha256" }),
  })),
];

describe.each(sources.map((source, seed) => ({ ...source, seed })))(
  "damage to $name (seed $seed)",
  ({ bytes, seed }) => {
    test("every accessor answers or throws a NydusError", () => {
      const random = randomOf(1000 + seed);
      let sound = 0;
      for (let i = 0; i < mutationsOf(bytes); i++) {
        if (survives(() => walkAll(mutate(bytes, random)))) sound++;
      }
      expect(sound).toBeGreaterThan(0);
    });

    test("checkBootstrap() and readTree() end, with findings or a NydusError", () => {
      const random = randomOf(2000 + seed);
      let found = 0;
      for (let i = 0; i < mutationsOf(bytes) / 2; i++) {
        const damaged = mutate(bytes, random);
        survives(() => {
          found += checkBootstrap(damaged).findings.length;
        });
        survives(() => void readTree(openRafs(damaged)));
      }
      expect(found).toBeGreaterThan(0);
    });
  },
);

test("noise behind a right superblock never gives anything but a NydusError", () => {
  const random = randomOf(77);
  const source = sources[0]?.bytes as Uint8Array;
  for (let i = 0; i < 20; i++) {
    const noise = source.slice();
    for (let at = 4096; at < noise.length; at++) noise[at] = Math.floor(random() * 256);
    survives(() => walkAll(noise));
    survives(() => void checkBootstrap(noise));
  }
});

test("damaged blob metas and TOCs end in a NydusError", () => {
  const random = randomOf(78);
  const meta = new Uint8Array(3 * 4096);
  const header = meta.subarray(8192);
  new DataView(header.buffer, header.byteOffset).setUint32(0, 0xb10bb10b, true);
  new DataView(header.buffer, header.byteOffset).setUint32(4092, 0xb10bb10b, true);
  new DataView(header.buffer, header.byteOffset).setUint32(12, 100, true);
  new DataView(header.buffer, header.byteOffset).setUint32(32, 4000, true);
  const digest = new Uint8Array(32);
  const toc = encodeToc([
    { name: "image.blob", compressor: "none", offset: 0, compressedBytes: 9, sizeBytes: 9, digest },
  ]);
  for (let i = 0; i < 2000; i++) {
    survives(() => {
      const damaged = decodeBlobMeta(mutate(meta, random));
      for (let chunk = 0; chunk <= Math.min(damaged.chunkCount, 200); chunk++) damaged.chunk(chunk);
    });
    survives(() => void decodeToc(mutate(toc, random), 1000));
  }
});
