import { describe, expect, test } from "bun:test";
import * as zlib from "node:zlib";
import { gzipSync } from "fflate";
import { loadKernels } from "../../../../src/format/codec/kernels.ts";
import { CHECKSUM, CORRUPT, codeOf, faultOf, type Streamed, streamOf, TRUNCATED } from "../../../kit/decode-stream.ts";
import { compressible } from "../../../kit/deflate-samples.ts";
import { BitWriter, concat, EMPTY, gzipHeader, type HeaderFields, member, utf8 } from "../../../kit/deflate-writer.ts";
import { Random } from "../../../kit/random.ts";

const kernels = await loadKernels();
const stream = streamOf(kernels);

const SEED = 0x1951;
console.log(`kernels-inflate-gzip.test.ts: seed ${SEED}`);
const random = new Random(SEED);

describe("gzip members", () => {
  const data = utf8("a member's data, a member's data");

  test.each<[string, HeaderFields]>([
    ["no field", {}],
    ["an extra field", { extra: random.bytes(300) }],
    ["an empty extra field", { extra: EMPTY }],
    ["the largest extra field", { extra: random.bytes(65_535) }],
    ["a name", { name: "layer.tar" }],
    ["an empty name", { name: "" }],
    ["a comment", { comment: "x".repeat(70_000) }],
    ["a header checksum", { headerCrc: true }],
    ["a text flag", { text: true }],
    ["every field", { extra: random.bytes(3), name: "n", comment: "c", headerCrc: true, text: true }],
    ["every field, empty", { extra: EMPTY, name: "", comment: "", headerCrc: true }],
  ])("with %s", (_, fields) => {
    const gz = member(data, fields);
    expect(kernels.inflate("gzip", gz, data.length)).toEqual(data);
    const pieceBytes = gz.length < 1000 ? 1 : 97;
    expect(stream("gzip", gz, pieceBytes, 1)).toEqual({ output: data, mayEnd: true });
  });

  test("a wrong header checksum is refused", () => {
    const gz = member(data, { name: "n", headerCrc: true });
    for (const at of [4, 9, 10, 12, 13]) {
      const bad = gz.slice();
      bad[at] = (bad[at] as number) ^ 0x40;
      expect(codeOf(() => kernels.inflate("gzip", bad, data.length))).toBe("EBADMSG");
    }
  });

  test.each([
    ["first magic byte", 0, 0x1e],
    ["second magic byte", 1, 0x8c],
    ["method", 2, 7],
    ["reserved flag", 3, 0x20],
    ["reserved flag", 3, 0x80],
  ])("a wrong %s is refused", (_, at, value) => {
    const gz = member(data);
    gz[at] = value;
    expect(faultOf(() => kernels.inflate("gzip", gz, data.length))).toBe(CORRUPT);
  });

  test("a wrong CRC-32 or size is a checksum error, in one call and in a stream", () => {
    for (let back = 1; back <= 8; back++) {
      const gz = member(data);
      gz[gz.length - back] = (gz[gz.length - back] as number) ^ 1;
      expect(faultOf(() => kernels.inflate("gzip", gz, data.length))).toBe(CHECKSUM);
      const pieces = (): Streamed => stream("gzip", gz, 5, 7);
      expect(codeOf(pieces)).toBe("EBADMSG");
    }
  });

  test("one after the other give their data end to end", () => {
    const parts = Array.from({ length: 40 }, (_, i) => compressible(random, i % 7 === 0 ? 0 : random.below(5000)));
    const gz = concat(...parts.map((part, i) => (i % 2 === 0 ? member(part) : gzipSync(part, { filename: "f" }))));
    const wanted = concat(...parts);
    expect(kernels.inflate("gzip", gz, wanted.length)).toEqual(wanted);
    for (const size of [3, 50, 500, 20_000]) {
      const pieces = stream("gzip", gz, size, size);
      expect(pieces).toEqual({ output: wanted, mayEnd: true });
    }
  });

  test("a member cannot refer to the data of the member before", () => {
    const reference = new BitWriter().number(3, 3).code("0000001").code("00000").code("0000000").bytes();
    const bad = concat(member(data), gzipHeader({}), reference, new Uint8Array(8));
    expect(faultOf(() => kernels.inflate("gzip", bad, data.length + 3))).toBe(CORRUPT);
    const byBytes = (): Streamed => stream("gzip", bad, 1, 1);
    expect(faultOf(byBytes)).toBe(CORRUPT);
  });

  test("zeros may follow the last member, other bytes may not", () => {
    const gz = member(data);
    for (const padding of [1, 7, 512, 100_000]) {
      const padded = concat(gz, new Uint8Array(padding));
      expect(kernels.inflate("gzip", padded, data.length)).toEqual(data);
      const pieces = stream("gzip", padded, 100, 100);
      expect(pieces).toEqual({ output: data, mayEnd: true });
      padded[padded.length - 1] = 1;
      expect(faultOf(() => kernels.inflate("gzip", padded, data.length))).toBe(CORRUPT);
    }
    const second = concat(gz, new Uint8Array(3), gz);
    expect(faultOf(() => kernels.inflate("gzip", second, data.length * 2))).toBe(CORRUPT);
    expect(faultOf(() => kernels.inflate("gzip", concat(gz, utf8("garbage")), data.length))).toBe(CORRUPT);
    expect(faultOf(() => kernels.inflate("gzip", concat(gz, Uint8Array.of(0x1f)), data.length))).toBe(TRUNCATED);
    expect(faultOf(() => kernels.inflate("gzip", concat(new Uint8Array(3), gz), data.length))).toBe(CORRUPT);
    expect(faultOf(() => kernels.inflate("gzip", new Uint8Array(3), 0))).toBe(CORRUPT);
  });

  test("nothing may follow the last block of a raw stream", () => {
    const raw = zlib.deflateRawSync(data);
    for (const tail of [Uint8Array.of(0), raw]) {
      expect(faultOf(() => kernels.inflate("raw-deflate", concat(raw, tail), data.length))).toBe(CORRUPT);
    }
  });
});
