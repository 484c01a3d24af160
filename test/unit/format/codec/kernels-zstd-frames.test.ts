import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { type ErrorCode, NydusError } from "../../../../src/base/errors.ts";
import { loadKernels } from "../../../../src/format/codec/kernels.ts";
import { Random } from "../../../kit/random.ts";
import {
  backwardBits,
  block,
  concat,
  directWeights,
  frameHeader,
  huffmanLiterals,
  littleEndian,
  MAGIC,
  NO_SEQUENCES,
  rawLiterals,
  rleSequences,
} from "../../../kit/zstd-frames.ts";

const kernels = await loadKernels();
setDefaultTimeout(60_000); // for busy machines

const SEED = 0x8879;
console.log(`kernels-zstd-frames.test.ts: seed ${SEED}`);

const bytesOf = (text: string): Uint8Array => new TextEncoder().encode(text);
const textOf = (bytes: Uint8Array): string => new TextDecoder().decode(bytes);
const u8 = (...bytes: readonly number[]): Uint8Array => Uint8Array.from(bytes);

/** Decodes by a stream, all at once. */
function decodeStream(frame: Uint8Array, size: number): Uint8Array {
  using decoder = kernels.openDecoder("zstd", 1 << 27);
  const parts: Uint8Array[] = [];
  for (let at = 0, length = 1; length > 0 || at < frame.length; ) {
    const { output, consumed, atBoundary } = decoder.push(frame.subarray(at), size + 1);
    at += consumed;
    length = output.length;
    parts.push(output);
    if (length === 0 && consumed === 0 && at === frame.length && !atBoundary) throw new NydusError("EUCLEAN", "cut");
  }
  return concat(...parts);
}

/** What both ways to decode give, which must be the same: the bytes, or a failure's code. */
function decode(frame: Uint8Array, size: number): Uint8Array | ErrorCode {
  const [whole, streamed] = [kernels.zstdDecompress, decodeStream].map((fn) => {
    try {
      return fn(frame, size);
    } catch (error) {
      if (!(error instanceof NydusError)) throw error;
      return error.code;
    }
  });
  expect(streamed as typeof whole).toEqual(whole as Uint8Array);
  return whole as Uint8Array | ErrorCode;
}

/** What the runtime's decoder gives, or EUCLEAN. */
function nativeDecode(frame: Uint8Array): Uint8Array | ErrorCode {
  try {
    return new Uint8Array(Bun.zstdDecompressSync(frame));
  } catch {
    return "EUCLEAN";
  }
}

/** Decodes a frame of blocks that end with `last`. */
function frameOf(...blocks: readonly Uint8Array[]): Uint8Array {
  return concat(frameHeader({}), ...blocks);
}

/** Codes a and b by one bit each: 0 and 1. */
const A_AND_B = directWeights([...Array<number>(97).fill(0), 1]);

/** Four streams that hold ab, ab, ab and nothing. */
function fourStreams(count: number): Uint8Array {
  const content = concat(A_AND_B, u8(1, 0, 1, 0, 1, 0), u8(0b101, 0b101, 0b101, 1));
  return concat(littleEndian((content.length << 14) | (count << 4) | 6, 3), content);
}

