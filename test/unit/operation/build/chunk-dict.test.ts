import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { DIGEST_BYTES } from "../../../../src/format/codec/codecs.ts";
import { openRafs } from "../../../../src/format/rafs/image.ts";
import type { ChunkRecord } from "../../../../src/format/tree/node.ts";
import { ChunkDict, DictSink } from "../../../../src/operation/build/chunk-dict.ts";
import type { EncodedPieces } from "../../../../src/os/codec-pool.ts";
import { smallGolden } from "../../../kit/golden.ts";
import { Random } from "../../../kit/random.ts";

const SEED = 20261125;
const image = openRafs(new Uint8Array(readFileSync(join(smallGolden(), "rafs", "v6-zstd-blake3-64k", "merged.boot"))));
const dict = new ChunkDict(image, { chunkBytes: 65536, digester: "blake3" });

/** What the dictionary has: every row of its image's chunk maps. */
const known = image.blobs.flatMap(({ index }) => {
  const chunks = image.chunkMap(index);
  return Array.from({ length: chunks.count }, (_, i) => ({
    digest: chunks.digest(i) as Uint8Array,
    sizeBytes: chunks.sizeBytes(i),
  }));
});

/** Keeps what it is given, and numbers the records. */
function ownSink() {
  const taken: { digest: string; stored: string }[] = [];
  const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");
  return {
    taken,
    async append({ digests, stored, storedSizes }: EncodedPieces, sizes: Uint32Array): Promise<ChunkRecord[]> {
      let at = 0;
      return [...sizes].map((sizeBytes, i) => {
        const digest = digests.slice(i * DIGEST_BYTES, (i + 1) * DIGEST_BYTES);
        const storedBytes = storedSizes[i] as number;
        taken.push({ digest: hex(digest), stored: hex(stored.slice(at, at + storedBytes)) });
        at += storedBytes;
        const place = { blobOffset: 0, blobSizeBytes: storedBytes, deviceOffset: 0 };
        return { blob: 0, index: taken.length - 1, digest, compressed: false, ...place, sizeBytes };
      });
    },
  };
}

test("ChunkDict refuses chunks that are cut or digested otherwise", () => {
  expect(() => new ChunkDict(image, { chunkBytes: 4096, digester: "blake3" })).toThrow("65536 bytes by blake3, 4096");
  expect(() => new ChunkDict(image, { chunkBytes: 65536, digester: "sha256" })).toThrow("65536 by sha256 wanted");
});

describe("DictSink", () => {
  test("passes on exactly the pieces that the dictionary lacks, and keeps the order of the records", async () => {
    const random = new Random(SEED);
    for (let round = 0; round < 50; round++) {
      const own = ownSink();
      const pieces = Array.from({ length: random.below(20) }, (_, i) => {
        const isKnown = random.below(2) === 0;
        const chunk = known[random.below(known.length)] as (typeof known)[number];
        const digest = isKnown ? chunk.digest : Uint8Array.from({ length: DIGEST_BYTES }, () => random.below(256));
        const stored = new Uint8Array(1 + random.below(30)).fill(i);
        return { isKnown, digest, sizeBytes: isKnown ? chunk.sizeBytes : 100 + i, stored };
      });
      const encoded: EncodedPieces = {
        digests: Uint8Array.from(pieces.flatMap(({ digest }) => [...digest])),
        stored: Uint8Array.from(pieces.flatMap(({ stored }) => [...stored])),
        storedSizes: Uint32Array.from(pieces, ({ stored }) => stored.length),
        compressed: new Uint8Array(pieces.length),
      };
      const sizes = Uint32Array.from(pieces, ({ sizeBytes }) => sizeBytes);
      const records = await new DictSink(dict, own).append(encoded, sizes);
      const lacking = pieces.filter(({ isKnown }) => !isKnown);
      expect(own.taken).toEqual(
        lacking.map(({ digest, stored }) => ({
          digest: Buffer.from(digest).toString("hex"),
          stored: Buffer.from(stored).toString("hex"),
        })),
      );
      expect(records.map(({ digest, sizeBytes }) => [[...digest], sizeBytes])).toEqual(
        pieces.map(({ digest, sizeBytes }) => [[...digest], sizeBytes]),
      );
      expect(records.map(({ blob }) => blob > 0)).toEqual(pieces.map(({ isKnown }) => isKnown));
    }
  });

  test("takes a chunk of another length for another chunk", async () => {
    const own = ownSink();
    const [{ digest, sizeBytes }] = known as [(typeof known)[number]];
    const encoded = {
      digests: digest.slice(),
      stored: Uint8Array.of(1),
      storedSizes: Uint32Array.of(1),
      compressed: Uint8Array.of(0),
    };
    const [record] = await new DictSink(dict, own).append(encoded, Uint32Array.of(sizeBytes - 1));
    expect([own.taken.length, record?.blob]).toEqual([1, 0]);
  });
});
