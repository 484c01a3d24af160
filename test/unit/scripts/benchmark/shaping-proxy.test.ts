import { expect, test } from "bun:test";
import { startShapingProxy } from "../../../../scripts/benchmark/shaping-proxy.ts";
import { Random } from "../../../kit/random.ts";

const FAST = { bitsPerSecond: 10e9, roundTripMs: 2 };
const SEED = 20;

/** Answers every request with its own body. */
function startEcho() {
  return Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: async (request) => new Response(await request.bytes()) });
}

test("startShapingProxy() passes bytes through unchanged both ways and counts them", async () => {
  await using echo = startEcho();
  await using proxy = await startShapingProxy(echo.port as number, FAST);
  const body = new Random(SEED).bytes(3_000_001);
  const bodies = await Promise.all(
    Array.from({ length: 4 }, async () => {
      const answer = await fetch(`http://127.0.0.1:${proxy.port}/`, { method: "POST", body });
      return answer.bytes();
    }),
  );
  for (const found of bodies) expect(Buffer.compare(found, body)).toBe(0);
  const { downBytes, upBytes, connections } = proxy.traffic;
  expect(downBytes).toBeGreaterThan(4 * body.length);
  expect(downBytes).toBeLessThan(4 * body.length + 4096);
  expect(upBytes).toBeGreaterThan(4 * body.length);
  expect(connections).toBeGreaterThan(0);
});

test("a client whose server is not there sees its connection closed", async () => {
  const echo = startEcho();
  const { port } = echo;
  await echo.stop(true);
  await using proxy = await startShapingProxy(port as number, FAST);
  await expect(fetch(`http://127.0.0.1:${proxy.port}/`)).rejects.toThrow();
});

test("a client that leaves takes the connection to its server along", async () => {
  let left = (): void => undefined;
  const gone = new Promise<void>((resolve) => {
    left = resolve;
  });
  using server = Bun.listen({ port: 0, hostname: "127.0.0.1", socket: { data: () => undefined, close: () => left() } });
  await using proxy = await startShapingProxy(server.port, FAST);
  const client = await Bun.connect({ port: proxy.port, hostname: "127.0.0.1", socket: { data: () => undefined } });
  client.write("x");
  while (proxy.traffic.upBytes === 0) await Bun.sleep(1);
  client.terminate();
  await gone;
});

test("disposing ends connections under way", async () => {
  await using silent = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    fetch: () => new Promise<Response>(() => undefined),
  });
  const proxy = await startShapingProxy(silent.port as number, FAST);
  const waiting = fetch(`http://127.0.0.1:${proxy.port}/`).then(
    () => "answered",
    () => "closed",
  );
  while (proxy.traffic.upBytes === 0) await Bun.sleep(1);
  await proxy[Symbol.asyncDispose]();
  expect(await waiting).toBe("closed");
});