describe("zstdDecompress() of frames made by hand", () => {
  const abba = huffmanLiterals(4, A_AND_B, backwardBits([0, 1, 1, 0].map((bit) => [bit, 1])));
  const baab = huffmanLiterals(4, undefined, backwardBits([1, 0, 0, 1].map((bit) => [bit, 1])));

  test.each([
    ["one empty block", frameOf(block("raw", u8())), ""],
    ["an RLE block", frameOf(block("rle", u8(97), { size: 9 })), "aaaaaaaaa"],
    ["an RLE block of no bytes", frameOf(block("rle", u8(97), { size: 0 })), ""],
    [
      "blocks of all types",
      frameOf(
        block("rle", u8(98), { size: 3, last: false }),
        block("raw", bytesOf("cd"), { last: false }),
        block("compressed", concat(rawLiterals(bytesOf("ef")), NO_SEQUENCES)),
      ),
      "bbbcdef",
    ],
    ["direct Huffman weights", frameOf(block("compressed", concat(abba, NO_SEQUENCES))), "abba"],
    [
      "four streams, of which the last is empty",
      frameOf(block("compressed", concat(fourStreams(6), NO_SEQUENCES))),
      "ababab",
    ],
    [
      "treeless literals after a block between",
      frameOf(
        block("compressed", concat(abba, NO_SEQUENCES), { last: false }),
        block("raw", bytesOf("-"), { last: false }),
        block("compressed", concat(baab, NO_SEQUENCES)),
      ),
      "abba-baab",
    ],
    [
      "repeated literals, their number in 5, 12 and 20 bits",
      frameOf(
        block("compressed", concat(u8((5 << 3) | 1, 97), NO_SEQUENCES), { last: false }),
        block("compressed", concat(littleEndian((6 << 4) | 5, 2), u8(98), NO_SEQUENCES), { last: false }),
        block("compressed", concat(littleEndian((7 << 4) | 13, 3), u8(99), NO_SEQUENCES)),
      ),
      "aaaaabbbbbbccccccc",
    ],
    [
      "raw literals, their number in 5, 12 and 20 bits",
      frameOf(
        block("compressed", concat(u8(2 << 3), bytesOf("ab"), NO_SEQUENCES), { last: false }),
        block("compressed", concat(rawLiterals(bytesOf("cde")), NO_SEQUENCES), { last: false }),
        block("compressed", concat(littleEndian((4 << 4) | 12, 3), bytesOf("fghi"), NO_SEQUENCES)),
      ),
      "abcdefghi",
    ],
    ["no literals and no sequences", frameOf(block("compressed", u8(0, 0))), ""],
    [
      "no sequences, counted by two bytes",
      frameOf(block("compressed", concat(rawLiterals(bytesOf("xy")), u8(0x80, 0)))),
      "xy",
    ],
    [
      "dictionary ids that are zero",
      concat(
        ...([1, 2, 4] as const).flatMap((bytes) => [
          frameHeader({ dictionary: [0, bytes] }),
          block("raw", bytesOf("0123".slice(0, bytes))),
        ]),
      ),
      "0010123",
    ],
    ["the unused bit of the descriptor", concat(frameHeader({ extraFlags: 0x10 }), block("raw", bytesOf("u"))), "u"],
  ] as const)("%s", (_, frame, wanted) => {
    const found = decode(frame, wanted.length);
    expect(typeof found === "string" ? found : textOf(found)).toBe(wanted);
    expect(nativeDecode(frame)).toEqual(found);
  });

  test("40,000 sequences without a bit, counted by three bytes: repeat offsets 4 and 1 in turn", () => {
    const modes = concat(u8(0b01_01_01_00, 0, 0, 0), backwardBits([]));
    const sequences = concat(u8(255), littleEndian(40_000 - 0x7f00, 2), modes);
    const frame = frameOf(
      block("raw", bytesOf("abcd"), { last: false }),
      block("compressed", concat(rawLiterals(u8()), sequences)),
    );
    const wanted = [...bytesOf("abcd")];
    for (let i = 0; i < 40_000; i++)
      for (let k = 0; k < 3; k++) wanted.push(wanted.at(i % 2 === 0 ? -4 : -1) as number);
    expect(decode(frame, wanted.length)).toEqual(Uint8Array.from(wanted));
    expect(nativeDecode(frame)).toEqual(Uint8Array.from(wanted));
  });
});

/** One block of one sequence, and the history that it meets: a model of RFC 8878, 3.1.1.5. */
class RepeatModel {
  readonly bytes: number[] = [];
  #repeats = [1, 4, 8];

  /** @returns whether the offset value names a byte that there is */
  run(literals: Uint8Array, offsetValue: number, matchLength: number): boolean {
    this.bytes.push(...literals);
    const [first, second, third] = this.#repeats as [number, number, number];
    const index = literals.length === 0 ? offsetValue + 1 : offsetValue;
    const distance = offsetValue > 3 ? offsetValue - 3 : [0, first, second, third, first - 1][index];
    if (offsetValue > 3 || index > 2) this.#repeats = [distance as number, first, second];
    else if (index === 2) this.#repeats = [second, first, third];
    if (distance === undefined || distance < 1 || distance > this.bytes.length) return false;
    for (let i = 0; i < matchLength; i++) this.bytes.push(this.bytes.at(-distance) as number);
    return true;
  }
}

