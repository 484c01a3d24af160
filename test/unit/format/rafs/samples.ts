import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { keyOfBytes } from "../../../../src/base/bytes.ts";
import type { Compressor } from "../../../../src/format/codec/codecs.ts";
import type { ErofsReader } from "../../../../src/format/erofs/reader.ts";
import { blobMetaFileOf, blobMetaRange } from "../../../../src/format/rafs/blob-meta.ts";
import { type BlobRecord, needsBlobMeta } from "../../../../src/format/rafs/blob-table.ts";
import type { ChunkMap } from "../../../../src/format/rafs/chunk-map.ts";
import type { RafsImage } from "../../../../src/format/rafs/image.ts";
import { type ChunkRecord, makeNode, type TreeNode } from "../../../../src/format/tree/node.ts";
import { fullGolden, smallGolden } from "../../../kit/golden.ts";
import type { TreeEntry } from "../../../kit/tree.ts";

export const BLOCK = 4096;

/** One RAFS v6 variant of the golden sets: a directory with `merged.boot`, `layer1..3` and `blobs`. */
export interface Variant {
  readonly name: string;
  readonly dir: string;
  /** The `tree.jsonl` that it shows. */
  readonly tree: string;
}

/** Every RAFS v6 variant of the carried set, and of the full one where it is. */
export function variants(): Variant[] {
  const sets = [
    { prefix: "small", dir: smallGolden() },
    ...(fullGolden() === undefined ? [] : [{ prefix: "full", dir: fullGolden() as string }]),
  ];
  return sets.flatMap(({ prefix, dir }) =>
    readdirSync(join(dir, "rafs"))
      .filter((name) => name.startsWith("v6-"))
      .sort()
      .map((name) => ({ name: `${prefix} ${name}`, dir: join(dir, "rafs", name), tree: join(dir, "tree.jsonl") })),
  );
}

/** Every bootstrap of a variant: the merged one and each layer's. */
export function bootstrapsOf(variant: Variant): { readonly name: string; readonly bytes: Uint8Array }[] {
  const layers = [1, 2, 3].map((n) => join(variant.dir, `layer${n}`)).filter((dir) => existsSync(dir));
  const files = [
    join(variant.dir, "merged.boot"),
    ...layers.flatMap((dir) => readdirSync(dir).map((id) => join(dir, id))),
  ];
  return files.map((path) => ({ name: path.slice(variant.dir.length + 1), bytes: new Uint8Array(readFileSync(path)) }));
}

/** An LZ4 block decoder as short as the format allows: an oracle, not a codec. */
function lz4Block(source: Uint8Array, sizeBytes: number): Uint8Array {
  const out = new Uint8Array(sizeBytes);
  let [at, to] = [0, 0];
  const more = (nibble: number): number => {
    let length = nibble;
    for (let byte = 255; nibble === 15 && byte === 255; length += byte) byte = source[at++] as number;
    return length;
  };
  while (at < source.length) {
    const token = source[at++] as number;
    const literals = more(token >> 4);
    out.set(source.subarray(at, at + literals), to);
    at += literals;
    to += literals;
    if (at >= source.length) break;
    const distance = (source[at] as number) | ((source[at + 1] as number) << 8);
    at += 2;
    const length = more(token & 15) + 4;
    for (let i = 0; i < length; i++, to++) out[to] = out[to - distance] as number;
  }
  if (to !== sizeBytes) throw new Error(`lz4 block of ${to} bytes, wanted ${sizeBytes}`);
  return out;
}

/** Decompression that owes nothing to the project. */
export function decompress(compressor: Compressor, data: Uint8Array, sizeBytes: number): Uint8Array {
  if (compressor === "none") return data;
  if (compressor === "lz4_block") return lz4Block(data, sizeBytes);
  if (compressor === "zstd") return Bun.zstdDecompressSync(data);
  throw new Error(`no decoder for ${compressor}`);
}

/** The chunk map of a blob, its meta taken from the blob's tail where needed. */
export function mapOf(image: RafsImage, index: number, blob: Uint8Array): ChunkMap {
  const info = image.blobs[index] as BlobRecord;
  if (!needsBlobMeta(info)) return image.chunkMap(index);
  const { start, end } = blobMetaRange(info);
  return image.chunkMap(index, blobMetaFileOf(info, blob.subarray(start, end), decompress));
}

