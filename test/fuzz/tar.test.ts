import { expect, test } from "bun:test";
import { join } from "node:path";
import { concatBytes } from "../../src/base/bytes.ts";
import { NydusError } from "../../src/base/errors.ts";
import { UstarHeader } from "../../src/format/tar/header.ts";
import { readTar } from "../../src/format/tar/reader.ts";
import { LayerTree } from "../../src/format/tree/build.ts";
import type { TreeNode } from "../../src/format/tree/node.ts";
import { mergeLayers } from "../../src/format/tree/overlay.ts";
import { smallGolden } from "../kit/golden.ts";
import { makeLayerStack } from "../kit/layer-stack.ts";
import { streamOf } from "../kit/overlay-oracle.ts";
import { mutate, Random } from "../kit/random.ts";
import { header, padded, patched, pax, utf8 } from "../kit/tar-bytes.ts";

const ROUNDS = 6000;
/** Bytes of content read of an entry: a mutated size may ask for petabytes of zeros. */
const CONTENT_CAP = 1 << 20;

async function readLayer(bytes: Uint8Array, pieceBytes: number): Promise<TreeNode> {
  const tree = new LayerTree();
  for await (const entry of readTar(streamOf(bytes, pieceBytes))) {
    let read = 0;
    for await (const piece of entry.content) {
      read += piece.length;
      if (read > CONTENT_CAP) break;
    }
    if (read <= CONTENT_CAP) expect(read).toBe(entry.sizeBytes);
    tree.add(entry);
  }
  return tree.root;
}

/** Mends the checksums of all headers that still stand where they stood, so that faults reach what they guard. */
function withChecksums(bytes: Uint8Array): Uint8Array {
  const mended = bytes.slice();
  for (let at = 0; at + 512 <= mended.length; at += 512) {
    const magic = at + UstarHeader.at.magic;
    if (mended[magic] === 0x75 && mended[magic + 4] === 0x72) {
      mended.set(patched(mended.subarray(at, at + 512), UstarHeader.at.magic, mended.slice(magic, magic + 1)), at);
    }
  }
  return mended;
}

async function corpus(): Promise<Uint8Array[]> {
  const extras = new Uint8Array(await Bun.file(join(smallGolden(), "extras.tar")).arrayBuffer());
  const stacks = await Promise.all([1, 2, 3, 4].map(makeLayerStack));
  const sparse = concatBytes([
    pax({ "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "20", "GNU.sparse.name": "n" }),
    header({ size: 520 }),
    padded(utf8("2\n2\n4\n10\n4\n")),
    padded(utf8("AAAABBBB")),
    pax({ "GNU.sparse.size": "20", "GNU.sparse.map": "2,4,10,4", mtime: "-1.5", uid: "70000", path: "a/b" }),
    header({ size: 8 }),
    padded(utf8("AAAABBBB")),
    new Uint8Array(1024),
  ]);
  return [extras, sparse, ...stacks.flatMap(({ layers }) => layers)];
}

test("mutated archives are read, or refused on purpose", async () => {
  const seeds = await corpus();
  const lower = await readLayer(seeds[0] as Uint8Array, 4096);
  let refused = 0;
  for (let seed = 1; seed <= ROUNDS; seed++) {
    const random = new Random(seed);
    const mutated = mutate(random.pick(seeds), random);
    const bytes = random.chance(0.8) ? withChecksums(mutated) : mutated;
    try {
      mergeLayers([lower, await readLayer(bytes, random.pick([512, 1000, 1 << 20]))]);
    } catch (error) {
      if (!(error instanceof NydusError) || error.code === "EFAULT") {
        throw new Error(`seed ${seed}`, { cause: error });
      }
      refused++;
    }
  }
  expect(refused).toBeGreaterThan(ROUNDS / 10);
  expect(refused).toBeLessThan(ROUNDS);
}, 60_000);
