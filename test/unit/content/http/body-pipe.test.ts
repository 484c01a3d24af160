import { describe, expect, test } from "bun:test";
import { BodyPipe } from "../../../../src/content/http/body-pipe.ts";

function make(): { readonly pipe: BodyPipe; readonly calls: string[] } {
  const calls: string[] = [];
  const pipe = new BodyPipe({
    pause: () => calls.push("pause"),
    resume: () => calls.push("resume"),
    abort: (reason) => {
      calls.push("abort");
      pipe.end(reason);
    },
  });
  return { pipe, calls };
}

const bytes = (length: number, value = 1): Uint8Array => new Uint8Array(length).fill(value);

describe("a body pipe", () => {
  test("stops its sender when 1 MiB waits, and lets it go on when it has been read", async () => {
    const { pipe, calls } = make();
    for (let i = 0; i < 3; i++) pipe.push(bytes(400_000));
    pipe.push(bytes(10));
    expect(calls).toEqual(["pause"]);
    await pipe.next();
    await pipe.next();
    expect(calls).toEqual(["pause"]);
    await pipe.next();
    expect(calls).toEqual(["pause", "resume"]);
  });

  test("gives pieces before and after they are asked for, then the end", async () => {
    const { pipe } = make();
    pipe.push(bytes(1));
    expect(await pipe.next()).toEqual(bytes(1));
    const waiting = pipe.next();
    pipe.push(bytes(2));
    expect(await waiting).toEqual(bytes(2));
    pipe.end();
    expect(await pipe.next()).toBeUndefined();
  });

  test("writes what waits and what comes into a buffer, in order", async () => {
    const { pipe } = make();
    pipe.push(bytes(2, 1));
    const target = new Uint8Array(5);
    const reading = pipe.readInto(target);
    pipe.push(bytes(3, 2));
    pipe.end();
    expect(await reading).toBe(5);
    expect([...target]).toEqual([1, 1, 2, 2, 2]);
  });

  test("says of a body that is longer than the buffer that it is, and drops it", async () => {
    const { pipe, calls } = make();
    const target = new Uint8Array(3);
    const reading = pipe.readInto(target);
    pipe.push(bytes(2, 7));
    pipe.push(bytes(2, 8));
    expect(await reading).toBeGreaterThan(3);
    expect([...target]).toEqual([7, 7, 8]);
    expect(calls).toEqual(["abort"]);
  });

  test("throws what the connection ended with, after the pieces before it", async () => {
    const { pipe } = make();
    pipe.push(bytes(1));
    pipe.end(new Error("reset"));
    expect(await pipe.next()).toEqual(bytes(1));
    expect(pipe.next()).rejects.toThrow("reset");
    const other = make().pipe;
    other.end(new Error("reset"));
    expect(other.readInto(new Uint8Array(1))).rejects.toThrow("reset");
  });

  test("drops a body that is not wanted: at once, past a number of bytes, and in time", async () => {
    const large = make();
    large.pipe.push(bytes(100));
    await large.pipe.discard({ bytes: 50, timeoutMs: 60_000 });
    expect(large.calls).toEqual(["abort"]);
    const slow = make();
    await slow.pipe.discard({ bytes: 50, timeoutMs: 1 });
    expect(slow.calls).toEqual(["abort"]);
    const short = make();
    short.pipe.push(bytes(10));
    short.pipe.end();
    await short.pipe.discard({ bytes: 50, timeoutMs: 60_000 });
    expect(short.calls).toEqual([]);
  });
});
