import { concatBytes } from "../../base/bytes.ts";
import { malformedTar, TAR_BLOCK } from "./header.ts";

const NOTHING = new Uint8Array(0);

/** A stream of bytes read by amounts: one await for each incoming buffer, views of it wherever a read does not straddle. */
export class Window {
  readonly #input: AsyncIterator<Uint8Array>;
  #buffer: Uint8Array = NOTHING;
  #at = 0;
  #offset = 0;
  #ended = false;

  constructor(input: AsyncIterable<Uint8Array>) {
    this.#input = input[Symbol.asyncIterator]();
  }

  /** Bytes of the stream before the next read. */
  get offset(): number {
    return this.#offset + this.#at;
  }

  /** Bytes at hand without waiting. */
  get buffered(): number {
    return this.#buffer.length - this.#at;
  }

  /** Waits until at least one byte is at hand. @returns false at the end of the stream */
  async fill(): Promise<boolean> {
    while (this.buffered === 0) {
      if (this.#ended) return false;
      const next = await this.#input.next();
      this.#offset += this.#buffer.length;
      this.#at = 0;
      this.#buffer = next.done === true ? NOTHING : plain(next.value);
      this.#ended = next.done === true;
    }
    return true;
  }

  /** At most `limit` of the bytes at hand: a view. */
  piece(limit: number): Uint8Array {
    const end = Math.min(this.#buffer.length, this.#at + limit);
    const view = this.#buffer.subarray(this.#at, end);
    this.#at = end;
    return view;
  }

  /** The next block if it is at hand: a view. */
  blockAtHand(): Uint8Array | undefined {
    return this.buffered >= TAR_BLOCK ? this.piece(TAR_BLOCK) : undefined;
  }

  /**
   * Exactly `length` bytes.
   * @param what they are, for the message
   * @throws EUCLEAN when the stream ends before them
   */
  async take(length: number, what: string): Promise<Uint8Array> {
    if (this.buffered >= length) return this.piece(length);
    const pieces: Uint8Array[] = [];
    let wanted = length;
    while (wanted > 0) {
      if (!(await this.fill())) throw this.truncated(what, wanted);
      const piece = this.piece(wanted);
      pieces.push(piece);
      wanted -= piece.length;
    }
    return concatBytes(pieces);
  }

  /** The next block, or undefined when the stream ends right here. @throws EUCLEAN when it ends within the block */
  async block(): Promise<Uint8Array | undefined> {
    if (!(await this.fill())) return undefined;
    return this.take(TAR_BLOCK, "a header");
  }

  /** Passes over a body of which `unread` bytes are left, and its padding, if all of it is at hand. @returns whether */
  passBody(unread: number, length: number): boolean {
    const wanted = unread + paddingOf(length);
    if (this.buffered < wanted) return false;
    this.#at += wanted;
    return true;
  }

  /** Passes over `length` bytes. @throws EUCLEAN when the stream ends before them */
  async skip(length: number, what: string): Promise<void> {
    let wanted = length;
    while (wanted > 0) {
      if (!(await this.fill())) throw this.truncated(what, wanted);
      wanted -= this.piece(wanted).length;
    }
  }

  /** Passes over the padding of a body of `length` bytes; a stream may end in it, as it may in Go's reader. */
  async skipPadding(length: number): Promise<void> {
    let wanted = paddingOf(length);
    while (wanted > 0 && (await this.fill())) wanted -= this.piece(wanted).length;
  }

  /** Reads to the end of the stream. */
  async drain(): Promise<void> {
    while (await this.fill()) this.piece(this.buffered);
  }

  /** Lets go of the input; the stream is told that nobody reads on. */
  async close(): Promise<void> {
    if (!this.#ended) await this.#input.return?.();
    this.#ended = true;
    this.#buffer = NOTHING;
    this.#at = 0;
  }

  /** The error of a stream that ends while `missing` bytes of `what` are to come. */
  truncated(what: string, missing: number): Error {
    return malformedTar(`it ends within ${what}, ${missing} bytes early`, this.offset);
  }
}

/** The same bytes without Node's Buffer around them, whose `slice` would not copy. */
function plain(bytes: Uint8Array): Uint8Array {
  return new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Bytes from the end of a body of `length` bytes to the next block. */
export function paddingOf(length: number): number {
  const over = length % TAR_BLOCK;
  return over === 0 ? 0 : TAR_BLOCK - over;
}
