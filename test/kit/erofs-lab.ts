import { createHash } from "node:crypto";
import { closeSync, existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { alignUp, BLOCK_BYTES } from "../../src/base/bytes.ts";
import { BLOB_FEATURES, type BlobRecord } from "../../src/format/rafs/blob-table.ts";
import { openRafs } from "../../src/format/rafs/image.ts";
import { encodeBootstrap } from "../../src/format/rafs/writer.ts";
import { type ChunkRecord, makeNode, type TreeNode } from "../../src/format/tree/node.ts";
import { markFile, openFanotify, unmarkFile } from "../../src/os/fanotify.ts";
import { RawDevice } from "./raw-device.ts";
import { run } from "./shell.ts";

/** Whether this machine can mount by EROFS with marks: root, the file system, and a place that takes marks. */
export function canMountErofs(): boolean {
  if (process.getuid?.() !== 0 || !/\berofs$/m.test(readFileSync("/proc/filesystems", "utf8"))) return false;
  const dir = mkdtempSync(join(tmpdir(), "nydus-mark-"));
  const fd = openSync(join(dir, "file"), "w+");
  try {
    const group = openFanotify();
    try {
      markFile(group, fd);
      unmarkFile(group, fd);
      return true;
    } finally {
      closeSync(group.fd);
    }
  } catch {
    return false;
  } finally {
    closeSync(fd);
    rmSync(dir, { recursive: true });
  }
}

/** A RAFS image of made-up files, and its devices' bytes. */
export interface LabImage {
  readonly bootstrapPath: string;
  /** Of device slot i + 1. */
  readonly devices: readonly Uint8Array[];
  /** Bytes of a file by its name. */
  readonly files: ReadonlyMap<string, Uint8Array>;
  openDevices(): RawDevice[];
}

/** What {@link makeLabImage} makes. */
export interface LabShape {
  readonly blobs: number;
  readonly filesPerBlob: number;
  readonly fileBytes: number;
  readonly seed?: number;
  /** Leaves the files of this number out: two images know different chunks of the same blobs. */
  readonly without?: number;
}

export const LAB_CHUNK_BYTES = 65536;

function contentOf(seed: number, length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => (Math.imul(i + seed * 7919 + 1, 0x9e3779b1) >>> 24) | 1);
}

/** Makes an image of `blobs` blobs with some files each, named `b<blob>f<file>`; no byte of them is zero. */
export function makeLabImage(dir: string, shape: LabShape): LabImage {
  const { blobs, filesPerBlob, fileBytes, seed = 1, without = -1 } = shape;
  mkdirSync(dir, { recursive: true });
  const root = makeNode("dir");
  const step = alignUp(fileBytes, LAB_CHUNK_BYTES);
  const records: BlobRecord[] = [];
  const devices: Uint8Array[] = [];
  const files = new Map<string, Uint8Array>();
  for (let blob = 0; blob < blobs; blob++) {
    const device = new Uint8Array(filesPerBlob * step);
    let index = 0;
    for (let file = 0; file < filesPerBlob; file++) {
      const content = contentOf(seed + blob * filesPerBlob + file, fileBytes);
      device.set(content, file * step);
      if (file === without) continue;
      const chunks = chunksOf(content, { blob, start: file * step, index });
      index += chunks.length;
      root.children.set(`b${blob}f${file}`, fileNode(content, chunks));
      files.set(`b${blob}f${file}`, content);
    }
    devices.push(device);
    records.push(blobRecord(createHash("sha256").update(device).digest("hex"), index, device.length));
  }
  const bootstrapPath = join(dir, `image-${seed}-${without}.boot`);
  const image = { root, blobs: records, chunkBytes: LAB_CHUNK_BYTES, compressor: "none", digester: "sha256" } as const;
  writeFileSync(bootstrapPath, encodeBootstrap(image));
  const openDevices = (): RawDevice[] => {
    const rafs = openRafs(new Uint8Array(readFileSync(bootstrapPath)));
    return devices.map((bytes, i) => new RawDevice(bytes, rafs.chunkMap(i)));
  };
  return { bootstrapPath, devices, files, openDevices };
}

function fileNode(content: Uint8Array, chunks: ChunkRecord[]): TreeNode {
  return makeNode("file", { sizeBytes: content.length, chunks, xattrs: new Map(), children: new Map() });
}

function chunksOf(content: Uint8Array, at: { blob: number; start: number; index: number }): ChunkRecord[] {
  return Array.from({ length: Math.ceil(content.length / LAB_CHUNK_BYTES) }, (_, i) => {
    const bytes = content.subarray(i * LAB_CHUNK_BYTES, (i + 1) * LAB_CHUNK_BYTES);
    const offset = at.start + i * LAB_CHUNK_BYTES;
    return {
      blob: at.blob,
      index: at.index + i,
      digest: createHash("sha256").update(bytes).digest(),
      compressed: false,
      blobOffset: offset,
      blobSizeBytes: bytes.length,
      deviceOffset: offset,
      sizeBytes: bytes.length,
    };
  });
}

function blobRecord(id: string, chunkCount: number, deviceBytes: number): BlobRecord {
  return {
    id,
    chunkBytes: LAB_CHUNK_BYTES,
    chunkCount,
    compressor: "none",
    digester: "sha256",
    features: BLOB_FEATURES.aligned,
    compressedBytes: deviceBytes,
    deviceBytes: alignUp(deviceBytes, BLOCK_BYTES),
    ciCompressor: "none",
    ciOffset: 0,
    ciCompressedBytes: 0,
    ciBytes: 0,
    tocBytes: 0,
    tocDigest: new Uint8Array(32),
    metaBytes: 0,
    metaDigest: new Uint8Array(32),
  };
}

/** Lines of the kernel's log that tell of a bug. */
export async function kernelBugs(): Promise<string[]> {
  const { stdout } = await run("dmesg");
  return stdout.split("\n").filter((line) => /\bBUG\b|Oops|WARNING:/.test(line));
}

/** Whether there is such a process. */
export function isAlive(pid: number): boolean {
  return existsSync(`/proc/${pid}`);
}