/** A block of one sequence: fewer than 16 literals, a match of 3 to 34. */
function sequenceBlock(literals: Uint8Array, offsetValue: number, matchLength: number, last: boolean): Uint8Array {
  const offset = 31 - Math.clz32(offsetValue);
  const bits = [[offsetValue - 2 ** offset, offset]] as const;
  const codes = { count: 1, literalLength: literals.length, offset, matchLength: matchLength - 3, bits };
  return block("compressed", concat(rawLiterals(literals), rleSequences(codes)), { last });
}

/** A frame of a few sequences; the last one may be invalid. */
function repeatingFrame(random: Random): { frame: Uint8Array; model: RepeatModel; valid: boolean } {
  const model = new RepeatModel();
  const blocks: Uint8Array[] = [];
  let valid = true;
  for (let left = random.between(2, 12); valid && left > 0; left--) {
    const literals = random.bytes(random.chance(0.5) && blocks.length > 0 ? 0 : random.between(1, 15));
    const most = model.bytes.length + literals.length + 3 + Number(random.chance(0.03));
    const offsetValue = random.chance(0.8) ? random.between(1, 3) : random.between(1, most);
    const matchLength = random.between(3, 34);
    valid = model.run(literals, offsetValue, matchLength);
    blocks.push(sequenceBlock(literals, offsetValue, matchLength, !valid || left === 1));
  }
  return { frame: frameOf(...blocks), model, valid };
}

describe("repeat offsets", () => {
  test("are those of the specification, with and without literals, in 3000 seeded frames", () => {
    const random = new Random(SEED);
    let refused = 0;
    for (let i = 0; i < 3000; i++) {
      const { frame, model, valid } = repeatingFrame(random);
      if (!valid) refused++;
      const wanted = valid ? Uint8Array.from(model.bytes) : "EUCLEAN";
      expect(decode(frame, model.bytes.length)).toEqual(wanted);
      expect(nativeDecode(frame)).toEqual(wanted);
    }
    expect(refused).toBeGreaterThan(300);
    expect(refused).toBeLessThan(2700);
  });

  test("every distance from 1 to 40 with every match length from 3 to 34 repeats the right bytes", () => {
    const literals = Uint8Array.from({ length: 48 }, (_, i) => i + 1);
    for (let distance = 1; distance <= 40; distance++) {
      for (let length = 3; length <= 34; length++) {
        const frame = frameOf(block("raw", literals, { last: false }), sequenceBlock(u8(), distance + 3, length, true));
        const wanted = [...literals];
        for (let i = 0; i < length; i++) wanted.push(wanted.at(-distance) as number);
        const found = kernels.zstdDecompress(frame, wanted.length);
        if (Buffer.compare(found, Uint8Array.from(wanted)) !== 0) throw new Error(`${distance} back, ${length} bytes`);
      }
    }
  });
});

