import { bytesOfKey, keyOfBytes } from "../../base/bytes.ts";
import { toHex } from "../../base/digest.ts";
import { NydusError } from "../../base/errors.ts";
import type { Inode } from "../../format/erofs/inode.ts";
import type { BlobInfo } from "../../format/rafs/blob-table.ts";
import type { RafsImage } from "../../format/rafs/image.ts";
import { readTree } from "../../format/rafs/read-tree.ts";
import type { ChunkRecord, NodeType, TreeNode } from "../../format/tree/node.ts";
import { printableBytes, printablePath, resolvePath, walkImage } from "../../operation/image/walk.ts";
import { featureNames } from "./blob-features.ts";

/** What a request gives: lines for people, and a value for programs. */
export interface InspectAnswer {
  readonly text: string;
  readonly value: unknown;
}

const HELP = `
    stats:              Counts, sizes and places of tables
    ls:                 Names in the current directory
    cd DIR:             Change the current directory
    stat FILE:          A file's attributes and chunks
    blobs:              The blob table
    prefetch:           What readers are to fetch first
    chunk OFFSET:       Chunks at an offset of a blob, and the files that have them
    icheck INODE:       The paths of an inode, and its attributes
    exit:               End
`;

const SIGNS: Partial<Record<NodeType, string>> = { file: "-", dir: "d", symlink: "l" };

/** Answers questions about a bootstrap; it knows the current directory. */
export class Inspector {
  readonly #image: RafsImage;
  /** Raw bytes, without a leading slash. */
  #directory: { readonly nid: number; readonly path: Uint8Array };

  constructor(image: RafsImage) {
    this.#image = image;
    this.#directory = { nid: image.erofs.rootNid, path: new Uint8Array(0) };
  }

  /** @throws EINVAL an unknown request: its message is the help; ENOENT, EUCLEAN */
  answer(request: string): InspectAnswer {
    const [name = "", ...rest] = request.trim().split(/\s+/);
    const argument = rest.join(" ");
    switch (name) {
      case "stats":
        return this.#stats();
      case "ls":
        return this.#ls();
      case "cd":
        return this.#cd(argument);
      case "stat":
        return this.#stat(argument);
      case "blobs":
        return this.#blobs();
      case "prefetch":
        return this.#prefetch();
      case "chunk":
        return this.#chunk(numberOf(argument));
      case "icheck":
        return this.#icheck(numberOf(argument));
      default:
        throw new NydusError("EINVAL", `Unsupported command: ${name}\n${HELP}`);
    }
  }

  #stats(): InspectAnswer {
    const { superblock, erofs, chunkBytes } = this.#image;
    const inodes = erofs.inodeCount;
    const rows = [
      ["Version:", "6"],
      ["Inodes Count:", `${inodes}`],
      ["Chunk Size:", `${chunkBytes / 1024}KB`],
      ["Root Inode:", `${erofs.rootNid}`],
      ["Flags:", `0x${superblock.flags.toString(16)}`],
      ["Blob table offset:", `0x${superblock.blobTable.offset.toString(16)}`],
      ["Blob table size:", `0x${superblock.blobTable.length.toString(16)}`],
      ["Prefetch table offset:", `0x${superblock.prefetchTable.offset.toString(16)}`],
      ["Prefetch table entries:", `0x${(superblock.prefetchTable.length / 4).toString(16)}`],
      ["Chunk table offset:", `0x${superblock.chunkTable.offset.toString(16)}`],
      ["Chunk table size:", `0x${superblock.chunkTable.length.toString(16)}`],
    ];
    return { text: `\n${table(rows)}`, value: { inodes_count: inodes } };
  }

  #ls(): InspectAnswer {
    const lines: string[] = [];
    for (const { depth, name, inode } of walkImage(this.#image.erofs, { from: this.#directory, maxDepth: 1 })) {
      if (depth === 0) continue;
      lines.push(`${SIGNS[inode.type] ?? " "}    ${String(inode.nid).padEnd(8)} "${printableBytes(name)}"\n`);
    }
    return { text: lines.join(""), value: null };
  }

  #cd(argument: string): InspectAnswer {
    const target = this.#resolve(argument);
    const { type } = this.#image.erofs.inode(target.nid);
    if (type !== "dir") return { text: `${argument} is not a directory\n`, value: null };
    this.#directory = target;
    return { text: "", value: null };
  }

  #resolve(argument: string): { readonly nid: number; readonly path: Uint8Array } {
    const below = argument.startsWith("/") ? "" : `${printablePath(this.#directory.path)}/`;
    return resolvePath(this.#image.erofs, new TextEncoder().encode(below + argument), { followLast: false });
  }

  #stat(argument: string): InspectAnswer {
    const { nid, path } = this.#resolve(argument);
    const inode = this.#image.erofs.inode(nid);
    const lines = chunksAt(this.#tree(), path).map((chunk, i) => `        ${i} ->\n${this.#describeChunk(chunk)}`);
    const list = inode.type === "file" ? `  Chunk list:\n${lines.join("")}` : "";
    return { text: describeInode(argument, inode) + list, value: null };
  }

  #blobs(): InspectAnswer {
    const { blobs } = this.#image;
    const value = blobs.map((blob) => ({
      blob_id: blob.id,
      compressed_size: blob.compressedBytes,
      decompressed_size: blob.deviceBytes,
      readahead_offset: 0,
      readahead_size: 0,
    }));
    return { text: blobs.map(describeBlob).join(""), value };
  }

  #prefetch(): InspectAnswer {
    const { prefetch } = this.#image;
    const paths = this.#pathsOf(new Set(prefetch));
    const value = prefetch.map((inode) => ({ inode, path: paths.get(inode) ?? [] }));
    const lines = value.map(
      ({ inode, path }) => `Inode Number:${String(inode).padStart(10)} | Path: "${path.join(" ")}"\n`,
    );
    return { text: `Total Prefetching Files: ${prefetch.length}\n${lines.join("")}`, value };
  }

  #chunk(offset: number): InspectAnswer {
    const found: string[] = [];
    for (const [path, node] of eachPath(this.#tree(), "")) {
      for (const chunk of node.chunks) {
        if (chunk.blobOffset !== offset) continue;
        found.push(`\nFile: ${printablePath(bytesOfKey(path))}\n${this.#describeChunk(chunk)}`);
      }
    }
    return { text: found.join(""), value: null };
  }

  #icheck(nid: number): InspectAnswer {
    const paths = this.#pathsOf(new Set([nid])).get(nid);
    if (paths === undefined) throw new NydusError("ENOENT", `Cannot find inode ${nid}: no path has it`);
    const inode = this.#image.erofs.inode(nid);
    return { text: paths.map((path) => `${path}\n${describeInode(path, inode)}`).join(""), value: null };
  }

  #pathsOf(nids: ReadonlySet<number>): Map<number, string[]> {
    const paths = new Map<number, string[]>();
    for (const { inode, path } of walkImage(this.#image.erofs)) {
      if (!nids.has(inode.nid)) continue;
      const known = paths.get(inode.nid) ?? [];
      paths.set(inode.nid, [...known, printablePath(path)]);
    }
    return paths;
  }

  #root: TreeNode | undefined;

  #tree(): TreeNode {
    this.#root ??= readTree(this.#image);
    return this.#root;
  }

  #describeChunk(chunk: ChunkRecord): string {
    const rows = [
      ["chunk index:", `${chunk.index}`],
      ["compressed offset:", `${chunk.blobOffset}`],
      ["compressed size:", `${chunk.blobSizeBytes}`],
      ["decompressed offset:", `${chunk.deviceOffset}`],
      ["decompressed size:", `${chunk.sizeBytes}`],
      ["blob id:", this.#image.blobs[chunk.blob]?.id ?? "none"],
      ["chunk id:", toHex(chunk.digest)],
    ];
    return table(rows, "        ");
  }
}

