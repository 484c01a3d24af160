import { crc32, deflateRawSync } from "node:zlib";

export const EMPTY: Uint8Array = new Uint8Array(0);
export const MiB = 1 << 20;
export const concat = (...parts: readonly Uint8Array[]): Uint8Array => new Uint8Array(Buffer.concat(parts));
export const utf8 = (text: string): Uint8Array => new TextEncoder().encode(text);
/** For types that want the bytes in an ArrayBuffer of their own. */
const crc32Of = (data: Uint8Array): number => crc32(Buffer.from(data));

/** Writes deflate's bits: numbers with the lowest bit first, codes with the highest first. */
export class BitWriter {
  readonly #bits: number[] = [];

  number(value: number, count: number): this {
    for (let i = 0; i < count; i++) this.#bits.push((value >>> i) & 1);
    return this;
  }

  code(bits: string): this {
    for (const bit of bits) this.#bits.push(bit === "1" ? 1 : 0);
    return this;
  }

  bytes(): Uint8Array {
    const bytes = new Uint8Array(Math.ceil(this.#bits.length / 8));
    for (const [i, bit] of this.#bits.entries()) bytes[i >> 3] = (bytes[i >> 3] as number) | (bit << (i & 7));
    return bytes;
  }
}

/** The canonical code of some lengths: for each symbol its bits, highest first; undefined without a length. */
export function canonical(lengths: readonly number[]): readonly (string | undefined)[] {
  const order = lengths.map((length, symbol) => ({ length, symbol })).filter(({ length }) => length > 0);
  order.sort((a, b) => a.length - b.length || a.symbol - b.symbol);
  const codes: (string | undefined)[] = lengths.map(() => undefined);
  let code = 0;
  let before = 0;
  for (const { length, symbol } of order) {
    code *= 2 ** (length - before);
    before = length;
    codes[symbol] = code.toString(2).padStart(length, "0");
    code++;
  }
  return codes;
}

const PRECODE_ORDER = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
/** A complete code of 19 symbols: 13 of four bits, 6 of five. */
const PRECODE_LENGTHS = Array.from({ length: 19 }, (_, symbol) => (symbol < 13 ? 4 : 5));

/** Of codes 16 to 18 of code lengths: how many lengths they repeat at least, and their extra bits. */
const REPEATS: Readonly<Record<number, readonly [least: number, extraBits: number]>> = {
  16: [3, 2],
  17: [3, 3],
  18: [11, 7],
};
const countLengths = (codes: readonly number[]): number =>
  codes.reduce((sum, code) => sum + (REPEATS[code]?.[0] ?? 1), 0);

/**
 * The header of a last, dynamic block with a code for each length; 16 to 18 are the shortest repeats.
 * @param kind of block; 2 is dynamic
 * @param distanceCount how many distances it claims to have
 */
export function dynamicHeader(
  litlens: readonly number[],
  distances: readonly number[],
  { kind = 2, distanceCount = countLengths(distances) } = {},
): BitWriter {
  const writer = new BitWriter().number(1, 1).number(kind, 2);
  writer
    .number(countLengths(litlens) - 257, 5)
    .number(distanceCount - 1, 5)
    .number(15, 4);
  for (const symbol of PRECODE_ORDER) writer.number(PRECODE_LENGTHS[symbol] as number, 3);
  const codes = canonical(PRECODE_LENGTHS);
  for (const code of [...litlens, ...distances]) {
    writer.code(codes[code] as string).number(0, REPEATS[code]?.[1] ?? 0);
  }
  return writer;
}

/** `count` lengths, zero but for some. */
export function lengthsOf(count: number, some: Readonly<Record<number, number>>): number[] {
  return Array.from({ length: count }, (_, symbol) => some[symbol] ?? 0);
}

export interface HeaderFields {
  readonly extra?: Uint8Array;
  readonly name?: string;
  readonly comment?: string;
  readonly headerCrc?: boolean;
  readonly text?: boolean;
}

/** The header of a gzip member, by RFC 1952. */
export function gzipHeader(fields: HeaderFields): Uint8Array {
  const { extra, name, comment, headerCrc, text } = fields;
  const flags =
    (text ? 1 : 0) +
    (headerCrc ? 2 : 0) +
    (extra !== undefined ? 4 : 0) +
    (name !== undefined ? 8 : 0) +
    (comment !== undefined ? 16 : 0);
  const parts: Uint8Array[] = [Uint8Array.of(0x1f, 0x8b, 8, flags, 1, 2, 3, 4, 0, 255)];
  if (extra !== undefined) parts.push(Uint8Array.of(extra.length & 255, extra.length >> 8), extra);
  if (name !== undefined) parts.push(utf8(`${name}\0`));
  if (comment !== undefined) parts.push(utf8(`${comment}\0`));
  const header = concat(...parts);
  if (!headerCrc) return header;
  const crc = crc32Of(header);
  return concat(header, Uint8Array.of(crc & 255, (crc >> 8) & 255));
}

/** A gzip member: header, deflate stream, CRC-32 and size. */
export function member(data: Uint8Array, fields: HeaderFields = {}): Uint8Array {
  const trailer = Buffer.alloc(8);
  trailer.writeUInt32LE(crc32Of(data), 0);
  trailer.writeUInt32LE(data.length, 4);
  return concat(gzipHeader(fields), new Uint8Array(deflateRawSync(Buffer.from(data))), trailer);
}
