import { describe, expect, test } from "bun:test";
import { concatBytes } from "../../../../src/base/bytes.ts";
import { NydusError } from "../../../../src/base/errors.ts";
import { decodeZstdFrameHeader, isPlainZstdFrame, ZstdFrameWalker } from "../../../../src/format/codec/zstd-frame.ts";
import { Random } from "../../../kit/random.ts";

const SEED = 0x25ed;
console.log(`zstd-frame.test.ts: seed ${SEED}`);

const random = new Random(SEED);
const text = new Uint8Array(300_000).fill(0x61);
const noise = random.bytes(300_000);
const MAGIC = [0x28, 0xb5, 0x2f, 0xfd];
const skippable = Uint8Array.of(0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3);
/** No content size, a checksum, one empty raw block: RFC 8878 section 3.1.1 by hand. */
const handmade = Uint8Array.of(...MAGIC, 0b0000_0100, 0x58, 1, 0, 0, 0x99, 0xe9, 0xd8, 0x51);

/** The offsets at which frames end, the data coming in pieces of `pieceBytes`. */
function ends(data: Uint8Array, pieceBytes: number): number[] {
  const walker = new ZstdFrameWalker();
  const found: number[] = [];
  for (let start = 0; start < data.length; start += pieceBytes) {
    const piece = data.subarray(start, start + pieceBytes);
    for (let at = 0; at < piece.length; ) {
      const step = walker.advance(piece, at);
      expect(step.at).toBeGreaterThan(at);
      at = step.at;
      if (step.frameEnds) found.push(start + at);
    }
  }
  return found;
}

function codeOf(fn: () => unknown): string {
  try {
    fn();
  } catch (error) {
    if (error instanceof NydusError) return error.code;
    throw error;
  }
  return "no error";
}

describe("decodeZstdFrameHeader()", () => {
  test.each([
    ["a single segment of 5 bytes", [0x20, 5], 5, 5],
    ["a content size of two bytes, which begins at 256", [0x60, 0, 1], 512, 512],
    ["four bytes", [0xa0, 1, 2, 3, 0], 0x030201, 0x030201],
    ["eight bytes", [0xe0, 0, 0, 0, 0, 1, 0, 0, 0], 2 ** 32, 2 ** 32],
    ["no content size and the smallest window", [0x00, 0x00], undefined, 1024],
    ["a window of 1.875 MiB", [0x00, 0x57], undefined, 1.875 * 1024 * 1024],
  ])("reads %s", (_, rest, contentBytes, windowBytes) => {
    const data = Uint8Array.from([...MAGIC, ...rest]);
    const headerBytes = data.length;
    expect(decodeZstdFrameHeader(data)).toMatchObject({ contentBytes, windowBytes, headerBytes, dictionaryId: 0 });
    for (let cut = 0; cut < data.length; cut++) expect(decodeZstdFrameHeader(data.subarray(0, cut))).toBeUndefined();
  });

  test.each([
    ["one byte", [0x01, 0x58, 7], 7],
    ["two bytes", [0x02, 0x58, 7, 1], 0x107],
    ["four bytes", [0x03, 0x58, 7, 1, 0, 1], 0x1000107],
  ])("reads a dictionary id of %s", (_, rest, dictionaryId) => {
    expect(decodeZstdFrameHeader(Uint8Array.from([...MAGIC, ...rest]))).toMatchObject({ dictionaryId });
  });

  test("rejects another magic number and the reserved bit", () => {
    expect(codeOf(() => decodeZstdFrameHeader(Uint8Array.of(0x1f, 0x8b, 8, 0, 0)))).toBe("EUCLEAN");
    expect(codeOf(() => decodeZstdFrameHeader(Uint8Array.of(...MAGIC, 0x28, 5)))).toBe("EUCLEAN");
  });
});

describe("ZstdFrameWalker", () => {
  const frames = [Bun.zstdCompressSync(text), skippable, handmade, Bun.zstdCompressSync(noise), handmade];
  const data = concatBytes(frames);
  const wanted = frames.map((_, i) => frames.slice(0, i + 1).reduce((sum, frame) => sum + frame.length, 0));

  test.each([1, 2, 3, 7, 1000, 1 << 20])("finds where frames end in pieces of %d bytes", (pieceBytes) => {
    expect(ends(data, pieceBytes)).toEqual(wanted);
  });

  test("finds no end in a frame that is cut anywhere", () => {
    for (const frame of [handmade, skippable, Bun.zstdCompressSync(text)]) {
      for (let cut = 0; cut < frame.length; cut++) expect(ends(frame.subarray(0, cut), 5)).toEqual([]);
    }
  });

  test("rejects a reserved block type, and a block above 128 KiB unless it repeats one byte", () => {
    const block = (header: number): Uint8Array =>
      Uint8Array.of(...MAGIC, 0, 0x58, header & 0xff, (header >> 8) & 0xff, header >> 16, 0);
    const above = (128 * 1024 + 1) << 3;
    expect(codeOf(() => ends(block(3 << 1), 100))).toBe("EUCLEAN");
    expect(codeOf(() => ends(block(above), 100))).toBe("EUCLEAN");
    expect(ends(block(above | 2 | 1), 100)).toEqual([10]);
  });
});

describe("isPlainZstdFrame()", () => {
  const frame = Bun.zstdCompressSync(text);

  test("takes one whole frame that declares the size", () => {
    expect(isPlainZstdFrame(frame, text.length)).toBe(true);
  });

  test.each([
    ["that declares another size", frame, text.length - 1],
    ["that is cut", frame.subarray(0, -1), text.length],
    ["with a byte behind it", concatBytes([frame, Uint8Array.of(0)]), text.length],
    ["with another behind it", concatBytes([frame, frame]), text.length],
    ["without a content size", handmade, 0],
    ["that is skippable", skippable, 3],
    ["that is malformed", frame.subarray(1), text.length],
    ["that is empty", new Uint8Array(0), 0],
  ])("refuses a frame %s", (_, data, sizeBytes) => {
    expect(isPlainZstdFrame(data, sizeBytes)).toBe(false);
  });
});
