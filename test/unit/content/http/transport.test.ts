import { describe, expect, test } from "bun:test";
import { createServer } from "node:net";
import { formatError } from "../../../../src/base/errors.ts";
import { httpFailure } from "../../../../src/content/http/failure.ts";
import type { HttpResponse } from "../../../../src/content/http/response.ts";
import { HttpClient, type HttpRequest } from "../../../../src/content/http/transport.ts";
import { type FakeRegistry, startFakeRegistry, times } from "../../../kit/fake-registry.ts";
import { failureOf } from "../../../suite/byte-source.ts";

interface Pair extends AsyncDisposable {
  readonly fake: FakeRegistry;
  readonly http: HttpClient;
  request(more?: Partial<HttpRequest>): HttpRequest;
}

async function start(): Promise<Pair> {
  const fake = await startFakeRegistry();
  const http = new HttpClient({ backoffMs: 1 });
  const request = (more: Partial<HttpRequest> = {}): HttpRequest => ({
    method: "GET",
    url: new URL("/path?token=secret", fake.origin),
    ...more,
  });
  const dispose = async (): Promise<void> => {
    await http[Symbol.asyncDispose]();
    await fake[Symbol.asyncDispose]();
  };
  return { fake, http, request, [Symbol.asyncDispose]: dispose };
}

const statusOf = async (response: HttpResponse): Promise<number> => response.status;
const orFail = async (response: HttpResponse): Promise<number> => {
  if (response.status !== 200) throw await httpFailure(response, "do it");
  return response.status;
};

describe("send()", () => {
  test.each([
    ["GET", 5],
    ["HEAD", 5],
    ["PUT", 5],
    ["DELETE", 5],
    ["POST", 1],
    ["PATCH", 1],
  ] as const)("asks by %s at most %p times when the server fails", async (method, count) => {
    await using pair = await start();
    pair.fake.rules.push(() => ({ status: 503 }));
    expect((await failureOf(pair.http.send(pair.request({ method }), orFail))).code).toBe("EIO");
    expect(pair.fake.requests.length).toBe(count);
  });

  test("asks again after connections that broke", async () => {
    await using pair = await start();
    pair.fake.rules.push(
      times(2, () => ({ status: 200, body: "x", cutAt: 0, end: "reset" })),
      () => ({ status: 200, body: "y" }),
    );
    const body = await pair.http.send(pair.request(), (response) => response.bytes(9));
    expect(Buffer.from(body).toString()).toBe("y");
  });

  test.each([400, 401, 403, 404, 405, 416])("asks once when the answer is %p", async (status) => {
    await using pair = await start();
    pair.fake.rules.push(() => ({ status }));
    await failureOf(pair.http.send(pair.request(), orFail));
    expect(pair.fake.requests.length).toBe(1);
  });

  test("sends a body again from its start, with its length", async () => {
    await using pair = await start();
    pair.fake.rules.push(
      times(2, () => ({ status: 502 })),
      () => ({ status: 200 }),
    );
    const open = async function* (): AsyncGenerator<Uint8Array> {
      yield Buffer.from("hello ");
      yield Buffer.from("world");
    };
    const body = { sizeBytes: 11, open };
    expect(await pair.http.send(pair.request({ method: "PUT", body }), orFail)).toBe(200);
    expect(pair.fake.requests.map((one) => one.body.toString())).toEqual(Array(3).fill("hello world"));
    expect(pair.fake.requests[2]?.headers["content-length"]).toBe("11");
  });

  test("ends at its deadline, whether the head, the body or the discarding hangs", async () => {
    await using pair = await start();
    const silent = createServer(() => undefined);
    await new Promise<void>((resolve) => silent.listen(0, "127.0.0.1", resolve));
    const url = new URL(`http://127.0.0.1:${(silent.address() as { port: number }).port}/x?token=secret`);
    const headless = await failureOf(pair.http.send(pair.request({ url, timeoutMs: 40 }), statusOf));
    expect(headless.code).toBe("ETIMEDOUT");
    expect(formatError(headless)).not.toContain("secret");
    silent.close();
    pair.fake.rules.push(() => ({ status: 200, body: "abc", cutAt: 1, end: "hang" }));
    const bodiless = pair.http.send(pair.request({ timeoutMs: 40 }), (response) => response.bytes(10));
    expect((await failureOf(bodiless)).code).toBe("ETIMEDOUT");
    const unread = pair.http.send(pair.request({ timeoutMs: 40 }), statusOf);
    expect((await failureOf(unread)).code).toBe("ETIMEDOUT");
  });

  test("ends with ECANCELED when its signal is aborted, between tries too", async () => {
    await using pair = await start();
    const controller = new AbortController();
    pair.fake.rules.push(() => {
      controller.abort();
      return { status: 503 };
    });
    const error = await failureOf(pair.http.send(pair.request({ signal: controller.signal }), orFail));
    expect(error.code).toBe("ECANCELED");
    expect(pair.fake.requests.length).toBe(1);
  });

  test("errors name method, status and address, but nothing secret", async () => {
    await using pair = await start();
    pair.fake.rules.push(() => ({
      status: 404,
      body: '{"errors":[{"code":"NAME_UNKNOWN","message":"no such name"}]}',
    }));
    const error = await failureOf(pair.http.send(pair.request(), orFail));
    expect(formatError(error)).toBe(
      `Cannot do it: the server answers 404: NAME_UNKNOWN: no such name (${pair.fake.origin}/path)`,
    );
    const gone = new URL("http://127.0.0.1:1/x?token=secret");
    const refused = await failureOf(pair.http.send(pair.request({ url: gone }), orFail));
    expect(refused.code).toBe("EIO");
    expect(formatError(refused)).not.toContain("secret");
  });
});

describe("an answer", () => {
  test("has its body capped by bytes() and cut by head()", async () => {
    await using pair = await start();
    pair.fake.rules.push(() => ({ status: 200, body: "0123456789" }));
    const text = (bytes: Uint8Array): string => Buffer.from(bytes).toString();
    expect(text(await pair.http.send(pair.request(), (response) => response.bytes(10)))).toBe("0123456789");
    expect((await failureOf(pair.http.send(pair.request(), (response) => response.bytes(9)))).code).toBe("EUCLEAN");
    expect(text(await pair.http.send(pair.request(), (response) => response.head(4)))).toBe("0123");
  });

  test("of open() is read beyond the deadline, and breaks with EIO", async () => {
    await using pair = await start();
    pair.fake.rules.push(() => ({ status: 200, body: Buffer.alloc(200_000, 1), cutAt: 100_000, end: "reset" }));
    const response = await pair.http.open(pair.request({ timeoutMs: 30 }));
    await Bun.sleep(60);
    let read = 0;
    const reading = (async () => {
      for await (const piece of response.body()) read += piece.length;
    })();
    expect((await failureOf(reading)).code).toBe("EIO");
    expect(read).toBeLessThanOrEqual(100_000);
  });
});
