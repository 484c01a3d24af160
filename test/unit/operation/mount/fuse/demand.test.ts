import { afterEach, beforeEach, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { NydusError } from "../../../../../src/base/errors.ts";
import { ChunkIndex, NULL_BLKADDR } from "../../../../../src/format/erofs/device.ts";
import { chunkBytesOf, chunkIndexOffset } from "../../../../../src/format/erofs/extent.ts";
import { openRafs, type RafsImage } from "../../../../../src/format/rafs/image.ts";
import { buildChunkTable } from "../../../../../src/operation/mount/chunk-table.ts";
import { DemandReader } from "../../../../../src/operation/mount/fuse/demand.ts";
import { FileData, type ReadRequest } from "../../../../../src/operation/mount/fuse/file-data.ts";
import { ImageFs } from "../../../../../src/operation/mount/fuse/image-fs.ts";
import { smallGolden } from "../../../../kit/golden.ts";
import { decodeBlob, RawDevice } from "../../../../kit/raw-device.ts";
import { readTree } from "../../../../kit/tree.ts";

const golden = smallGolden();
const dir = join(golden, "rafs", "v6-zstd-blake3-64k");

let devices: RawDevice[] = [];
let fs: ImageFs;
let files: FileData;

function nodeidOf(path: string): number {
  return path
    .split("/")
    .slice(1)
    .reduce((nodeid, name) => {
      const inode = fs.lookup(nodeid, new TextEncoder().encode(name));
      if (inode === undefined) throw new Error(`no ${path}`);
      return fs.nodeidOf(inode.nid);
    }, 1);
}

function openDevices(rafs: RafsImage): RawDevice[] {
  return rafs.blobs.map((blob, i) => {
    const chunks = rafs.chunkMap(i);
    return new RawDevice(decodeBlob(readFileSync(join(dir, "blobs", blob.id)), chunks, blob.deviceBytes), chunks);
  });
}

/** The path of a file of several chunks whose bytes lie in devices. */
function largeFile(): { path: string; size: number; sha256: string } {
  const files = readTree(join(golden, "tree.jsonl")).filter(
    ({ path, type }) => type === "file" && /^[\x21-\x7e]+$/.test(path),
  );
  const largest = files.toSorted((a, b) => (b.size ?? 0) - (a.size ?? 0))[0];
  if (largest?.size === undefined || largest.sha256 === undefined) throw new Error("no file");
  return { path: largest.path, size: largest.size, sha256: largest.sha256 };
}

/** Opens the image and its devices. @param bootstrap its bytes, which a test may have changed */
function open(bootstrap: Uint8Array): void {
  const rafs = openRafs(bootstrap);
  if (devices.length === 0) devices = openDevices(rafs);
  fs = new ImageFs(rafs.erofs);
  files = new FileData(
    fs,
    devices.map(({ fd, ready, chunks }) => ({ fd, ready, chunks: buildChunkTable(chunks) })),
  );
}

beforeEach(() => open(readFileSync(join(dir, "merged.boot"))));
afterEach(() => {
  for (const device of devices.splice(0)) device[Symbol.dispose]();
});

async function codeOf(work: Promise<unknown>): Promise<string> {
  try {
    await work;
    return "none";
  } catch (error) {
    if (error instanceof NydusError) return error.code;
    throw error;
  }
}

test("a read fetches what is missing, at any offset, and is clipped at the file's end", async () => {
  const { path, size, sha256 } = largeFile();
  const demand = new DemandReader(files, devices, 5000);
  const nodeid = nodeidOf(path);
  const whole = new Uint8Array(size);
  for (const [offset, sizeBytes] of [
    [size - 10, 4096],
    [65530, 12],
    [0, size + 1000],
  ] as const) {
    const target = new Uint8Array(sizeBytes + 5);
    const length = await demand.read({ nodeid, offset, sizeBytes }, target, 5);
    expect(length).toBe(Math.min(sizeBytes, size - offset));
    whole.set(target.subarray(5, 5 + length), offset);
    expect(files.readReady({ nodeid, offset, sizeBytes }, target, 0)).toBe(length);
  }
  expect(new Bun.CryptoHasher("sha256").update(whole).digest("hex")).toBe(sha256);
  expect(await demand.read({ nodeid, offset: size, sizeBytes: 10 }, new Uint8Array(10), 0)).toBe(0);
  expect(await demand.read({ nodeid, offset: size + 1e9, sizeBytes: 10 }, new Uint8Array(10), 0)).toBe(0);
});

test("a hole reads as zeros, whatever was in the buffer before", async () => {
  const { path, size } = largeFile();
  const nodeid = nodeidOf(path);
  const image = new Uint8Array(readFileSync(join(dir, "merged.boot")));
  // The whole file is one EROFS chunk here: its RAFS chunks follow one another on the device.
  expect(chunkBytesOf(fs.inode(nodeid))).toBeGreaterThan(size);
  const at = chunkIndexOffset(fs.inode(nodeid));
  new DataView(image.buffer).setUint32(at + ChunkIndex.at.startblkLo, NULL_BLKADDR, true);
  open(image);
  const target = new Uint8Array(size + 20).fill(7);
  const read = new DemandReader(files, devices, 5000).read({ nodeid, offset: 0, sizeBytes: size }, target, 10);
  expect(await read).toBe(size);
  expect(target.subarray(10, 10 + size).every((byte) => byte === 0)).toBe(true);
  expect([target[9], target[10 + size]]).toEqual([7, 7]);
});

test("a device that never answers ends the read at its deadline, and those in line behind it too", async () => {
  for (const device of devices) device.before = () => new Promise(() => undefined);
  const demand = new DemandReader(files, devices, 200);
  const request: ReadRequest = { nodeid: nodeidOf(largeFile().path), offset: 0, sizeBytes: 10 };
  const reads = Array.from({ length: 200 }, () => codeOf(demand.read(request, new Uint8Array(10), 0)));
  expect(new Set(await Promise.all(reads))).toEqual(new Set(["ETIMEDOUT"]));
});

test("at most 64 reads ask a device at once, the others after them", async () => {
  let atOnce = 0;
  let most = 0;
  for (const device of devices) {
    device.before = async () => {
      most = Math.max(most, ++atOnce);
      await Bun.sleep(1);
      atOnce--;
      throw new NydusError("EIO", "Cannot fetch: broken on purpose");
    };
  }
  const demand = new DemandReader(files, devices, 20_000);
  const request: ReadRequest = { nodeid: nodeidOf(largeFile().path), offset: 0, sizeBytes: 10 };
  const reads = Array.from({ length: 200 }, () => codeOf(demand.read(request, new Uint8Array(10), 0)));
  expect(new Set(await Promise.all(reads))).toEqual(new Set(["EIO"]));
  expect(most).toBe(64);
});

test("end() aborts the reads under way", async () => {
  for (const device of devices) device.before = () => new Promise(() => undefined);
  const demand = new DemandReader(files, devices, 20_000);
  const request: ReadRequest = { nodeid: nodeidOf(largeFile().path), offset: 0, sizeBytes: 10 };
  const read = codeOf(demand.read(request, new Uint8Array(10), 0));
  await Bun.sleep(1);
  demand.end();
  expect(await read).toBe("ECANCELED");
});

test("a device that says ready and is not is an error, never zeros", async () => {
  const liar = devices.map((device) => ({ ...device, chunks: device.chunks, ensure: async () => undefined }));
  const demand = new DemandReader(files, liar, 5000);
  const request: ReadRequest = { nodeid: nodeidOf(largeFile().path), offset: 0, sizeBytes: 10 };
  expect(await codeOf(demand.read(request, new Uint8Array(10), 0))).toBe("EFAULT");
});
