/**
 * The outer structure of zstd data (RFC 8878 section 3.1): where frames and their blocks begin and end, without decoding
 * them. The runtimes' decoders differ here: some stop after the first frame, some take a truncated one for a whole one.
 */
import { viewOf } from "../../base/bytes.ts";
import { NydusError } from "../../base/errors.ts";

/** Magic_Number of a frame. */
const MAGIC = 0xfd2fb528;
/** Magic_Number of skippable frames: sixteen values from here. */
const SKIPPABLE_MAGIC = 0x184d2a50;
const MAGIC_BYTES = 4;
/** Magic number, descriptor, window, dictionary id and content size at their longest. */
const HEADER_BYTES_MAX = 18;
const BLOCK_HEADER_BYTES = 3;
const BLOCK_BYTES_MAX = 128 * 1024;
const CHECKSUM_BYTES = 4;
const RLE_BLOCK = 1;
const RESERVED_BLOCK = 3;

/** What a frame header says. */
export interface ZstdFrameHeader {
  readonly skippable: boolean;
  /** Of the header itself, bytes. */
  readonly headerBytes: number;
  /** What the frame gives, bytes; undefined where the header does not say. Of a skippable frame: bytes to skip. */
  readonly contentBytes: number | undefined;
  readonly windowBytes: number;
  /** 0: none. */
  readonly dictionaryId: number;
  readonly hasChecksum: boolean;
}

/** An unsigned little-endian number of 0, 1, 2, 4 or 8 bytes. */
function readNumber(data: Uint8Array, at: number, sizeBytes: number): number {
  let value = 0;
  for (let i = sizeBytes - 1; i >= 0; i--) value = value * 256 + (data[at + i] as number);
  return value;
}

function windowOf(descriptor: number): number {
  const base = 2 ** (10 + (descriptor >> 3));
  return base + (base / 8) * (descriptor & 7);
}

/**
 * Decodes the frame header at the start of `data`.
 * @returns undefined when `data` ends within the header
 * @throws EUCLEAN unless it is one
 * @see RFC 8878 section 3.1.1.1
 */
export function decodeZstdFrameHeader(data: Uint8Array): ZstdFrameHeader | undefined {
  if (data.length < MAGIC_BYTES) return undefined;
  const magic = viewOf(data).getUint32(0, true);
  if ((magic & ~15) >>> 0 === SKIPPABLE_MAGIC) return skippableHeader(data);
  if (magic !== MAGIC) {
    throw new NydusError("EUCLEAN", `Cannot decode zstd frame: its magic number is 0x${magic.toString(16)}`);
  }
  if (data.length <= MAGIC_BYTES) return undefined;
  const descriptor = data[MAGIC_BYTES] as number;
  if ((descriptor & 8) !== 0) throw new NydusError("EUCLEAN", "Cannot decode zstd frame: the reserved bit is set");
  const single = (descriptor & 32) !== 0;
  const dictionarySize = [0, 1, 2, 4][descriptor & 3] as number;
  const contentSize = [single ? 1 : 0, 2, 4, 8][descriptor >> 6] as number;
  const dictionaryAt = MAGIC_BYTES + 1 + (single ? 0 : 1);
  const contentAt = dictionaryAt + dictionarySize;
  const headerBytes = contentAt + contentSize;
  if (data.length < headerBytes) return undefined;
  const content = readNumber(data, contentAt, contentSize) + (contentSize === 2 ? 256 : 0);
  return {
    skippable: false,
    headerBytes,
    contentBytes: contentSize === 0 ? undefined : content,
    windowBytes: single ? content : windowOf(data[MAGIC_BYTES + 1] as number),
    dictionaryId: readNumber(data, dictionaryAt, dictionarySize),
    hasChecksum: (descriptor & 4) !== 0,
  };
}