function* eachPath(node: TreeNode, path: string): Generator<[string, TreeNode]> {
  yield [path, node];
  for (const [name, child] of node.children) yield* eachPath(child, path === "" ? name : `${path}/${name}`);
}

/** Chunks of what lies at a path without symlinks in it. */
function chunksAt(root: TreeNode, path: Uint8Array): readonly ChunkRecord[] {
  let node: TreeNode | undefined = root;
  for (const name of path.length === 0 ? [] : keyOfBytes(path).split("/")) node = node?.children.get(name);
  return node?.chunks ?? [];
}

function table(rows: readonly (readonly string[])[], indent = "    "): string {
  return rows.map(([name = "", value]) => `${indent}${name.padEnd(23)} ${value}\n`).join("");
}

function numberOf(text: string): number {
  const value = /^(0x[0-9a-f]+|\d+)$/i.test(text) ? Number(text) : Number.NaN;
  if (Number.isSafeInteger(value)) return value;
  throw new NydusError("EINVAL", `Cannot use ${JSON.stringify(text)}: a whole number is wanted`);
}

function describeInode(name: string, inode: Inode): string {
  const { nid, sizeBytes, mode, nlink, uid, gid, mtimeSec, mtimeNsec, type } = inode;
  const rows = [
    ["Inode Number:", `${nid}`],
    ["Name:", JSON.stringify(name)],
    ["Type:", type],
    ["Size:", `${sizeBytes}`],
    ["Permissions:", mode.toString(8)],
    ["Nlink:", `${nlink}`],
    ["UID:", `${uid}`],
    ["GID:", `${gid}`],
    ["Mtime:", `${mtimeSec}`],
    ["MtimeNsec:", `${mtimeNsec}`],
  ];
  return `\n${table(rows, "")}`;
}

function describeBlob(blob: BlobInfo): string {
  const rows = [
    ["Blob Index:", `${blob.index}`],
    ["Blob ID:", blob.id],
    ["Blob Size:", `${blob.compressedBytes}`],
    ["Uncompressed Data Size:", `${blob.deviceBytes}`],
    ["Features:", featureNames(blob)],
    ["Compressor:", blob.compressor],
    ["Digester:", blob.digester],
    ["Chunk Size:", `0x${blob.chunkBytes.toString(16)}`],
    ["Chunk Count:", `${blob.chunkCount}`],
    ["Meta Compressor:", blob.ciCompressor],
    ["Meta Offset:", `${blob.ciOffset}`],
    ["Meta Compressed Size:", `${blob.ciCompressedBytes}`],
    ["Meta Uncompressed Size:", `${blob.ciBytes}`],
    ["ToC Digest:", toHex(blob.tocDigest)],
    ["ToC Size:", `${blob.tocBytes}`],
  ];
  return `\n${table(rows, "")}`;
}
