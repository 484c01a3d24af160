import { keyOfBytes } from "../../base/bytes.ts";
import { toHex } from "../../base/digest.ts";
import { NydusError } from "../../base/errors.ts";
import type { Inode } from "../erofs/inode.ts";
import { RafsChunk } from "./chunk-table.ts";
import { openRafs, type RafsImage } from "./image.ts";

/** A damaged image may have a directory below itself: deeper is not followed. */
const DEPTH_LIMIT = 4096;

/**
 * A bootstrap as text, one line a thing, in the order of the tree: what goldens compare and people read.
 * Names are JSON strings of latin-1 keys.
 * @throws EUCLEAN, ENOTSUP as {@link openRafs} and its reader
 */
export function* dumpBootstrap(bytes: Uint8Array): Generator<string> {
  const image = openRafs(bytes);
  yield* dumpTables(image);
  yield* dumpTree(image);
  yield* dumpChunks(image);
}

function* dumpTables({ erofs, superblock, blobs, prefetch }: RafsImage): Generator<string> {
  const sb = erofs.superblock;
  const flags = `compat=0x${sb.featureCompat.toString(16)} incompat=0x${sb.featureIncompat.toString(16)}`;
  yield `superblock ${flags} root=${erofs.rootNid} inodes=${erofs.inodeCount} blocks=${sb.blocksLo} meta=${sb.metaBlkaddr}`;
  const { compressor, digester, chunkBytes } = superblock;
  yield `rafs flags=0x${superblock.flags.toString(16)} ${compressor} ${digester} chunk=${chunkBytes}`;
  for (const name of ["blobTable", "chunkTable", "prefetchTable"] as const) {
    const { offset, length } = superblock[name];
    yield `region ${name} ${offset}+${length}`;
  }
  for (const { slot, tag, blocks, uniaddr } of erofs.devices) {
    yield `device ${slot} ${tag} blocks=${blocks} uniaddr=${uniaddr}`;
  }
  for (const blob of blobs) {
    const ci = `ci=${blob.ciCompressor}@${blob.ciOffset}+${blob.ciCompressedBytes}/${blob.ciBytes}`;
    const sizes = `bytes=${blob.compressedBytes}/${blob.deviceBytes} chunks=${blob.chunkCount}`;
    yield `blob ${blob.index} ${blob.id} ${blob.compressor} ${blob.digester} features=0x${blob.features.toString(16)} ${sizes} ${ci}`;
  }
  if (prefetch.length > 0) yield `prefetch ${prefetch.join(" ")}`;
}

function* dumpTree(image: RafsImage): Generator<string> {
  const { erofs } = image;
  const stack: { readonly nid: number; readonly path: string; readonly depth: number }[] = [
    { nid: erofs.rootNid, path: "", depth: 0 },
  ];
  for (let next = stack.pop(); next !== undefined; next = stack.pop()) {
    const { nid, path, depth } = next;
    const inode = erofs.inode(nid);
    yield* dumpInode(image, inode, path);
    if (inode.type !== "dir") continue;
    if (depth > DEPTH_LIMIT) throw new NydusError("EUCLEAN", `Cannot dump: more than ${DEPTH_LIMIT} directories deep`);
    const children: typeof stack = [];
    for (const entry of erofs.readdir(nid)) {
      const name = keyOfBytes(entry.name);
      if (name !== "." && name !== "..") children.push({ nid: entry.nid, path: `${path}/${name}`, depth: depth + 1 });
    }
    stack.push(...children.reverse());
  }
}

function* dumpInode({ erofs }: RafsImage, inode: Inode, path: string): Generator<string> {
  const { type, mode, uid, gid, nlink, sizeBytes, mtimeSec, mtimeNsec } = inode;
  const time = `${mtimeSec}.${mtimeNsec.toString().padStart(9, "0")}`;
  const rdev = type === "char" || type === "block" ? ` rdev=${inode.rdevMajor}:${inode.rdevMinor}` : "";
  const target = type === "symlink" ? ` -> ${JSON.stringify(keyOfBytes(erofs.readlink(inode.nid)))}` : "";
  yield `${type} ${JSON.stringify(path || "/")} nid=${inode.nid} ino=${inode.ino} ${mode.toString(8).padStart(4, "0")} ${uid}:${gid} links=${nlink} size=${sizeBytes} ${time} layout=${inode.layout}${rdev}${target}`;
  for (const { name, value } of erofs.xattrs(inode.nid)) {
    yield `  xattr ${JSON.stringify(keyOfBytes(name))} ${toHex(value)}`;
  }
  if (type !== "file") return;
  for (const extent of erofs.extents(inode.nid, 0, sizeBytes)) {
    const where =
      extent.kind === "device"
        ? `device ${extent.device}@${extent.deviceOffset}`
        : extent.kind === "meta"
          ? `image@${extent.offset}`
          : "hole";
    yield `  extent ${extent.fileOffset}+${extent.length} ${where}`;
  }
}

function* dumpChunks({ bytes, superblock }: RafsImage): Generator<string> {
  const { offset, length } = superblock.chunkTable;
  for (let at = offset; at < offset + length; at += RafsChunk.sizeBytes) {
    const row = RafsChunk.read(bytes, at);
    const place = `device=${row.uncompressedOffset}+${row.uncompressedSize} blob=${row.compressedOffset}+${row.compressedSize}`;
    yield `chunk ${row.blobIndex}:${row.index} ${toHex(row.blockId)} flags=0x${row.flags.toString(16)} ${place} file=${row.fileOffset}`;
  }
}
