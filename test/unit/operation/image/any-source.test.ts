import { expect, test } from "bun:test";
import { NydusError } from "../../../../src/base/errors.ts";
import type { ByteSource } from "../../../../src/content/store/source.ts";
import { AnySource } from "../../../../src/operation/image/any-source.ts";

const RANGE = { start: 0, end: 4 };

/** A place that gives four bytes of its number, or fails. */
function place(number: number, failure?: NydusError): ByteSource & { reads: number } {
  return {
    sizeBytes: 4,
    reads: 0,
    async readAt() {
      this.reads++;
      if (failure !== undefined) throw failure;
      return new Uint8Array(4).fill(number);
    },
    close: async () => undefined,
  };
}

test("reads from the first place, and from the next where that one fails", async () => {
  const [good, spare] = [place(1), place(2)];
  const source = new AnySource(good);
  source.add(spare);
  expect([...(await source.readAt(RANGE))]).toEqual([1, 1, 1, 1]);
  expect(spare.reads).toBe(0);
  source.remove(good);
  expect([...(await source.readAt(RANGE))]).toEqual([2, 2, 2, 2]);
  const broken = new AnySource(place(0, new NydusError("EIO", "broken")));
  broken.add(spare);
  expect([...(await broken.readAt(RANGE))]).toEqual([2, 2, 2, 2]);
});

test("throws what the last place throws, each asked once, and says so where there is none", async () => {
  const places = (["EIO", "ETIMEDOUT"] as const).map((code, i) => place(i, new NydusError(code, code)));
  const source = new AnySource(places[0] as ByteSource);
  source.add(places[1] as ByteSource);
  await expect(source.readAt(RANGE)).rejects.toMatchObject({ code: "ETIMEDOUT" });
  expect(places.map(({ reads }) => reads)).toEqual([1, 1]);
  for (const one of places) source.remove(one);
  await expect(source.readAt(RANGE)).rejects.toMatchObject({ code: "ECANCELED" });
});

test("asks no other place for a read that was given up", async () => {
  const spare = place(2);
  const source = new AnySource(place(1, new NydusError("ECANCELED", "given up")));
  source.add(spare);
  await expect(source.readAt(RANGE, { signal: AbortSignal.abort() })).rejects.toMatchObject({ code: "ECANCELED" });
  expect(spare.reads).toBe(0);
});
