import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { NydusError } from "../../../../src/base/errors.ts";
import type { BlobCache } from "../../../../src/content/cache/blob-cache.ts";
import { type OpenedImage, openBootstrap, openDeviceCaches } from "../../../../src/operation/image/open.ts";
import { Prefetch, readPathList } from "../../../../src/operation/image/prefetch.ts";
import { resolvePath, walkImage } from "../../../../src/operation/image/walk.ts";
import { openCodecPool } from "../../../../src/os/codec-threads.ts";
import { readyChunks } from "../../../kit/cache-lab.ts";
import { smallGolden } from "../../../kit/golden.ts";

const RAFS = join(smallGolden(), "rafs", "v6-zstd-blake3-64k");
const pool = openCodecPool({ threads: 2 });

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), "nydus-prefetch-"));
});
afterAll(async () => {
  rmSync(dir, { recursive: true, force: true });
  await pool[Symbol.asyncDispose]();
});

async function withImage(work: (image: OpenedImage, caches: BlobCache[]) => Promise<void>): Promise<void> {
  const root = mkdtempSync(join(dir, "root-"));
  await using image = await openBootstrap(join(RAFS, "merged.boot"), { blobDir: join(RAFS, "blobs") });
  const caches = await openDeviceCaches(image, { root, pool });
  try {
    await work(image, caches);
  } finally {
    for (const cache of caches) await cache.close();
  }
}

function readyBytes(caches: readonly BlobCache[]): number {
  return caches.reduce(
    (sum, cache) => sum + readyChunks(cache).reduce((all, i) => all + cache.chunks.sizeBytes(i), 0),
    0,
  );
}

/** Paths of all files with data on a device. */
function pathsOfFiles(image: OpenedImage): string[] {
  return [...walkImage(image.rafs.erofs)]
    .filter(
      ({ inode }) =>
        inode.type === "file" &&
        [...image.rafs.erofs.extents(inode.nid, 0, 2 ** 40)].some(({ kind }) => kind === "device"),
    )
    .map(({ path }) => new TextDecoder().decode(path));
}

function listOf(name: string, lines: readonly string[]): string {
  writeFileSync(join(dir, name), lines.map((line) => `${line}\n`).join(""));
  return join(dir, name);
}

test("all brings every chunk that the bootstrap knows, and nothing that it cannot verify", async () => {
  await withImage(async (image, caches) => {
    await using prefetch = await Prefetch.start({ image, caches, choice: "all" });
    await prefetch.done;
    expect(prefetch.stats.isDone).toBe(true);
    expect(prefetch.stats.doneBytes).toBe(prefetch.stats.askedBytes);
    for (const cache of caches) {
      expect(readyChunks(cache).length).toBe(cache.chunks.count);
      const device = Buffer.alloc(cache.sizeBytes);
      readSync(cache.fd, device, 0, device.length, 0);
      for (let i = 0; i < cache.chunks.count; i++) {
        device.fill(0, cache.chunks.deviceOffset(i), cache.chunks.deviceOffset(i) + cache.chunks.sizeBytes(i));
      }
      expect(device.equals(Buffer.alloc(device.length))).toBe(true); // nothing between the chunks
    }
    // The blobs hold more chunks than this bootstrap has digests of: that was put to the test.
    const held = image.rafs.blobs.reduce((sum, { chunkCount }) => sum + chunkCount, 0);
    expect(held).toBeGreaterThan(caches.reduce((sum, { chunks }) => sum + chunks.count, 0));
  });
});

test("none brings nothing, and an image without a prefetch table asks for nothing", async () => {
  await withImage(async (image, caches) => {
    for (const choice of ["none", "image"] as const) {
      await using prefetch = await Prefetch.start({ image, caches, choice });
      await prefetch.done;
      expect(readyBytes(caches)).toBe(0);
    }
  });
});

test("the image's own table names files and directories", async () => {
  await withImage(async (image, caches) => {
    const [path = ""] = pathsOfFiles(image);
    const { nid } = resolvePath(image.rafs.erofs, new TextEncoder().encode(path), { followLast: true });
    const told: NydusError[] = [];
    const rafs = { ...image.rafs, prefetch: [nid, 7_777_777] };
    await using prefetch = await Prefetch.start({
      ...{ image: { ...image, rafs }, caches, choice: "image" },
      onError: (error) => told.push(error),
    });
    await prefetch.done;
    expect(prefetch.stats.doneBytes).toBe(image.rafs.erofs.inode(nid).sizeBytes);
    expect(told.map(({ code }) => code)).toEqual(["EUCLEAN"]); // the other one is no inode
    await using whole = await Prefetch.start({
      ...{
        image: { ...image, rafs: { ...image.rafs, prefetch: [image.rafs.erofs.rootNid] } },
        caches,
        choice: "image",
      },
    });
    await whole.done;
    for (const cache of caches) expect(readyChunks(cache).length).toBe(cache.chunks.count);
  });
});