describe("zstdDecompress() refuses as malformed", () => {
  const raw = block("raw", bytesOf("0123456789"), { last: false });
  const literals = rawLiterals(bytesOf("lit"));
  const compressed = (...parts: readonly Uint8Array[]): Uint8Array => block("compressed", concat(...parts));
  const one = { count: 1, literalLength: 3, offset: 2, matchLength: 0, bits: [[0, 2]] } as const;
  const huffman = (table: Uint8Array, ...stream: readonly number[]): Uint8Array =>
    frameOf(compressed(huffmanLiterals(4, table, u8(...stream)), NO_SEQUENCES));

  test("nothing of this: the base of the cases below is a good frame", () => {
    expect(decode(frameOf(raw, compressed(literals, rleSequences(one))), 16)).toEqual(bytesOf("0123456789litttt"));
    expect(decode(huffman(A_AND_B, 0b1_0110), 4)).toEqual(bytesOf("abba"));
  });

  test.each([
    ["the reserved bit of the descriptor", concat(frameHeader({ extraFlags: 8 }), block("raw", u8(1))), 1],
    ["a reserved block", frameOf(block("reserved", u8(1))), 1],
    ["no magic number", frameOf(block("raw", u8(1))).subarray(MAGIC.length), 1],
    ["a content size that is too large", concat(frameHeader({ contentBytes: 5n }), block("raw", u8(1))), 5],
    ["a content size that is too small", concat(frameHeader({ contentBytes: 1n }), block("raw", u8(1, 2))), 2],
    [
      "a block of more than its window",
      concat(frameHeader({ windowByte: 0 }), block("raw", new Uint8Array(1025))),
      1025,
    ],
    [
      "a run of more than its window",
      concat(frameHeader({ windowByte: 0 }), block("rle", u8(1), { size: 1025 })),
      1025,
    ],
    [
      "a block of more than 128 KiB",
      concat(frameHeader({ windowByte: 0x58 }), block("raw", new Uint8Array(131_073))),
      131_073,
    ],
    ["a compressed block that is empty", frameOf(compressed()), 0],
    ["a compressed block without sequences section", frameOf(compressed(literals)), 3],
    ["literals past the block's end", frameOf(compressed(u8(0x54), u8(1))), 5],
    ["more than 128 KiB of literals", frameOf(compressed(littleEndian((131_073 << 4) | 0xd, 3), u8(1, 0))), 131_073],
    ["bytes after no sequences", frameOf(compressed(literals, NO_SEQUENCES, u8(1))), 3],
    ["no byte after the count of sequences", frameOf(compressed(literals, u8(1))), 3],
    ["half a count of sequences", frameOf(compressed(literals, u8(200))), 3],
    ["reserved bits of the modes", frameOf(raw, compressed(literals, u8(1, 0b01_01_01_01, 3, 2, 0, 4))), 16],
    [
      "a literal length code of 36",
      frameOf(raw, compressed(literals, rleSequences({ ...one, literalLength: 36 }))),
      16,
    ],
    ["an offset code of 32", frameOf(raw, compressed(literals, rleSequences({ ...one, offset: 32 }))), 16],
    ["a match length code of 53", frameOf(raw, compressed(literals, rleSequences({ ...one, matchLength: 53 }))), 16],
    [
      "more literals than there are",
      frameOf(raw, compressed(literals, rleSequences({ ...one, literalLength: 4 }))),
      17,
    ],
    ["a bit too many", frameOf(raw, compressed(literals, rleSequences({ ...one, bits: [[0, 3]] }))), 16],
    ["a bit too few", frameOf(raw, compressed(literals, rleSequences({ ...one, bits: [[0, 1]] }))), 16],
    ["a bit stream that ends in a zero byte", frameOf(raw, compressed(literals, u8(1, 0x54, 3, 2, 0, 4, 0))), 16],
    ["no bit stream", frameOf(raw, compressed(literals, u8(1, 0x54, 3, 2, 0))), 16],
    ["a match past the first byte", frameOf(compressed(literals, rleSequences({ ...one, bits: [[3, 2]] }))), 6],
    ["treeless literals without a table", frameOf(compressed(huffmanLiterals(1, undefined, u8(2)), NO_SEQUENCES)), 1],
    ["four streams of fewer than six literals", frameOf(compressed(fourStreams(5), NO_SEQUENCES)), 5],
    ["Huffman weights that are all zero", huffman(directWeights([0, 0, 0]), 0b1_0110), 4],
    ["Huffman weights that no last one completes", huffman(directWeights([1, 1, 1, 2]), 0b1010_1010, 1), 4],
    ["a code of 12 bits", huffman(directWeights([12, 1, 1]), 0b1_0110), 4],
    ["no code of the greatest length", huffman(directWeights([2]), 0b1_0110), 4],
    ["more weights than the section has", huffman(u8(255, 1), 0b1_0110), 4],
    ["a Huffman stream with a bit too many", huffman(A_AND_B, 0b1_01101), 4],
    ["a Huffman stream with a bit too few", huffman(A_AND_B, 0b1_011), 4],
    ["a Huffman stream that ends in a zero byte", huffman(A_AND_B, 0b1_0110, 0), 4],
  ] as const)("%s", (_, frame, size) => {
    expect(decode(frame, size)).toBe("EUCLEAN");
    expect(() => kernels.zstdDecompress(frame, size)).toThrow("malformed");
  });

  test("a table that is repeated before there is one, whichever of the three", () => {
    for (const [modes, codes] of [
      [0b11_01_01_00, u8(2, 0)],
      [0b01_11_01_00, u8(3, 0)],
      [0b01_01_11_00, u8(3, 2)],
    ] as const) {
      const section = concat(u8(1, modes), codes, u8(4));
      expect(decode(frameOf(raw, compressed(literals, section)), 16)).toBe("EUCLEAN");
      const after = block("compressed", concat(literals, rleSequences(one)), { last: false });
      const both = frameOf(raw, after, compressed(literals, section));
      expect(typeof decode(both, 22)).toBe("object");
    }
  });

  test("tables of the frame before", () => {
    const huffmanBlock = compressed(huffmanLiterals(1, A_AND_B, u8(2)), NO_SEQUENCES);
    const treeless = compressed(huffmanLiterals(1, undefined, u8(2)), NO_SEQUENCES);
    expect(decode(concat(frameOf(huffmanBlock), frameOf(huffmanBlock)), 2)).toEqual(bytesOf("aa"));
    expect(decode(concat(frameOf(huffmanBlock), frameOf(treeless)), 2)).toBe("EUCLEAN");
    const repeated = compressed(literals, u8(1, 0b11_11_11_00, 4));
    const made = block("compressed", concat(literals, rleSequences(one)), { last: true });
    expect(decode(concat(frameOf(raw, made), frameOf(raw, made)), 32)).toHaveLength(32);
    expect(decode(concat(frameOf(raw, made), frameOf(raw, repeated)), 32)).toBe("EUCLEAN");
  });

  test("matches into the frame before", () => {
    const first = frameOf(block("raw", bytesOf("0123456789")));
    expect(decode(concat(first, frameOf(sequenceBlock(u8(7), 3 + 1, 3, true))), 14)).toHaveLength(14);
    expect(decode(concat(first, frameOf(sequenceBlock(u8(7), 3 + 2, 3, true))), 14)).toBe("EUCLEAN");
  });

  test("matches beyond the window, although the bytes were there", () => {
    const parts = Array.from({ length: 3 }, (_, i) => block("raw", new Uint8Array(1024).fill(i), { last: false }));
    const frame = (distance: number): Uint8Array =>
      concat(frameHeader({ windowByte: 0 }), ...parts, sequenceBlock(u8(9), distance + 3, 3, true));
    expect(decode(frame(1024), 3076)).toHaveLength(3076);
    expect(decode(frame(1025), 3076)).toBe("EUCLEAN");
  });

  test("a block that grows above 128 KiB, although the caller has room", () => {
    const codes = { literalLength: 3, offset: 2, matchLength: 52 };
    const blocks = (count: number): Uint8Array => {
      const bits = Array.from({ length: count }, () => [[0, 2] as const, [0, 16] as const]).flat();
      const bytes = new Uint8Array(3 * count).fill(7);
      return frameOf(compressed(rawLiterals(bytes), rleSequences({ count, ...codes, bits })));
    };
    expect(decode(blocks(1), 65_542)).toHaveLength(65_542);
    expect(decode(blocks(2), 131_084)).toBe("EUCLEAN");
  });
});

test("a dictionary id other than zero is not supported, which is said", () => {
  for (const bytes of [1, 2, 4] as const) {
    for (const id of [1, 2 ** (8 * bytes) - 1, 2 ** (8 * bytes - 1)]) {
      const frame = concat(frameHeader({ dictionary: [id, bytes] }), block("raw", u8(1)));
      expect(decode(frame, 1)).toBe("ENOTSUP");
    }
  }
});
