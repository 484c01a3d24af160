import { BLOCK_BYTES, compareBytes, keyOfBytes } from "../../base/bytes.ts";
import { NydusError } from "../../base/errors.ts";
import { ChunkIndex, DeviceSlot } from "../erofs/device.ts";
import { chunkBytesOf, chunkIndexOffset } from "../erofs/extent.ts";
import { type Inode, LAYOUT } from "../erofs/inode.ts";
import type { DirEntry } from "../erofs/reader.ts";
import { SUPER_OFFSET, SuperBlock } from "../erofs/superblock.ts";
import { RafsChunk } from "./chunk-table.ts";
import { openRafs, type RafsImage } from "./image.ts";
import { RegionMap } from "./region-map.ts";
import { DEVICE_TABLE_OFFSET, EXT_OFFSET, RafsSuperBlockExt } from "./superblock.ts";
import { TableRows } from "./table-map.ts";

/** After this many findings the rest is only counted out: a broken image would fill pages. */
const FINDING_LIMIT = 100;
const DEVICE_MASK = 0xff;

/** Something wrong in a bootstrap. */
export interface Finding {
  readonly message: string;
  /** Bytes from the start of the bootstrap. */
  readonly offset?: number;
  /** Latin-1 keys of the names, from the root. */
  readonly path?: string;
}

/** What a bootstrap holds. */
export interface BootstrapCounts {
  inodes: number;
  directories: number;
  files: number;
  symlinks: number;
  /** Devices, fifos, sockets. */
  specials: number;
  /** Names beyond the first of each inode. */
  extraLinks: number;
  xattrs: number;
  /** Rows of the chunk table, and those that no file references. */
  chunks: number;
  unreferencedChunks: number;
  /** Of all regular files, each inode once. */
  fileBytes: number;
}

/** The result of {@link checkBootstrap}. */
export interface BootstrapReport {
  /** Empty for a sound bootstrap; at most 100. */
  readonly findings: readonly Finding[];
  readonly counts: BootstrapCounts;
}

/**
 * Checks a RAFS v6 bootstrap whole: tables, every inode and directory, link counts, every chunk index against the
 * devices and the chunk table, that nothing overlaps and that what nobody owns is zero. Damage becomes findings.
 * @throws ENOTSUP what this program does not read
 */
export function checkBootstrap(bytes: Uint8Array): BootstrapReport {
  const checker = new Checker();
  const image = checker.attempt(undefined, () => openRafs(bytes));
  if (image !== undefined) checker.check(image);
  return { findings: checker.findings, counts: checker.counts };
}

interface Seen {
  readonly inode: Inode;
  names: number;
  /** Of a directory. */
  subdirectories: number;
  readonly path: string;
}

class Checker {
  readonly findings: Finding[] = [];
  readonly counts: BootstrapCounts = {
    inodes: 0,
    directories: 0,
    files: 0,
    symlinks: 0,
    specials: 0,
    extraLinks: 0,
    xattrs: 0,
    chunks: 0,
    unreferencedChunks: 0,
    fileBytes: 0,
  };
  readonly #regions = new RegionMap();
  readonly #seen = new Map<number, Seen>();
  /** By blob index: its rows, and which of them a file has referenced. */
  readonly #rows: { readonly rows: TableRows; readonly used: Uint8Array }[] = [];
  /** Bounds the walk: sound inodes do not overlap, so they cannot take more than the image. */
  #bytesLeft = 0;

  /** Runs `fn`; damage becomes a finding. */
  attempt<T>(path: string | undefined, fn: () => T): T | undefined {
    try {
      return fn();
    } catch (error) {
      if (!(error instanceof NydusError) || error.code === "ENOTSUP") throw error;
      this.#find(error.message, { ...(path === undefined ? {} : { path }), ...offsetOf(error) });
      return undefined;
    }
  }

