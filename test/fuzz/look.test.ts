import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { NydusError } from "../../src/base/errors.ts";
import { openFileSource } from "../../src/content/store/file-source.ts";
import { openRafs } from "../../src/format/rafs/image.ts";
import { unpackToDirectory } from "../../src/operation/image/extract.ts";
import { inspectImage } from "../../src/operation/image/inspect.ts";
import { listPath } from "../../src/operation/image/list.ts";
import type { ReadableImage } from "../../src/operation/image/unit-batches.ts";
import { unpackToTar } from "../../src/operation/image/unpack.ts";
import type { CodecPool } from "../../src/os/codec-pool.ts";
import { openCodecPool } from "../../src/os/codec-threads.ts";
import { smallGolden } from "../kit/golden.ts";
import { Random } from "../kit/random.ts";

const SEED = 20261124;
const LOOKS = 400;
const UNPACKS = 20;
/** A mutated size may make an honest hole of any length: nobody waits for all of it. */
const OUTPUT_LIMIT = 32 << 20;
const RAFS = join(smallGolden(), "rafs", "v6-lz4-sha256-4k");
const BOOTSTRAP = new Uint8Array(readFileSync(join(RAFS, "merged.boot")));

let dir: string;
let pool: CodecPool;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), "nydus-look-fuzz-"));
  pool = openCodecPool({ threads: 2 });
});
afterAll(async () => {
  await pool[Symbol.asyncDispose]();
  rmSync(dir, { recursive: true, force: true });
});

/** Some bytes changed, mostly where inodes and directories are; now and then to the values at the edges. */
function mutate(random: Random): Uint8Array {
  const bytes = BOOTSTRAP.slice();
  for (let i = random.between(1, 12); i > 0; i--) {
    bytes[random.below(bytes.length)] = random.pick([0, 1, 0x2e, 0x2f, 0x7f, 0x80, 0xff, random.below(256)]);
  }
  return bytes;
}

async function openMutated(bytes: Uint8Array): Promise<ReadableImage & AsyncDisposable> {
  const rafs = openRafs(bytes);
  const parts = rafs.blobs.map(({ id, index }) => ({ id, chunks: rafs.chunkMap(index) }));
  const blobs: {
    digest: string;
    chunks: (typeof parts)[number]["chunks"];
    source: Awaited<ReturnType<typeof openFileSource>>;
  }[] = [];
  for (const { id, chunks } of parts) {
    blobs.push({ digest: `sha256:${id}`, chunks, source: await openFileSource(join(RAFS, "blobs", id)) });
  }
  return {
    rafs,
    blobs,
    [Symbol.asyncDispose]: async () => {
      for (const { source } of blobs) await source.close();
    },
  };
}

/** Runs `use` on an image; whatever is thrown must be a NydusError. @returns whether it went through */
async function survives(bytes: Uint8Array, use: (image: ReadableImage) => Promise<void>): Promise<boolean> {
  try {
    await using image = await openMutated(bytes);
    await use(image);
    return true;
  } catch (error) {
    if (error instanceof NydusError && error.code !== "EFAULT") return false;
    throw error;
  }
}

test(`looking at ${LOOKS} mutated bootstraps ends in a report or a NydusError (seed ${SEED})`, async () => {
  const random = new Random(SEED);
  let whole = 0;
  for (let i = 0; i < LOOKS; i++) {
    const survived = await survives(mutate(random), async (image) => {
      inspectImage(image);
      for (const _ of listPath(image.rafs.erofs, new Uint8Array(0), { recursive: true })) {
        // every entry is made; that is all
      }
    });
    if (survived) whole++;
  }
  expect(whole).toBeGreaterThan(0);
  expect(whole).toBeLessThan(LOOKS);
});

test(`unpacking ${UNPACKS} mutated bootstraps as a tar ends in a tar or a NydusError (seed ${SEED + 1})`, async () => {
  const random = new Random(SEED + 1);
  for (let i = 0; i < UNPACKS; i++) {
    await survives(mutate(random), async (image) => {
      let written = 0;
      for await (const bytes of unpackToTar(image, { pool })) {
        written += bytes.length;
        if (written > OUTPUT_LIMIT) break;
      }
    });
  }
});

test.skipIf(process.getuid?.() !== 0)(
  `unpacking ${UNPACKS} mutated bootstraps to a directory leaves all of it or nothing (seed ${SEED + 2})`,
  async () => {
    const random = new Random(SEED + 2);
    for (let i = 0; i < UNPACKS; i++) {
      const parent = join(dir, `${i}`);
      mkdirSync(parent);
      const survived = await survives(mutate(random), (image) =>
        unpackToDirectory(image, join(parent, "out"), { pool }),
      );
      expect(readdirSync(parent)).toEqual(survived ? ["out"] : []);
      expect(existsSync(join(parent, "out"))).toBe(survived);
      rmSync(parent, { recursive: true });
    }
  },
);