/** The uncompressed devices of an image, every chunk's SHA-256 compared where that is the digest. */
export function devicesOf(image: RafsImage, blobDir: string): Uint8Array[] {
  return image.blobs.map((info) => {
    const blob = readFileSync(join(blobDir, info.id));
    const map = mapOf(image, info.index, blob);
    const device = new Uint8Array(Math.ceil(info.deviceBytes / BLOCK) * BLOCK);
    for (let i = 0; i < map.count; i++) {
      const stored = blob.subarray(map.blobOffset(i), map.blobOffset(i) + map.blobSizeBytes(i));
      const unit = decompress(map.compressor(i), stored, map.unitBytes(i));
      if (unit.length !== map.unitBytes(i)) throw new Error(`unit of chunk ${i} has ${unit.length} bytes`);
      const chunk = unit.subarray(map.offsetInUnit(i), map.offsetInUnit(i) + map.sizeBytes(i));
      if (map.digester === "sha256") expectDigest(chunk, map.digest(i) as Uint8Array);
      device.set(chunk, map.deviceOffset(i));
    }
    return device;
  });
}

function expectDigest(chunk: Uint8Array, digest: Uint8Array): void {
  const found = createHash("sha256").update(chunk).digest("hex");
  if (found !== Buffer.from(digest).toString("hex")) throw new Error(`digest ${found}`);
}

/** Bytes as tree.py prints them: UTF-8, and what is none as lone surrogates in Python's escapes. */
export function pythonText(bytes: Uint8Array): string {
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  let text = "";
  for (let at = 0; at < bytes.length; ) {
    const length = [1, 2, 3, 4].find((size) => {
      try {
        return at + size <= bytes.length && decoder.decode(bytes.subarray(at, at + size)).length > 0;
      } catch {
        return false;
      }
    });
    text +=
      length === undefined
        ? `\\udc${(bytes[at] as number).toString(16)}`
        : decoder.decode(bytes.subarray(at, at + length));
    at += length ?? 1;
  }
  return text;
}

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");
const octal = (mode: number): string => mode.toString(8).padStart(4, "0");

/** What tree.py would print of an image, by the reader alone; file contents from the image and from `devices`. */
export function entriesOfImage(erofs: ErofsReader, devices: readonly Uint8Array[]): TreeEntry[] {
  const entries: TreeEntry[] = [];
  const visit = (nid: number, path: string): void => {
    entries.push(entryOf(erofs, { nid, path }, devices));
    if (erofs.inode(nid).type !== "dir") return;
    for (const child of erofs.readdir(nid)) {
      const name = keyOfBytes(child.name);
      if (name !== "." && name !== "..") visit(child.nid, `${path}/${pythonText(child.name)}`);
    }
  };
  visit(erofs.rootNid, "");
  return entries;
}

function entryOf(erofs: ErofsReader, at: { nid: number; path: string }, devices: readonly Uint8Array[]): TreeEntry {
  const inode = erofs.inode(at.nid);
  const xattrs = erofs.xattrs(at.nid).map(({ name, value }) => [keyOfBytes(name), hex(value)] as const);
  const isDevice = inode.type === "char" || inode.type === "block";
  return {
    path: at.path || "/",
    type: inode.type,
    mode: octal(inode.mode),
    uid: inode.uid,
    gid: inode.gid,
    mtime: (BigInt(inode.mtimeSec) * 1_000_000_000n + BigInt(inode.mtimeNsec)).toString(),
    ...(inode.type === "file"
      ? { size: inode.sizeBytes, nlink: inode.nlink, sha256: contentSha256(erofs, at.nid, devices) }
      : {}),
    ...(inode.type === "symlink" ? { target: pythonText(erofs.readlink(at.nid)) } : {}),
    ...(isDevice ? { rdev: [inode.rdevMajor, inode.rdevMinor] } : {}),
    ...(xattrs.length > 0 ? { xattrs: Object.fromEntries(xattrs) } : {}),
  };
}