  #find(message: string, at: Omit<Finding, "message"> = {}): void {
    if (this.findings.length < FINDING_LIMIT) this.findings.push({ message, ...at });
  }

  check(image: RafsImage): void {
    this.#bytesLeft = image.bytes.length;
    this.#claimTables(image);
    this.#openRows(image);
    this.#visit(image, image.erofs.rootNid, "");
    // a Map's iteration sees what is added meanwhile: breadth first
    for (const [nid, seen] of this.#seen) {
      if (seen.inode.type === "dir") this.attempt(seen.path, () => this.#checkDirectory(image, nid, seen));
      if (this.findings.length >= FINDING_LIMIT) return;
    }
    this.#checkLinks(image);
    this.#checkChunkUse();
    for (const problem of this.#regions.problems(image.bytes)) {
      this.#find(`Regions: ${problem.message}`, { offset: problem.offset });
      if (this.findings.length >= FINDING_LIMIT) return;
    }
  }

  #claimTables({ superblock, erofs }: RafsImage): void {
    this.#regions.claim(SUPER_OFFSET, SuperBlock.sizeBytes, "superblock");
    this.#regions.claim(EXT_OFFSET, RafsSuperBlockExt.sizeBytes, "RAFS superblock");
    const tableOffset = erofs.superblock.devtSlotoff * DeviceSlot.sizeBytes;
    this.#regions.claim(tableOffset, erofs.devices.length * DeviceSlot.sizeBytes, "device table");
    if (tableOffset !== DEVICE_TABLE_OFFSET)
      this.#find(`Device table is at ${tableOffset}, wanted ${DEVICE_TABLE_OFFSET}`);
    const { blobTable, chunkTable, prefetchTable } = superblock;
    this.#regions.claim(blobTable.offset, blobTable.length, "blob table");
    this.#regions.claim(chunkTable.offset, chunkTable.length, "chunk table");
    this.#regions.claim(prefetchTable.offset, prefetchTable.length, "prefetch table");
  }

  #openRows(image: RafsImage): void {
    const table = { image: image.bytes, region: image.superblock.chunkTable };
    let listed = 0;
    for (const blob of image.blobs) {
      const blocks = image.erofs.devices[blob.index]?.blocks;
      if (blocks !== Math.ceil(blob.deviceBytes / BLOCK_BYTES)) {
        this.#find(`Device ${blob.deviceSlot} has ${blocks} blocks, its blob ${blob.deviceBytes} bytes`);
      }
      const rows = this.attempt(undefined, () => new TableRows(table, blob));
      if (rows === undefined) continue;
      if (rows.count > blob.chunkCount)
        this.#find(`Blob ${blob.index} has ${blob.chunkCount} chunks, ${rows.count} rows`);
      this.#rows[blob.index] = { rows, used: new Uint8Array(rows.count) };
      listed += rows.count;
    }
    this.counts.chunks = image.superblock.chunkTable.length / RafsChunk.sizeBytes;
    if (this.#rows.length === image.blobs.length && listed !== this.counts.chunks) {
      this.#find(`Chunk table has ${this.counts.chunks} rows, ${listed} of them of listed blobs`);
    }
  }

  /** Takes note of a name of an inode; the first one checks what is the inode's own. */
  #visit(image: RafsImage, nid: number, path: string): Seen | undefined {
    const known = this.#seen.get(nid);
    if (known !== undefined) {
      known.names++;
      this.counts.extraLinks++;
      if (known.inode.type === "dir") this.#find("Directory has two names", { path, offset: known.inode.offset });
      return known;
    }
    return this.attempt(path, () => {
      const inode = image.erofs.inode(nid);
      const seen = { inode, names: 1, subdirectories: 0, path };
      this.#seen.set(nid, seen);
      this.#checkInode(image, inode, path);
      return seen;
    });
  }

  #checkInode(image: RafsImage, inode: Inode, path: string): void {
    this.#count(inode);
    this.#claimInode(image, inode);
    this.counts.xattrs += image.erofs.xattrs(inode.nid).length;
    if (inode.type === "symlink" && image.erofs.readlink(inode.nid).length === 0) {
      this.#find("Symbolic link is empty", { path, offset: inode.offset });
    }
    if (inode.type === "file") this.#checkFile(image, inode, path);
  }

  #count({ type, sizeBytes }: Inode): void {
    const { counts } = this;
    counts.inodes++;
    if (type === "dir") counts.directories++;
    else if (type === "file") counts.files++;
    else if (type === "symlink") counts.symlinks++;
    else counts.specials++;
    if (type === "file") counts.fileBytes += sizeBytes;
  }

  /** The inode with what lies inline, and its full blocks. */
  #claimInode(image: RafsImage, inode: Inode): void {
    const what = `${inode.type} nid ${inode.nid}`;
    const bodyOffset = inode.xattrOffset + inode.xattrBytes;
    const flat = inode.type === "dir" || inode.type === "symlink";
    const tail = flat && inode.layout === LAYOUT.flatInline ? inode.sizeBytes % BLOCK_BYTES : 0;
    const indexes = inode.type === "file" ? Math.ceil(inode.sizeBytes / image.chunkBytes) * ChunkIndex.sizeBytes : 0;
    const end = indexes > 0 ? chunkIndexOffset(inode) + indexes : bodyOffset + tail;
    const blocks = flat ? inode.sizeBytes - tail : 0;
    this.#bytesLeft -= end - inode.offset + blocks;
    if (this.#bytesLeft < 0) {
      throw new NydusError("EUCLEAN", "Inodes overlap: they take more than the image", { offset: inode.offset });
    }
    this.#regions.claim(inode.offset, end - inode.offset, what);
    this.#regions.claim(inode.u * BLOCK_BYTES, blocks, `blocks of ${what}`);
  }

  /** Every device range of the file has its chunks in the table, numbered as the indexes say. */
  #checkFile(image: RafsImage, inode: Inode, path: string): void {
    const at = { path, offset: inode.offset };
    if (inode.layout !== LAYOUT.chunkBased) {
      if (inode.sizeBytes > 0) this.#find("File is not chunk-based", at);
      return;
    }
    if (chunkBytesOf(inode) < image.chunkBytes) {
      this.#find(`File has chunks of ${chunkBytesOf(inode)} bytes, the image of ${image.chunkBytes}`, at);
      return;
    }
    for (const extent of image.erofs.extents(inode.nid, 0, inode.sizeBytes)) {
      if (extent.kind !== "device") this.#find(`File has bytes from ${extent.fileOffset} in no device`, at);
    }
    const count = Math.ceil(inode.sizeBytes / image.chunkBytes);
    for (let i = 0; i < count; i++) {
      const problem = this.#chunkProblem(image, inode, i);
      if (problem !== undefined) this.#find(`Chunk ${i} of file: ${problem}`, at);
    }
  }

  #chunkProblem(image: RafsImage, inode: Inode, i: number): string | undefined {
    const index = ChunkIndex.read(image.bytes, chunkIndexOffset(inode) + i * ChunkIndex.sizeBytes);
    const number = ((index.deviceId >>> 8) << 16) | index.startblkHi;
    const blob = this.#rows[(index.deviceId & DEVICE_MASK) - 1];
    // of a file in one piece the kernel reads the first index only, nydusd all of them
    const [extent] = image.erofs.extents(inode.nid, i * image.chunkBytes, 1);
    if (extent?.kind === "device" && extent.deviceOffset !== index.startblkLo * BLOCK_BYTES) {
      return `block ${index.startblkLo}, the kernel reads ${extent.deviceOffset / BLOCK_BYTES}`;
    }
    if (blob === undefined) return `device ${index.deviceId & DEVICE_MASK} has no chunks`;
    const position = blob.rows.find(index.startblkLo * BLOCK_BYTES);
    if (position < 0) return `no row for block ${index.startblkLo} of device ${index.deviceId & DEVICE_MASK}`;
    blob.used[position] = 1;
    const sizeBytes = Math.min(image.chunkBytes, inode.sizeBytes - i * image.chunkBytes);
    const { rows } = blob;
    if (rows.deviceOffset(position) !== index.startblkLo * BLOCK_BYTES || rows.size(position) !== sizeBytes) {
      return `its row has ${rows.size(position)} bytes at ${rows.deviceOffset(position)}, the file wants ${sizeBytes}`;
    }
    return rows.number(position) === number ? undefined : `number ${number}, its row says ${rows.number(position)}`;
  }

  #checkDirectory(image: RafsImage, nid: number, seen: Seen): void {
    const at = { path: seen.path, offset: seen.inode.offset };
    const dots = new Map<string, number>();
    let last: Uint8Array | undefined;
    for (const entry of image.erofs.readdir(nid)) {
      if (last !== undefined && compareBytes(last, entry.name) >= 0) this.#find("Directory is not sorted", at);
      last = entry.name;
      const name = keyOfBytes(entry.name);
      if (name === "." || name === "..") dots.set(name, entry.nid);
      else this.#checkEntry(image, seen, { entry, name, parentNid: nid });
      if (this.findings.length >= FINDING_LIMIT) return;
    }
    if (dots.get(".") !== nid) this.#find(`Directory has "." at nid ${dots.get(".")}, wanted ${nid}`, at);
    const parent = this.#parents.get(nid) ?? nid;
    if (dots.get("..") !== parent) this.#find(`Directory has ".." at nid ${dots.get("..")}, wanted ${parent}`, at);
  }

  readonly #parents = new Map<number, number>();

  #checkEntry(image: RafsImage, dir: Seen, child: { entry: DirEntry; name: string; parentNid: number }): void {
    const { entry, parentNid } = child;
    const path = `${dir.path}/${child.name}`;
    const seen = this.#visit(image, entry.nid, path);
    if (seen === undefined) return;
    if (entry.type !== seen.inode.type) {
      this.#find(`Entry says ${entry.type}, its inode ${seen.inode.type}`, { path, offset: seen.inode.offset });
    }
    if (seen.inode.type !== "dir") return;
    dir.subdirectories++;
    if (!this.#parents.has(entry.nid)) this.#parents.set(entry.nid, parentNid);
  }

  #checkLinks(image: RafsImage): void {
    for (const { inode, names, subdirectories, path } of this.#seen.values()) {
      const wanted = inode.type === "dir" ? 2 + subdirectories : names;
      if (inode.nlink !== wanted) {
        this.#find(`Link count is ${inode.nlink}, wanted ${wanted}`, { path, offset: inode.offset });
      }
    }
    if (image.erofs.inodeCount < this.#seen.size) {
      this.#find(`Superblock says ${image.erofs.inodeCount} inodes, there are ${this.#seen.size}`);
    }
    for (const nid of image.prefetch) {
      if (!this.#seen.has(nid)) this.#find(`Prefetch table names nid ${nid}, which no directory has`);
    }
  }

  #checkChunkUse(): void {
    for (const blob of this.#rows) {
      if (blob === undefined) continue;
      this.counts.unreferencedChunks += blob.used.reduce((sum, used) => sum + (used === 0 ? 1 : 0), 0);
    }
  }
}

function offsetOf(error: NydusError): { readonly offset?: number } {
  return error.at.offset === undefined ? {} : { offset: error.at.offset };
}
