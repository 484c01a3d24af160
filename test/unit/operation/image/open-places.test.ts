import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Digest } from "../../../../src/base/digest.ts";
import { heldCredential } from "../../../../src/content/registry/credential-files.ts";
import { parseReference } from "../../../../src/format/oci/reference.ts";
import { type BlobPlace, PlacesSource } from "../../../../src/operation/image/open-places.ts";
import { digestOf, type FakeRegistry, startFakeRegistry, times } from "../../../kit/fake-registry.ts";
import { failureOf } from "../../../suite/byte-source.ts";

/** The blob has more than whoever asks for it knows of: what its builder appended uncounted. */
const BLOB = Buffer.from("0123456789-and-more");
const DIGEST = digestOf(BLOB) as Digest;
const KNOWN = { digest: DIGEST, leastBytes: 10 };

let dir: string;
let first: FakeRegistry;
let second: FakeRegistry;
let clock: number;

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), "nydus-places-"));
  first = await startFakeRegistry();
  second = await startFakeRegistry();
  for (const { blobs } of [first, second]) blobs.set(DIGEST, BLOB);
  clock = 0;
});
afterEach(async () => {
  await first[Symbol.asyncDispose]();
  await second[Symbol.asyncDispose]();
  rmSync(dir, { recursive: true });
});

function placeAt({ host }: FakeRegistry): BlobPlace {
  const options = { credentials: heldCredential(undefined) };
  return { registry: { reference: parseReference(`${host}/a/b:1`), options } };
}

const refuse = (): { status: number } => ({ status: 403 });

function sourceOf(...places: readonly BlobPlace[]): PlacesSource {
  return new PlacesSource(KNOWN, places, () => clock);
}

async function textOf(source: PlacesSource, start: number, end: number): Promise<string> {
  return Buffer.from(await source.readAt({ start, end })).toString();
}

/** A socket where somebody listens who never says a word. */
async function silentSocket(): Promise<AsyncDisposable & { path: string; taken: Set<Socket> }> {
  const path = join(dir, "silent.sock");
  const taken = new Set<Socket>();
  const server: Server = createServer((socket) => void taken.add(socket));
  await new Promise<void>((resolve) => server.listen(path, resolve));
  const close = async (): Promise<void> => {
    for (const socket of taken) socket.destroy();
    await new Promise((resolve) => server.close(resolve));
  };
  return { path, taken, [Symbol.asyncDispose]: close };
}

describe("a blob in several places", () => {
  test("asks none of them before it is read, and then only the first that has it", async () => {
    const source = sourceOf(placeAt(first), placeAt(second));
    await Bun.sleep(20);
    expect([first.requests.length, second.requests.length]).toEqual([0, 0]);
    expect(await textOf(source, 2, 5)).toBe("234");
    expect(await textOf(source, 0, 10)).toBe("0123456789");
    expect(first.requests.map(({ headers }) => headers["range"])).toEqual(["bytes=2-4", "bytes=0-9"]);
    expect(second.requests.length).toBe(0);
    await source.close();
  });

  test("is read from the next place when the first one fails, which then rests for a while", async () => {
    first.rules.push(refuse);
    const source = sourceOf(placeAt(first), placeAt(second));
    expect(await textOf(source, 0, 3)).toBe("012");
    expect(await textOf(source, 3, 6)).toBe("345");
    expect([first.requests.length, second.requests.length]).toEqual([1, 2]);
    first.rules.pop();
    clock += 5_000;
    expect(await textOf(source, 6, 9)).toBe("678");
    expect([first.requests.length, second.requests.length]).toEqual([2, 2]);
    await source.close();
  });

  test("that is missing in the first place is not looked for there again so soon", async () => {
    first.blobs.clear();
    const source = sourceOf(placeAt(first), placeAt(second));
    await textOf(source, 0, 3);
    clock += 29_000;
    await textOf(source, 0, 3);
    expect(first.requests.length).toBe(1);
    clock += 1_000;
    await textOf(source, 0, 3);
    expect(first.requests.length).toBe(2);
    await source.close();
  });

  test("is had again as soon as any place has it again, resting or not", async () => {
    first.rules.push(refuse);
    second.rules.push(refuse);
    const source = sourceOf(placeAt(first), placeAt(second));
    expect(await failureOf(source.readAt({ start: 0, end: 3 }))).toMatchObject({
      code: "EACCES",
      at: { digest: DIGEST },
    });
    second.rules.pop();
    expect(await textOf(source, 0, 3)).toBe("012");
    await source.close();
  });

  test("fails as a place that fails says, not as one that lacks it", async () => {
    first.rules.push(refuse);
    second.blobs.clear();
    const source = sourceOf(placeAt(first), placeAt(second));
    expect(await failureOf(source.readAt({ start: 0, end: 3 }))).toMatchObject({ code: "EACCES" });
    await source.close();
  });

  test("is read from the registry where no containerd is", async () => {
    const absent = { containerd: { address: join(dir, "no.sock"), namespace: "default" } };
    const source = sourceOf(absent, placeAt(second));
    expect(await textOf(source, 0, 3)).toBe("012");
    await source.close();
  });

  test("of no place at all is ENOENT", async () => {
    expect(await failureOf(sourceOf().readAt({ start: 0, end: 3 }))).toMatchObject({ code: "ENOENT" });
  });

  test("beyond what is known of it is not read, nor after it was closed", async () => {
    const source = sourceOf(placeAt(first));
    expect(await failureOf(source.readAt({ start: 5, end: 11 }))).toMatchObject({ code: "EINVAL" });
    await source.close();
    expect(await failureOf(source.readAt({ start: 0, end: 1 }))).toMatchObject({ code: "EINVAL" });
    expect(first.requests.length).toBe(0);
  });

  test("is given up by a reader that is interrupted, without the place being blamed", async () => {
    first.rules.push(times(1, () => ({ status: 206, body: "012", cutAt: 0, end: "hang" })));
    const source = sourceOf(placeAt(first), placeAt(second));
    const reader = new AbortController();
    const reading = failureOf(source.readAt({ start: 0, end: 3 }, { signal: reader.signal }));
    while (first.requests.length === 0) await Bun.sleep(5);
    reader.abort();
    expect(await reading).toMatchObject({ code: "ECANCELED" });
    expect(await textOf(source, 0, 3)).toBe("012");
    expect([first.requests.length, second.requests.length]).toEqual([2, 0]);
    await source.close();
  });

  test("is closed soon although a containerd that hangs is still being asked", async () => {
    await using silent = await silentSocket();
    const source = sourceOf({ containerd: { address: silent.path, namespace: "default" } }, placeAt(second));
    const reader = new AbortController();
    const reading = failureOf(source.readAt({ start: 0, end: 3 }, { signal: reader.signal }));
    while (silent.taken.size === 0) await Bun.sleep(5);
    reader.abort();
    expect(await reading).toMatchObject({ code: "ECANCELED" });
    expect(second.requests.length).toBe(0);
    await source.close();
  });

  test("serves who reads while it is closed", async () => {
    first.rules.push(() => ({ status: 206, headers: { "content-range": "bytes 0-3/19" }, body: "0123", dripMs: 20 }));
    const source = sourceOf(placeAt(first));
    const reading = textOf(source, 0, 4);
    while (first.requests.length === 0) await Bun.sleep(5);
    await source.close();
    expect(await reading).toBe("0123");
  });
});
