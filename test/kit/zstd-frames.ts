/** zstd frames by hand (RFC 8878), for the forms that no encoder writes on request, and a look at those that they do. */

/** Bits in the order in which a decoder reads them from the end of a backward stream: value and width. */
type Bits = readonly (readonly [value: number, width: number])[];

/** A backward bit stream: the last byte holds the first bits, under a marker bit. */
export function backwardBits(bits: Bits): Uint8Array {
  const digits = bits.map(([value, width]) => (width === 0 ? "" : value.toString(2).padStart(width, "0")));
  const text = `1${digits.join("")}`;
  const padded = text.padStart(Math.ceil(text.length / 8) * 8, "0");
  return Uint8Array.from(padded.match(/.{8}/g) ?? [], (byte) => Number.parseInt(byte, 2)).reverse();
}

export function concat(...parts: readonly Uint8Array[]): Uint8Array {
  return new Uint8Array(Buffer.concat(parts));
}

/** The lowest `bytes` bytes of `value`, little endian. */
export function littleEndian(value: number | bigint, bytes: number): Uint8Array {
  return Uint8Array.from({ length: bytes }, (_, i) => Number((BigInt(value) >> BigInt(8 * i)) & 255n));
}

export const MAGIC = littleEndian(0xfd2fb528, 4);

/** A frame header; without `contentBytes` it has a window descriptor (by default 128 KiB) and no content size. */
export function frameHeader(options: {
  readonly windowByte?: number;
  readonly contentBytes?: bigint;
  readonly dictionary?: readonly [id: number, bytes: 1 | 2 | 4];
  readonly checksum?: boolean;
  readonly extraFlags?: number;
}): Uint8Array {
  const { windowByte = 0x38, contentBytes, dictionary, checksum = false, extraFlags = 0 } = options;
  const dictionaryFlag = dictionary === undefined ? 0 : dictionary[1] === 4 ? 3 : dictionary[1];
  const descriptor = (contentBytes === undefined ? 0 : 0xc0) | (checksum ? 4 : 0) | dictionaryFlag | extraFlags;
  const isSingleSegment = (descriptor & 0x20) !== 0;
  return concat(
    MAGIC,
    Uint8Array.of(descriptor),
    isSingleSegment ? new Uint8Array(0) : Uint8Array.of(windowByte),
    dictionary === undefined ? new Uint8Array(0) : littleEndian(dictionary[0], dictionary[1]),
    contentBytes === undefined ? new Uint8Array(0) : littleEndian(contentBytes, 8),
  );
}

const BLOCK_TYPES = { raw: 0, rle: 1, compressed: 2, reserved: 3 } as const;

/** A block; `size` is its content's length unless given. */
export function block(
  type: keyof typeof BLOCK_TYPES,
  content: Uint8Array,
  options: { readonly last?: boolean; readonly size?: number } = {},
): Uint8Array {
  const { last = true, size = content.length } = options;
  return concat(littleEndian((size << 3) | (BLOCK_TYPES[type] << 1) | (last ? 1 : 0), 3), content);
}

/** A literals section of raw bytes, with a header of two bytes. */
export function rawLiterals(bytes: Uint8Array): Uint8Array {
  return concat(littleEndian((bytes.length << 4) | 4, 2), bytes);
}

/** A literals section of one Huffman stream; `table` undefined: treeless. */
export function huffmanLiterals(count: number, table: Uint8Array | undefined, stream: Uint8Array): Uint8Array {
  const stored = (table?.length ?? 0) + stream.length;
  return concat(
    littleEndian((stored << 14) | (count << 4) | (table === undefined ? 3 : 2), 3),
    table ?? new Uint8Array(0),
    stream,
  );
}

/** Weights as they are, four bits each; the last symbol's is implied. */
export function directWeights(weights: readonly number[]): Uint8Array {
  const padded = [...weights, 0];
  const pairs = Array.from({ length: Math.ceil(weights.length / 2) }, (_, i) => {
    return ((padded[2 * i] as number) << 4) | (padded[2 * i + 1] as number);
  });
  return Uint8Array.of(127 + weights.length, ...pairs);
}

