import { NydusError } from "../../base/errors.ts";
import type { SparseMap } from "./sparse.ts";
import type { Window } from "./window.ts";

/** What holes are made of. */
const ZEROS = new Uint8Array(1 << 18);

/** A file's bytes on their way. */
export interface TarContent extends AsyncIterable<Uint8Array> {
  /** Where the source can: the whole content as one view if it is at hand, so that nothing is waited for. */
  take?(): Uint8Array | undefined;
}

/** The body of the entry under the reader: its stored bytes, its holes, its padding. */
export class Body implements TarContent {
  readonly sizeBytes: number;
  readonly #window: Window;
  readonly #storedBytes: number;
  readonly #map: SparseMap | undefined;
  #left: number;
  #isOpened = false;
  isFinished = false;

  constructor(window: Window, storedBytes: number, map: SparseMap | undefined) {
    this.#window = window;
    this.#storedBytes = storedBytes;
    this.#map = map;
    this.#left = storedBytes;
    this.sizeBytes = map?.sizeBytes ?? storedBytes;
    if (storedBytes === 0) this.isFinished = true;
  }

  [Symbol.asyncIterator](): AsyncGenerator<Uint8Array> {
    if (this.#isOpened || (this.isFinished && this.#storedBytes > 0)) {
      throw new NydusError("EFAULT", "Cannot read tar content: it was read already or passed over");
    }
    this.#isOpened = true;
    return this.#map === undefined ? this.#stored(this.#storedBytes) : this.#expanded(this.#map);
  }

  /** The whole content if it is at hand, as the one view that it is then; it counts as read. */
  take(): Uint8Array | undefined {
    if (this.#map !== undefined || this.#isOpened || this.isFinished) return undefined;
    if (this.#window.buffered < this.#storedBytes) return undefined;
    this.#isOpened = true;
    this.#left = 0;
    return this.#window.piece(this.#storedBytes);
  }

  async *#expanded(map: SparseMap): AsyncGenerator<Uint8Array> {
    let at = 0;
    for (const extent of map.extents) {
      yield* zeros(extent.offset - at);
      yield* this.#stored(extent.size);
      at = extent.offset + extent.size;
    }
    yield* zeros(map.sizeBytes - at);
  }

  async *#stored(length: number): AsyncGenerator<Uint8Array> {
    let wanted = length;
    while (wanted > 0) {
      if (this.isFinished) throw new NydusError("EFAULT", "Cannot read tar content: it was passed over");
      if (this.#window.buffered === 0 && !(await this.#window.fill()))
        throw this.#window.truncated("a body", this.#left);
      const piece = this.#window.piece(wanted);
      wanted -= piece.length;
      this.#left -= piece.length;
      yield piece;
    }
  }

  /** Does what {@link finish} does if it can without waiting. @returns whether all is done */
  finishAtHand(): boolean {
    this.isFinished ||= this.#window.passBody(this.#left, this.#storedBytes);
    return this.isFinished;
  }

  /** Passes over what is unread, and the padding. */
  async finish(): Promise<void> {
    this.isFinished = true;
    await this.#window.skip(this.#left, "a body");
    await this.#window.skipPadding(this.#storedBytes);
  }
}

function* zeros(length: number): Generator<Uint8Array> {
  for (let left = length; left > 0; left -= ZEROS.length) {
    yield left >= ZEROS.length ? ZEROS : ZEROS.subarray(0, left);
  }
}
