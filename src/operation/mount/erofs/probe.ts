import { createHash, randomBytes } from "node:crypto";
import { closeSync, mkdirSync, mkdtempSync, openSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { withDeadline } from "../../../base/async.ts";
import { BLOCK_BYTES, equalBytes } from "../../../base/bytes.ts";
import { asNydusError, formatError, NydusError } from "../../../base/errors.ts";
import { BLOB_FEATURES, type BlobRecord } from "../../../format/rafs/blob-table.ts";
import { openRafs } from "../../../format/rafs/image.ts";
import { encodeBootstrap } from "../../../format/rafs/writer.ts";
import { makeNode } from "../../../format/tree/node.ts";
import { mapFile } from "../../../os/mmap.ts";
import type { MountDevice, MountHost } from "../engine.ts";

/** What {@link probeErofs} has found, one line. */
export interface ErofsProbe {
  readonly works: boolean;
  readonly why: string;
}

const PROBE_TIMEOUT_MS = 5_000;
const FILE_NAME = "file";

/**
 * Tries the EROFS engine: mounts an image of one block in the state directory, where caches lie, and reads it. Nothing
 * of it stays.
 * @param host of that engine @param root directory of all state
 */
export async function probeErofs(host: MountHost, root: string): Promise<ErofsProbe> {
  try {
    mkdirSync(root, { recursive: true, mode: 0o700 });
    const dir = mkdtempSync(join(root, ".erofs-probe-"));
    try {
      await withDeadline(PROBE_TIMEOUT_MS, "try EROFS", () => mountAndRead(host, dir));
    } finally {
      rmSync(dir, { recursive: true, force: true });
    }
    return { works: true, why: "the kernel's EROFS driver asks before it reads what is not there" };
  } catch (error) {
    return { works: false, why: formatError(asNydusError(error)) };
  }
}

async function mountAndRead(host: MountHost, dir: string): Promise<void> {
  const content = new Uint8Array(randomBytes(BLOCK_BYTES));
  const image = encodeProbe(content);
  const [bootstrapPath, mountpoint] = [join(dir, "image.boot"), join(dir, "mnt")];
  writeFileSync(bootstrapPath, image);
  mkdirSync(mountpoint);
  using bootstrap = mapFile(bootstrapPath);
  const fd = openSync(join(dir, "data"), "w+");
  try {
    writeSync(fd, new Uint8Array(BLOCK_BYTES));
    const device = new ProbeDevice(fd, content, openRafs(bootstrap.bytes).chunkMap(0));
    const session = await host.mount({ mountpoint, bootstrap, devices: [device], readTimeoutMs: PROBE_TIMEOUT_MS });
    try {
      const read = await readFile(join(mountpoint, FILE_NAME));
      if (device.wasAsked && equalBytes(read, content)) return;
      throw new NydusError("ENOTSUP", "Cannot use EROFS: the kernel reads without asking");
    } finally {
      await session[Symbol.asyncDispose]();
    }
  } finally {
    closeSync(fd);
  }
}

/** One block that is there once it was asked for. */
class ProbeDevice implements MountDevice {
  readonly chunks: MountDevice["chunks"];
  readonly fd: number;
  readonly ready = new Uint8Array(new SharedArrayBuffer(1));
  wasAsked = false;
  readonly #content: Uint8Array;

  constructor(fd: number, content: Uint8Array, chunks: MountDevice["chunks"]) {
    this.chunks = chunks;
    this.fd = fd;
    this.#content = content;
  }

  async ensure(): Promise<void> {
    this.wasAsked = true;
    writeSync(this.fd, this.#content, 0, BLOCK_BYTES, 0);
    Atomics.store(this.ready, 0, 1);
  }
}

function encodeProbe(content: Uint8Array): Uint8Array {
  const digest = createHash("sha256").update(content).digest();
  const root = makeNode("dir");
  const place = { blob: 0, index: 0, blobOffset: 0, deviceOffset: 0, sizeBytes: BLOCK_BYTES };
  const chunk = { ...place, digest, compressed: false, blobSizeBytes: BLOCK_BYTES };
  root.children.set(FILE_NAME, makeNode("file", { mode: 0o400, sizeBytes: BLOCK_BYTES, chunks: [chunk] }));
  const blob: BlobRecord = {
    ...{ id: digest.toString("hex"), chunkBytes: BLOCK_BYTES, chunkCount: 1, compressor: "none", digester: "sha256" },
    ...{ features: BLOB_FEATURES.aligned, compressedBytes: BLOCK_BYTES, deviceBytes: BLOCK_BYTES },
    ...{ ciCompressor: "none", ciOffset: 0, ciCompressedBytes: 0, ciBytes: 0, tocBytes: 0 },
    ...{ tocDigest: new Uint8Array(32), metaBytes: 0, metaDigest: new Uint8Array(32) },
  };
  return encodeBootstrap({
    root,
    blobs: [blob],
    chunkBytes: BLOCK_BYTES,
    compressor: "none",
    digester: "sha256",
  });
}
