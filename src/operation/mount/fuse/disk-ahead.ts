import type { ByteRange } from "../../../base/bytes.ts";

/** Limits of reading ahead from the disk. */
export const DISK_AHEAD = {
  /** A read so near the one before, in device bytes, on either side, goes with it. */
  nearBytes: 512 << 10,
  /** From so many such reads on, what follows is read ahead. */
  reads: 4,
  /** So much at a time, and again when half of it has been read. */
  bytes: 2 << 20,
} as const;

/**
 * Sees when a device is read from front to back, with gaps and small steps back: that is how its files are read in the
 * order of a directory tree. The kernel's own reading ahead takes each gap for a jump.
 */
export class DiskAhead {
  #last = 0;
  #near = 0;
  #aheadEnd = 0;

  /** @param read that is going to be done @returns what to have the kernel read besides */
  note({ start, end }: ByteRange): ByteRange | undefined {
    const { nearBytes, reads, bytes } = DISK_AHEAD;
    const isNear = Math.abs(start - this.#last) <= nearBytes;
    this.#last = end;
    this.#near = isNear ? this.#near + 1 : 0;
    if (!isNear) this.#aheadEnd = 0;
    if (this.#near < reads || end + bytes / 2 < this.#aheadEnd) return undefined;
    const from = Math.max(end, this.#aheadEnd);
    this.#aheadEnd = from + bytes;
    return { start: from, end: this.#aheadEnd };
  }
}
