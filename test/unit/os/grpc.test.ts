import { afterEach, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, rmSync, statSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { NydusError } from "../../../src/base/errors.ts";
import type { ProtoService } from "../../../src/format/containerd/proto.ts";
import { GrpcClient, type GrpcServer, type Handler, type Message, serveGrpc } from "../../../src/os/grpc.ts";

const SERVICE: ProtoService = {
  name: "test.v1.Echo",
  schema: {
    nested: {
      Item: {
        fields: {
          text: { id: 1, type: "string" },
          number: { id: 2, type: "int64" },
          bytes: { id: 3, type: "bytes" },
          labels: { id: 4, keyType: "string", type: "string" },
          list: { id: 5, type: "string", rule: "repeated" },
          inner: { id: 6, type: "Item" },
        },
      },
    },
  },
  methods: {
    Echo: { request: "Item", response: "Item" },
    Fail: { request: "Item", response: "Item" },
    Wait: { request: "Item", response: "Item" },
    Count: { request: "Item", response: "Item", responseStream: true },
    Absent: { request: "Item", response: "Item" },
  },
};

let dir = "";
let server: GrpcServer | undefined;
let client: GrpcClient | undefined;
/** What calls that wait have seen. */
const seen: string[] = [];

const HANDLERS: Readonly<Record<string, Handler>> = {
  Echo: async (request) => request,
  Fail: async ({ text }) => {
    if (text === "unknown") throw new Error("something else");
    throw new NydusError(text, `Cannot do it: ${text}`, { path: "/secret" });
  },
  Wait: async ({ text }, { signal, metadata }) => {
    seen.push(`${text} for ${metadata("containerd-namespace") ?? "nobody"}`);
    await new Promise<void>((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
    seen.push(`${text} given up`);
    throw signal.reason;
  },
  async *Count({ number, text }, { signal }) {
    for (let i = 0; i < number; i++) {
      if (signal.aborted) {
        seen.push("count given up");
        return;
      }
      if (i === 3 && text === "fail") throw new NydusError("ENOENT", "Cannot count on");
      yield { number: i, bytes: new Uint8Array(1 << 16) };
    }
  },
};

async function start(): Promise<GrpcClient> {
  dir = mkdtempSync(join(tmpdir(), "nydus-grpc-"));
  const socket = join(dir, "a", "grpc.sock");
  server = await serveGrpc(socket, [{ service: SERVICE, handlers: HANDLERS }]);
  client = new GrpcClient(socket);
  return client;
}

afterEach(async () => {
  client?.[Symbol.dispose]();
  await server?.close();
  rmSync(dir, { recursive: true, force: true });
  [client, server] = [undefined, undefined];
  seen.length = 0;
});

async function failureOf(promise: Promise<unknown>): Promise<NydusError> {
  try {
    await promise;
  } catch (error) {
    return error as NydusError;
  }
  throw new Error("it did not fail");
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await sleep(5);
}

describe("gRPC over a unix socket", () => {
  test("a message comes back as it was sent, with what was left out as its default", async () => {
    const { call } = bound(await start());
    const sent = { text: "ä", number: 2 ** 53 - 1, bytes: new Uint8Array([0, 255]), labels: { a: "b", "": "" } };
    const got = await call("Echo", { ...sent, list: ["x", ""], inner: { number: -1 } });
    expect({ ...got, bytes: [...got["bytes"]] }).toMatchObject({ ...sent, bytes: [0, 255], list: ["x", ""] });
    expect(got["inner"]).toMatchObject({ number: -1, text: "", list: [], labels: {} });
    expect((await call("Echo", {}))["number"]).toBe(0);
  });

  test("a message of 15 MiB passes, one of 17 MiB is refused", async () => {
    const { call } = bound(await start());
    const big = await call("Echo", { bytes: new Uint8Array(15 << 20).fill(7) });
    expect([big["bytes"].length, big["bytes"][(15 << 20) - 1]]).toEqual([15 << 20, 7]);
    expect((await failureOf(call("Echo", { bytes: new Uint8Array(17 << 20) }))).code).toBe("ENOSPC");
  });

  test.each([
    ["ENOENT", "ENOENT"],
    ["EEXIST", "EEXIST"],
    ["EINVAL", "EINVAL"],
    ["EBUSY", "EBUSY"],
    ["EUCLEAN", "EUCLEAN"],
    ["EBADMSG", "EUCLEAN"], // both are DATA_LOSS
    ["EIO", "EIO"],
    ["ENOTSUP", "ENOTSUP"],
    ["unknown", "EFAULT"],
  ] as const)("what a handler throws as %s arrives as %s", async (thrown, code) => {
    const { call } = bound(await start());
    const failure = await failureOf(call("Fail", { text: thrown }));
    expect(failure.code).toBe(code);
    expect(failure.message).toBe(thrown === "unknown" ? "something else" : `Cannot do it: ${thrown}`);
  });

  test("a method without a handler is not supported", async () => {
    const { call } = bound(await start());
    expect((await failureOf(call("Absent", {}))).code).toBe("ENOTSUP");
  });

  test("a stream gives all its messages in order, however slow they are read", async () => {
    const made = await start();
    const numbers: number[] = [];
    for await (const message of made.stream(SERVICE, "Count", { number: 200 })) {
      numbers.push(message["number"]);
      if (numbers.length % 50 === 0) await sleep(5);
    }
    expect(numbers).toEqual(Array.from({ length: 200 }, (_, i) => i));
  });

  test("a stream that fails gives what was before, then the error", async () => {
    const made = await start();
    const numbers: number[] = [];
    const failure = await failureOf(
      (async () => {
        for await (const message of made.stream(SERVICE, "Count", { number: 9, text: "fail" }))
          numbers.push(message["number"]);
      })(),
    );
    expect([numbers, failure.code]).toEqual([[0, 1, 2], "ENOENT"]);
  });

  test("who leaves a stream early ends it on the other side", async () => {
    const made = await start();
    for await (const _ of made.stream(SERVICE, "Count", { number: 1e6 })) break;
    await until(() => seen.includes("count given up"));
  });

  test("an aborted call fails with the reason, and the handler is told", async () => {
    const { call } = bound(await start());
    const controller = new AbortController();
    const options = { signal: controller.signal, metadata: { "containerd-namespace": "k8s.io" } };
    const failed = failureOf(call("Wait", { text: "one" }, options));
    await until(() => seen.length > 0);
    controller.abort(new NydusError("ECANCELED", "enough"));
    expect(await failed).toMatchObject({ code: "ECANCELED", message: "enough" });
    await until(() => seen.includes("one given up"));
    expect(seen[0]).toBe("one for k8s.io");
  });

  test("a deadline ends a call with ETIMEDOUT", async () => {
    const { call } = bound(await start());
    expect((await failureOf(call("Wait", { text: "slow" }, { timeoutMs: 50 }))).code).toBe("ETIMEDOUT");
    await until(() => seen.includes("slow given up"));
  });

  test("a server that closes ends calls that are left, and takes its socket away", async () => {
    const { call } = bound(await start());
    const failed = failureOf(call("Wait", { text: "left" }));
    await until(() => seen.length > 0);
    await server?.close(50);
    expect((await failed).code).toMatch(/EIO|ECANCELED/);
    await until(() => seen.includes("left given up"));
    expect(existsSync(join(dir, "a", "grpc.sock"))).toBe(false);
  });

  test("a client that is closed ends its calls", async () => {
    const made = await start();
    const failed = failureOf(made.call(SERVICE, "Wait", { text: "left" }));
    await until(() => seen.length > 0);
    made[Symbol.dispose]();
    expect((await failed).code).toBe("ECANCELED");
    await until(() => seen.includes("left given up"));
  });

  test("a server that closes does not wait for clients that are idle", async () => {
    const { call } = bound(await start());
    await call("Echo", {});
    const closed = server?.close();
    const first = await Promise.race([closed?.then(() => "closed"), sleep(3_000, "still there")]);
    expect(first).toBe("closed");
  });

  test("a socket that a dead server has left is replaced", async () => {
    dir = mkdtempSync(join(tmpdir(), "nydus-grpc-"));
    const socket = join(dir, "grpc.sock");
    await leaveSocket(socket);
    expect(statSync(socket).isSocket()).toBe(true);
    server = await serveGrpc(socket, [{ service: SERVICE, handlers: HANDLERS }]);
    client = new GrpcClient(socket);
    expect((await client.call(SERVICE, "Echo", { text: "alive" }))["text"]).toBe("alive");
  });

  test("a client finds a server again that was restarted", async () => {
    const { call } = bound(await start());
    await call("Echo", {});
    await server?.close();
    expect((await failureOf(call("Echo", {}))).code).toBe("EIO");
    server = await serveGrpc(join(dir, "a", "grpc.sock"), [{ service: SERVICE, handlers: HANDLERS }]);
    let got: Message | undefined;
    while (got === undefined) {
      got = await call("Echo", { text: "again" }).catch(() => undefined);
      await sleep(20);
    }
    expect(got["text"]).toBe("again");
  }, 15_000);
});

function bound(made: GrpcClient) {
  const call = (name: string, request: Message, options = {}): Promise<Message> =>
    made.call(SERVICE, name, request, options);
  return { call };
}

/** A socket in the file system that nobody listens on. */
async function leaveSocket(path: string): Promise<void> {
  const child = Bun.spawn([
    "python3",
    "-c",
    `import socket; s = socket.socket(socket.AF_UNIX); s.bind(${JSON.stringify(path)})`,
  ]);
  if ((await child.exited) === 0) return;
  const holder = createServer().listen(path);
  holder.unref();
}