/** A sequences section whose three tables have one symbol each, so that only extra bits are stored. */
export function rleSequences(codes: {
  readonly count: number;
  readonly literalLength: number;
  readonly offset: number;
  readonly matchLength: number;
  readonly bits: Bits;
}): Uint8Array {
  const { count, literalLength, offset, matchLength, bits } = codes;
  return concat(Uint8Array.of(count, 0b01_01_01_00, literalLength, offset, matchLength), backwardBits(bits));
}

/** No sequences. */
export const NO_SEQUENCES = Uint8Array.of(0);

const MODES = ["predefined", "rle", "fse", "repeat"] as const;
const LITERALS = ["raw", "rle", "compressed", "treeless"] as const;

function loadU24(bytes: Uint8Array, at: number): number {
  return (bytes[at] as number) | ((bytes[at + 1] ?? 0) << 8) | ((bytes[at + 2] ?? 0) << 16);
}

/** Length of a section of raw or repeated literals. */
function plainLength(content: Uint8Array, isRepeated: boolean): number {
  const first = content[0] as number;
  const format = (first >> 2) & 3;
  const headerBytes = [1, 2, 1, 3][format] as number;
  if (isRepeated) return headerBytes + 1;
  const header = loadU24(content, 0) & (2 ** (8 * headerBytes) - 1);
  return headerBytes + (header >> (headerBytes === 1 ? 3 : 4));
}

/** Notes the forms in a literals section. @returns its length */
function literalsForms(content: Uint8Array, forms: Set<string>): number {
  const first = content[0] as number;
  const type = LITERALS[first & 3] as (typeof LITERALS)[number];
  const format = (first >> 2) & 3;
  const isHuffman = type === "compressed" || type === "treeless";
  forms.add(isHuffman ? `literals ${type}, ${format === 0 ? 1 : 4} streams` : `literals ${type}`);
  if (!isHuffman) return plainLength(content, type === "rle");
  const headerBytes = [3, 3, 4, 5][format] as number;
  const sizeBits = [10n, 10n, 14n, 18n][format] as bigint;
  const header = Buffer.from(concat(content.subarray(0, 8), new Uint8Array(8))).readBigUInt64LE(0);
  if (type === "compressed") forms.add((content[headerBytes] as number) < 128 ? "weights fse" : "weights direct");
  return headerBytes + Number((header >> (4n + sizeBits)) & ((1n << sizeBits) - 1n));
}

function compressedForms(content: Uint8Array, forms: Set<string>): void {
  const sequences = content.subarray(literalsForms(content, forms));
  const first = sequences[0] as number;
  const modes = sequences[first < 128 ? 1 : first < 255 ? 2 : 3] as number;
  forms.add(first === 0 ? "no sequences" : `sequences counted by ${first < 128 ? 1 : first < 255 ? 2 : 3} bytes`);
  if (first === 0) return;
  forms.add(`literal lengths ${MODES[modes >> 6]}`);
  forms.add(`offsets ${MODES[(modes >> 4) & 3]}`);
  forms.add(`match lengths ${MODES[(modes >> 2) & 3]}`);
}

/** Notes which forms the blocks of one valid frame have. */
export function noteForms(frame: Uint8Array, forms: Set<string>): void {
  const descriptor = frame[4] as number;
  const single = (descriptor & 0x20) !== 0;
  const sizeFlag = descriptor >> 6;
  let at = 5 + (single ? 0 : 1) + ([0, 1, 2, 4][descriptor & 3] as number);
  at += sizeFlag === 0 ? Number(single) : 1 << sizeFlag;
  for (let last = false; !last; ) {
    const header = loadU24(frame, at);
    const type = (header >> 1) & 3;
    const size = type === BLOCK_TYPES.rle ? 1 : header >> 3;
    last = (header & 1) !== 0;
    at += 3;
    forms.add(`block ${Object.keys(BLOCK_TYPES)[type]}`);
    if (type === BLOCK_TYPES.compressed) compressedForms(frame.subarray(at, at + size), forms);
    at += size;
  }
}