function skippableHeader(data: Uint8Array): ZstdFrameHeader | undefined {
  const headerBytes = MAGIC_BYTES + 4;
  if (data.length < headerBytes) return undefined;
  const contentBytes = readNumber(data, MAGIC_BYTES, 4);
  return { skippable: true, headerBytes, contentBytes, windowBytes: 0, dictionaryId: 0, hasChecksum: false };
}

/** Follows zstd data from frame to frame as it comes, in pieces of any size. */
export class ZstdFrameWalker {
  /** Bytes of a header that has not come whole. */
  readonly #pending = new Uint8Array(HEADER_BYTES_MAX);
  #pendingBytes = 0;
  #header: ZstdFrameHeader | undefined;
  /** Bytes to pass over before the next header. */
  #body = 0;
  #lastBlock = false;
  #frameEnded = false;

  /** The header of the frame under way, or of the one that has just ended; undefined before a header is whole. */
  get header(): ZstdFrameHeader | undefined {
    return this.#header;
  }

  /**
   * Walks on to the end of the frame, or of `data` if that comes first.
   * @param from where to go on in `data`, bytes
   * @returns how far it came, and whether a frame ends there
   * @throws EUCLEAN when a header is malformed
   */
  advance(data: Uint8Array, from: number): { readonly at: number; readonly frameEnds: boolean } {
    if (this.#frameEnded) this.#header = undefined;
    this.#frameEnded = false;
    let at = from;
    while (at < data.length && !this.#frameEnded) {
      if (this.#body === 0) at = this.#takeHeader(data, at);
      const body = Math.min(this.#body, data.length - at);
      this.#body -= body;
      at += body;
      this.#frameEnded = this.#lastBlock && this.#body === 0;
    }
    if (this.#frameEnded) this.#lastBlock = false;
    return { at, frameEnds: this.#frameEnded };
  }

  /** Takes one byte of a header; when that makes it whole, begins its body. */
  #takeHeader(data: Uint8Array, at: number): number {
    this.#pending[this.#pendingBytes++] = data[at] as number;
    const bytes = this.#pending.subarray(0, this.#pendingBytes);
    if (this.#header === undefined) {
      const header = decodeZstdFrameHeader(bytes);
      if (header !== undefined) this.#beginFrame(header);
    } else if (this.#pendingBytes === BLOCK_HEADER_BYTES) {
      this.#beginBlock(this.#header, readNumber(bytes, 0, BLOCK_HEADER_BYTES));
    }
    return at + 1;
  }

  #beginFrame(header: ZstdFrameHeader): void {
    this.#header = header;
    this.#pendingBytes = 0;
    this.#lastBlock = header.skippable;
    this.#body = header.skippable ? (header.contentBytes ?? 0) : 0;
  }

  #beginBlock(header: ZstdFrameHeader, block: number): void {
    const type = (block >> 1) & 3;
    const sizeBytes = block >> 3;
    if (type === RESERVED_BLOCK || (type !== RLE_BLOCK && sizeBytes > BLOCK_BYTES_MAX)) {
      throw new NydusError("EUCLEAN", `Cannot decode zstd block: type ${type}, ${sizeBytes} bytes`);
    }
    this.#pendingBytes = 0;
    this.#lastBlock = (block & 1) !== 0;
    this.#body = (type === RLE_BLOCK ? 1 : sizeBytes) + (this.#lastBlock && header.hasChecksum ? CHECKSUM_BYTES : 0);
  }
}

/**
 * Whether `data` is one frame and nothing else, whole, that says it gives `sizeBytes` and needs no dictionary: what every
 * runtime's decoder decodes alike. Anything else, malformed data too, is the core's to judge.
 */
export function isPlainZstdFrame(data: Uint8Array, sizeBytes: number): boolean {
  try {
    const walker = new ZstdFrameWalker();
    const { at, frameEnds } = walker.advance(data, 0);
    const { header } = walker;
    if (!frameEnds || at !== data.length || header === undefined || header.skippable) return false;
    return header.contentBytes === sizeBytes && header.dictionaryId === 0;
  } catch (error) {
    if (error instanceof NydusError) return false;
    throw error;
  }
}
