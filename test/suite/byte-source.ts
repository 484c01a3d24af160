import { describe, expect, test } from "bun:test";
import { NydusError } from "../../src/base/errors.ts";
import { type ByteSource, canStream } from "../../src/content/store/source.ts";

/** A source under test and what it must give. */
export interface SourceCase extends AsyncDisposable {
  readonly source: ByteSource;
  readonly bytes: Uint8Array;
}

/** What a promise fails with; fails the test when it does not, or with something else than a NydusError. */
export async function failureOf(promise: Promise<unknown>): Promise<NydusError> {
  const error = await promise.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(NydusError);
  return error as NydusError;
}

/** Every implementation of ByteSource runs this. @param make a source of some 100 to 300,000 bytes */
export function byteSourceSuite(title: string, make: (content: Uint8Array) => Promise<SourceCase>): void {
  const content = Uint8Array.from({ length: 200_003 }, (_, i) => (i * 31 + (i >> 8) * 7) & 0xff);
  describe(`${title} as ByteSource`, () => {
    test("readAt() gives exactly the bytes of ranges at the start, inside, at the end, and none", async () => {
      await using made = await make(content);
      const { source, bytes } = made;
      expect(source.sizeBytes).toBe(bytes.length);
      const end = bytes.length;
      for (const [from, to] of [
        [0, 1],
        [0, end],
        [4095, 4097],
        [end - 1, end],
        [end, end],
        [7, 7],
      ] as const) {
        expect(Buffer.from(await source.readAt({ start: from, end: to })).equals(bytes.subarray(from, to))).toBe(true);
      }
    });
    test("readAt() gives a buffer that the caller may change", async () => {
      await using made = await make(content);
      const first = await made.source.readAt({ start: 0, end: 100 });
      first.fill(1);
      expect(await made.source.readAt({ start: 0, end: 100 })).toEqual(made.bytes.slice(0, 100));
    });
    test("readAt() answers many ranges asked for at once", async () => {
      await using made = await make(content);
      const starts = Array.from({ length: 24 }, (_, i) => i * 4099);
      const pieces = await Promise.all(starts.map((start) => made.source.readAt({ start, end: start + 4099 })));
      for (const [i, piece] of pieces.entries()) {
        expect(Buffer.compare(piece, made.bytes.subarray(i * 4099, (i + 1) * 4099))).toBe(0);
      }
    });
    test.each([
      [-1, 5],
      [0, 200_004],
      [9, 3],
      [0.5, 2],
      [0, Number.NaN],
    ])("readAt() refuses the range %p to %p with EINVAL", async (start, end) => {
      await using made = await make(content);
      expect((await failureOf(made.source.readAt({ start, end }))).code).toBe("EINVAL");
    });
    test("readAt() under an aborted signal throws ECANCELED", async () => {
      await using made = await make(content);
      const signal = AbortSignal.abort();
      expect((await failureOf(made.source.readAt({ start: 0, end: 9 }, { signal }))).code).toBe("ECANCELED");
    });
    test("stream(), where it is there, gives all bytes in order, also twice", async () => {
      await using made = await make(content);
      if (!canStream(made.source)) return;
      for (let round = 0; round < 2; round++) {
        const pieces: Uint8Array[] = [];
        for await (const piece of made.source.stream()) pieces.push(piece.slice());
        expect(Buffer.concat(pieces).equals(made.bytes)).toBe(true);
      }
    });
    test("stream(), where it is there, can be left early", async () => {
      await using made = await make(content);
      if (!canStream(made.source)) return;
      for await (const piece of made.source.stream()) {
        expect(piece.length).toBeGreaterThan(0);
        break;
      }
      expect((await made.source.readAt({ start: 3, end: 5 })).length).toBe(2);
    });
    test("close() may be called twice", async () => {
      await using made = await make(content);
      await made.source.close();
      await made.source.close();
    });
  });
}