test("a list names paths; what the image does not have is told and passed over", async () => {
  await withImage(async (image, caches) => {
    const [first = "", second = ""] = pathsOfFiles(image);
    const listPath = listOf("list", ["# wanted", "", `/${first}`, "no/such/path", second]);
    const told: NydusError[] = [];
    await using prefetch = await Prefetch.start({
      ...{ image, caches, choice: { listPath } },
      onError: (error) => told.push(error),
    });
    await prefetch.done;
    expect(told.map(({ code }) => code)).toEqual(["ENOENT"]);
    for (const path of [first, second]) {
      const { nid } = resolvePath(image.rafs.erofs, new TextEncoder().encode(path), { followLast: true });
      for (const extent of image.rafs.erofs.extents(nid, 0, 2 ** 40)) {
        if (extent.kind !== "device") continue;
        const range = { start: extent.deviceOffset, end: extent.deviceOffset + extent.length };
        expect(caches[extent.device - 1]?.isReady(range)).toBe(true);
      }
    }
    expect(readyBytes(caches)).toBeLessThan(caches.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0) / 2);
  });
});

test("lists are of raw bytes, with either end of line; one that is not there is an error at once", async () => {
  writeFileSync(join(dir, "raw"), Buffer.from([0x2f, 0xff, 0x0d, 0x0a, 0x0a, 0x61]));
  expect((await readPathList(join(dir, "raw"))).map((line) => [...line])).toEqual([[0x2f, 0xff], [0x61]]);
  await withImage(async (image, caches) => {
    const error = await Prefetch.start({ image, caches, choice: { listPath: "/no/list" } }).catch((thrown) => thrown);
    expect(error).toBeInstanceOf(NydusError);
    expect(error).toMatchObject({ code: "ENOENT", at: { path: "/no/list" } });
  });
});

describe("a prefetch", () => {
  const devices = (sizeBytes: number) => ({ rafs: {}, devices: [{ sizeBytes }] }) as unknown as OpenedImage;

  test("ends when it is disposed, whatever the source does", async () => {
    let asked = 0;
    const ensure = (_range: unknown, { signal }: { signal?: AbortSignal } = {}): Promise<void> => {
      asked++;
      return new Promise((_, reject) => signal?.addEventListener("abort", () => reject(signal.reason)));
    };
    const told: NydusError[] = [];
    const options = { image: devices(1 << 30), caches: [{ ensure }], choice: "all" } as const;
    const prefetch = await Prefetch.start({ ...options, onError: (error) => told.push(error) });
    await Bun.sleep(5);
    expect(asked).toBe(2); // no more at once
    await prefetch[Symbol.asyncDispose]();
    expect([told, prefetch.stats.isDone, prefetch.stats.doneBytes]).toEqual([[], false, 0]);
  });

  test("leaves a source alone that fails again and again", async () => {
    let asked = 0;
    const ensure = async (): Promise<void> => {
      asked++;
      throw new NydusError("EIO", "Cannot read: the registry is gone");
    };
    const told: NydusError[] = [];
    const options = { image: devices(1 << 30), caches: [{ ensure }], choice: "all" } as const;
    const prefetch = await Prefetch.start({ ...options, onError: (error) => told.push(error) });
    await prefetch.done;
    expect(asked).toBeLessThan(12);
    expect(told.length).toBe(8);
    expect(told[0]?.message).toContain("the registry is gone");
    await prefetch[Symbol.asyncDispose]();
  });

  test("keeps to its rate", async () => {
    let asked = 0;
    const ensure = async (): Promise<void> => {
      asked++;
    };
    const options = { image: devices(1 << 30), caches: [{ ensure }], choice: "all", bytesPerSec: 1 } as const;
    const prefetch = await Prefetch.start(options);
    await Bun.sleep(50);
    expect(asked).toBe(1); // the rest would come in months
    await prefetch[Symbol.asyncDispose]();
    expect(asked).toBe(1);
  });
});