function contentSha256(erofs: ErofsReader, nid: number, devices: readonly Uint8Array[]): string {
  const hash = createHash("sha256");
  for (const extent of erofs.extents(nid, 0, Number.MAX_SAFE_INTEGER)) {
    if (extent.kind === "hole") {
      hash.update(new Uint8Array(extent.length));
      continue;
    }
    const source = extent.kind === "meta" ? erofs.bytes : (devices[extent.device - 1] as Uint8Array);
    const start = extent.kind === "meta" ? extent.offset : extent.deviceOffset;
    hash.update(source.subarray(start, start + extent.length));
  }
  return hash.digest("hex");
}

/** Numbers in [0, 1) that a seed decides (mulberry32). */
export function randomOf(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A blob row that hangs together, with chunks to be handed out in order. */
export class FakeBlob {
  readonly #position: number;
  readonly #chunkBytes: number;
  #count = 0;
  #deviceBytes = 0;

  constructor(position: number, chunkBytes: number) {
    this.#position = position;
    this.#chunkBytes = chunkBytes;
  }

  /** The next chunk; its digest counts up. */
  chunk(sizeBytes: number): ChunkRecord {
    const digest = new Uint8Array(32);
    new DataView(digest.buffer).setUint32(0, this.#count + 1);
    digest[31] = this.#position;
    const chunk = {
      blob: this.#position,
      index: this.#count++,
      digest,
      compressed: false,
      blobOffset: this.#deviceBytes,
      blobSizeBytes: sizeBytes,
      deviceOffset: this.#deviceBytes,
      sizeBytes,
    };
    this.#deviceBytes += Math.ceil(sizeBytes / BLOCK) * BLOCK;
    return chunk;
  }

  /** A file of new chunks. */
  file(sizeBytes: number, fields: Partial<TreeNode> = {}): TreeNode {
    const chunks: ChunkRecord[] = [];
    for (let at = 0; at < sizeBytes; at += this.#chunkBytes) {
      chunks.push(this.chunk(Math.min(this.#chunkBytes, sizeBytes - at)));
    }
    return makeNode("file", { sizeBytes, chunks, ...fields });
  }

  get record(): BlobRecord {
    return {
      id: this.#position.toString(16).padStart(2, "0").repeat(32),
      chunkBytes: this.#chunkBytes,
      chunkCount: this.#count,
      compressor: "none",
      digester: "sha256",
      features: 0x4000_0001,
      compressedBytes: this.#deviceBytes + 8192,
      deviceBytes: this.#deviceBytes,
      ciCompressor: "none",
      ciOffset: this.#deviceBytes,
      ciCompressedBytes: this.#count * 16,
      ciBytes: this.#count * 16,
      tocBytes: 0,
      tocDigest: new Uint8Array(32),
      metaBytes: 0,
      metaDigest: new Uint8Array(32),
    };
  }
}

export interface RandomTree {
  readonly root: TreeNode;
  readonly blobs: BlobRecord[];
  readonly chunkBytes: number;
}

const NODE_LIMIT = 1000;

/** A tree of every kind of inode, hard links, odd names and attributes, decided by the seed. */
export function randomTree(seed: number): RandomTree {
  const random = randomOf(seed);
  const below = (limit: number): number => Math.floor(random() * limit);
  const chunkBytes = BLOCK << below(3);
  const blobs = [0, 1, 2].map((position) => new FakeBlob(position, chunkBytes));
  const files: TreeNode[] = blobs.map((blob) => blob.file(1 + below(9000)));
  const bytes = (length: number): Uint8Array => Uint8Array.from({ length }, () => below(256));
  const name = (): string => {
    const length = random() < 0.05 ? 255 : 1 + below(12);
    const any = keyOfBytes(bytes(length)).replace(/[\0/]/g, "_");
    return any === "." || any === ".." ? "dots" : any;
  };
  const meta = (type: TreeNode["type"]): Partial<TreeNode> => ({
    mode: below(0o10000),
    uid: below(2 ** 17),
    gid: below(2 ** 32),
    mtimeSec: below(2 ** 35) - 2 ** 33,
    mtimeNsec: below(1_000_000_000),
    xattrs: new Map(
      Array.from({ length: random() < 0.2 ? below(4) : 0 }, (_, i) => [
        `${type === "file" || type === "dir" ? "user" : "trusted"}.k${i}${"x".repeat(below(30))}`,
        bytes(random() < 0.1 ? below(2000) : below(20)),
      ]),
    ),
  });
  const mixed = (): TreeNode => {
    const sizeBytes = below(6) * chunkBytes + below(chunkBytes);
    const chunks: ChunkRecord[] = [];
    for (let at = 0; at < sizeBytes; at += chunkBytes) {
      chunks.push((blobs[below(3)] as FakeBlob).chunk(Math.min(chunkBytes, sizeBytes - at)));
    }
    return makeNode("file", { sizeBytes, chunks });
  };
  const make: (() => TreeNode)[] = [
    () => (blobs[below(3)] as FakeBlob).file(below(60_000), meta("file")),
    () => ({ ...mixed(), ...meta("file") }),
    () =>
      makeNode("symlink", {
        target: bytes(1 + below(random() < 0.1 ? 4000 : 60)).map((byte) => byte | 1),
        ...meta("symlink"),
      }),
    () => makeNode("char", { rdevMajor: below(4096), rdevMinor: below(2 ** 20), ...meta("char") }),
    () => makeNode("block", { rdevMajor: below(4096), rdevMinor: below(2 ** 20), ...meta("block") }),
    () => makeNode(random() < 0.5 ? "fifo" : "socket", meta("fifo")),
    () => files[below(files.length)] as TreeNode,
  ];
  let nodes = 0;
  const directory = (depth: number): TreeNode => {
    const dir = makeNode("dir", meta("dir"));
    const count = random() < 0.1 ? 300 : below(20);
    for (let i = 0; i < count && nodes < NODE_LIMIT; i++, nodes++) {
      const node = depth > 0 && random() < 0.2 ? directory(depth - 1) : (make[below(make.length)] as () => TreeNode)();
      if (node.type === "file") files.push(node);
      dir.children.set(name(), node);
    }
    return dir;
  };
  const root = directory(4);
  files.slice(0, 3).forEach((file, i) => {
    root.children.set(`file${i}`, file);
  });
  return { root, blobs: blobs.map((blob) => blob.record), chunkBytes };
}

/** Each block of a device with bytes of its own. */
export function patternDevice(record: BlobRecord): Uint8Array {
  const device = new Uint8Array(Math.ceil(record.deviceBytes / BLOCK) * BLOCK);
  const view = new DataView(device.buffer);
  for (let at = 0; at < device.length; at += 8) {
    view.setUint32(at, at);
    view.setUint32(at + 4, Number.parseInt(record.id.slice(0, 4), 16) + 1);
  }
  return device;
}

/** What tree.py must print of a tree over such devices. */
export function entriesOfTree(root: TreeNode, devices: readonly Uint8Array[]): TreeEntry[] {
  const names = new Map<TreeNode, number>();
  const count = (dir: TreeNode): void => {
    for (const child of dir.children.values()) {
      names.set(child, (names.get(child) ?? 0) + 1);
      if (child.type === "dir") count(child);
    }
  };
  count(root);
  const entries: TreeEntry[] = [];
  const visit = (node: TreeNode, path: string): void => {
    const isDevice = node.type === "char" || node.type === "block";
    const xattrs = [...node.xattrs].map(([name, value]) => [name, hex(value)] as const);
    const hash = createHash("sha256");
    for (const chunk of node.chunks) {
      const device = devices[chunk.blob] as Uint8Array;
      hash.update(device.subarray(chunk.deviceOffset, chunk.deviceOffset + chunk.sizeBytes));
    }
    entries.push({
      path: path || "/",
      type: node.type,
      mode: octal(node.mode),
      uid: node.uid,
      gid: node.gid,
      mtime: (BigInt(node.mtimeSec) * 1_000_000_000n + BigInt(node.mtimeNsec)).toString(),
      ...(node.type === "file"
        ? { size: node.sizeBytes, nlink: names.get(node) ?? 1, sha256: hash.digest("hex") }
        : {}),
      ...(node.type === "symlink" ? { target: pythonText(node.target) } : {}),
      ...(isDevice ? { rdev: [node.rdevMajor, node.rdevMinor] } : {}),
      ...(xattrs.length > 0 ? { xattrs: Object.fromEntries(xattrs) } : {}),
    });
    for (const [name, child] of node.children) {
      visit(child, `${path}/${pythonText(Uint8Array.from(name, (c) => c.charCodeAt(0)))}`);
    }
  };
  visit(root, "");
  return entries;
}
