import { setImmediate as nextTurn } from "node:timers/promises";
import { concatBytes } from "../../../base/bytes.ts";
import type { DirEntry, ErofsReader } from "../../../format/erofs/reader.ts";
import { type ChunkTable, chunkCount, chunkStart, firstChunkBehind } from "../chunk-table.ts";

/** EROFS inodes begin at multiples of so many bytes. */
const NID_BYTES = 32;
/** Names and extents that are looked at in one go: others than us have work for the thread, too. */
const TURN_STEPS = 2_000;
/** An image that has more is left at that: its directories or files share their blocks. */
const STEPS_MAX = 2 ** 26;
const SLASH = Uint8Array.of(0x2f);
const DOT = 0x2e;

/** What a device range belongs to is looked up by. */
export interface PathImage {
  readonly reader: ErofsReader;
  /** `devices[slot - 1]`. */
  readonly devices: readonly ChunkTable[];
}

/**
 * The files of an image by what a trace knows of them: path by nid, nid by chunk. Of several names, and of several files
 * that share a chunk, the first in the order of directories counts. Takes 9 bytes for each 32 of the bootstrap.
 */
export class TracePaths {
  readonly #image: PathImage;
  /** By nid: the directory that has it first, plus 1; 0 where it has no name. */
  readonly #parents: Uint32Array;
  /** By nid: where its name is in the bootstrap, and how long it is. */
  readonly #nameOffsets: Uint32Array;
  readonly #nameBytes: Uint8Array;
  /** `owners[slot - 1]`, by chunk: the nid of a file, plus 1. */
  readonly #owners: readonly Uint32Array[];
  #steps = 0;

  private constructor(image: PathImage) {
    this.#image = image;
    const nids = Math.ceil(image.reader.bytes.length / NID_BYTES);
    this.#parents = new Uint32Array(nids);
    this.#nameOffsets = new Uint32Array(nids);
    this.#nameBytes = new Uint8Array(nids);
    this.#owners = image.devices.map((chunks) => new Uint32Array(chunkCount(chunks)));
  }

  /** Walks the image, other work in between. What is damaged has no path. */
  static async of(image: PathImage): Promise<TracePaths> {
    const paths = new TracePaths(image);
    for (const _ of paths.#walk()) {
      if (++paths.#steps % TURN_STEPS === 0) await nextTurn();
      if (paths.#steps > STEPS_MAX) break;
    }
    return paths;
  }

  /** Raw bytes from the root, without a leading slash; undefined for an inode that no directory has. */
  pathOf(nid: number): Uint8Array | undefined {
    const { rootNid, bytes } = this.#image.reader;
    const names: Uint8Array[] = [];
    for (let at = nid; at !== rootNid; ) {
      const parent = this.#parents[at] ?? 0;
      if (parent === 0) return undefined;
      const start = this.#nameOffsets[at] as number;
      names.unshift(SLASH, bytes.subarray(start, start + (this.#nameBytes[at] as number)));
      at = parent - 1;
    }
    return concatBytes(names.slice(1));
  }

  /** The nid of the first file that has a chunk. @param slot 1-based */
  ownerOf(slot: number, chunk: number): number | undefined {
    const owner = this.#owners[slot - 1]?.[chunk] ?? 0;
    return owner === 0 ? undefined : owner - 1;
  }

  /** Depth first, a yield for each step. */
  *#walk(): Generator<void> {
    const { reader } = this.#image;
    const levels = [this.#directory(reader.rootNid)];
    for (let level = levels.at(-1); level !== undefined; level = levels.at(-1)) {
      const { value: entry, done } = level.next();
      if (done === true) levels.pop();
      else if (entry?.type === "dir") levels.push(this.#directory(entry.nid));
      else if (entry?.type === "file") yield* this.#file(entry.nid);
      yield;
    }
  }

  /** Entries of a directory; undefined for those whose inode has a name already. */
  *#directory(dirNid: number): Generator<DirEntry | undefined> {
    try {
      for (const entry of this.#image.reader.readdir(dirNid)) yield this.#isNew(entry, dirNid) ? entry : undefined;
    } catch {
      // the rest of it is damaged: nobody can read it either
    }
  }

  #isNew({ nid, name }: DirEntry, dirNid: number): boolean {
    const { reader } = this.#image;
    if (isDots(name) || nid === reader.rootNid || this.#parents[nid] !== 0) return false;
    this.#parents[nid] = dirNid + 1;
    this.#nameOffsets[nid] = name.byteOffset - reader.bytes.byteOffset;
    this.#nameBytes[nid] = name.length;
    return true;
  }

  *#file(nid: number): Generator<void> {
    try {
      for (const extent of this.#image.reader.extents(nid, 0, Number.MAX_SAFE_INTEGER)) {
        yield;
        if (extent.kind !== "device") continue;
        const { device, deviceOffset, length } = extent;
        yield* this.#own(device, { start: deviceOffset, end: deviceOffset + length }, nid);
      }
    } catch {
      // a damaged file, or none
    }
  }

  *#own(slot: number, { start, end }: { start: number; end: number }, nid: number): Generator<void> {
    const [chunks, owners] = [this.#image.devices[slot - 1], this.#owners[slot - 1]];
    if (chunks === undefined || owners === undefined) return;
    for (let i = firstChunkBehind(chunks, start); i < owners.length && chunkStart(chunks, i) < end; i++) {
      if (owners[i] === 0) owners[i] = nid + 1;
      yield;
    }
  }
}

function isDots(name: Uint8Array): boolean {
  return name.length <= 2 && name.every((byte) => byte === DOT);
}
