import { describe, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Digest, parseDigest } from "../../../../src/base/digest.ts";
import { formatError } from "../../../../src/base/errors.ts";
import { HttpClient } from "../../../../src/content/http/transport.ts";
import { heldCredential } from "../../../../src/content/registry/credential-files.ts";
import { Registry } from "../../../../src/content/registry/registry.ts";
import { RegistryBlob } from "../../../../src/content/registry/registry-source.ts";
import { openSource, openTarget } from "../../../../src/content/store/open-store.ts";
import {
  type FakeAnswer,
  type FakeRegistry,
  type FakeRule,
  startFakeRegistry,
  times,
} from "../../../kit/fake-registry.ts";
import { byteSourceSuite, failureOf } from "../../../suite/byte-source.ts";
import { expectImage, imageStoreSuite, sampleImage, writeImage } from "../../../suite/image-store.ts";

const CONTENT = Buffer.from(Uint8Array.from({ length: 100_000 }, (_, i) => (i * 7 + (i >> 8)) & 0xff));

interface BlobCase extends AsyncDisposable {
  readonly fake: FakeRegistry;
  readonly blob: RegistryBlob;
  readonly digest: Digest;
}

async function makeBlob(content: Buffer = CONTENT): Promise<BlobCase> {
  const fake = await startFakeRegistry();
  const digest = parseDigest(`sha256:${createHash("sha256").update(content).digest("hex")}`);
  fake.blobs.set(digest, content);
  const http = new HttpClient({ backoffMs: 1 });
  const access = { http, credentials: heldCredential(undefined) };
  const registry = new Registry(access, { registry: fake.host, repository: "a/b" });
  const blob = new RegistryBlob(registry, { digest, size: content.length });
  const dispose = async (): Promise<void> => {
    await http[Symbol.asyncDispose]();
    await fake[Symbol.asyncDispose]();
  };
  return { fake, blob, digest, [Symbol.asyncDispose]: dispose };
}

async function readStream(blob: RegistryBlob): Promise<Buffer> {
  const pieces: Uint8Array[] = [];
  for await (const piece of blob.stream()) pieces.push(piece.slice());
  return Buffer.concat(pieces);
}

byteSourceSuite("A blob of a registry", async (bytes) => {
  const made = await makeBlob(Buffer.from(bytes));
  return { source: made.blob, bytes, [Symbol.asyncDispose]: () => made[Symbol.asyncDispose]() };
});

imageStoreSuite("docker://", async () => {
  const fake = await startFakeRegistry();
  const dir = mkdtempSync(join(tmpdir(), "nydus-registry-"));
  const name = (reference: string): string => `docker://${fake.host}/some/repo:${reference}`;
  return {
    source: (reference) => openSource(name(reference), { root: dir }),
    target: (reference) => openTarget(name(reference), { root: dir }),
    [Symbol.asyncDispose]: async () => {
      await fake[Symbol.asyncDispose]();
      expect(readdirSync(dir).flatMap((sub) => readdirSync(join(dir, sub)))).toEqual([]); // no temporary file is left
      rmSync(dir, { recursive: true, force: true });
    },
  };
});

/** The Content-Range of what these tests ask for. */
const ASKED = { "content-range": "bytes 1000-2999/100000" };

const isRanged: (rule: FakeRule) => FakeRule = (rule) => (request) =>
  request.headers["range"] === undefined ? undefined : rule(request);

describe("a ranged read", () => {
  const range = { start: 1000, end: 3000 };
  const wanted = CONTENT.subarray(1000, 3000);
  const part = (more: Partial<FakeAnswer>): FakeRule =>
    isRanged(() => ({ status: 206, headers: { "content-range": "bytes 1000-2999/100000" }, body: wanted, ...more }));

  test.each<[string, FakeRule]>([
    ["ignores the range", isRanged(() => ({ status: 200, body: CONTENT }))],
    [
      "answers 500 twice, then right",
      times(
        2,
        isRanged(() => ({ status: 500, body: "oops" })),
      ),
    ],
    [
      "answers 429, then right",
      times(
        1,
        isRanged(() => ({ status: 429 })),
      ),
    ],
    ["resets the connection mid-body once", times(1, part({ cutAt: 700, end: "reset" }))],
    ["closes the connection mid-body once", times(1, part({ cutAt: 700, end: "close" }))],
    ["sends nothing and closes once", times(1, part({ cutAt: 0, end: "close" }))],
    ["says no Content-Type and identity", part({ headers: { ...ASKED, "content-encoding": "identity" } })],
    ["does not know the whole size", part({ headers: { "content-range": "bytes 1000-2999/*" } })],
  ])("from a registry that %s gives the bytes", async (_what, rule) => {
    await using made = await makeBlob();
    made.fake.rules.push(rule);
    expect(Buffer.from(await made.blob.readAt(range)).equals(wanted)).toBe(true);
  });

  test.each<[string, FakeRule, string]>([
    ["sends another range", part({ headers: { "content-range": "bytes 0-1999/100000" } }), "EUCLEAN"],
    ["says another range than it sends", part({ headers: { "content-range": "bytes 1000-3999/100000" } }), "EUCLEAN"],
    ["says another size of the whole", part({ headers: { "content-range": "bytes 1000-2999/100001" } }), "EUCLEAN"],
    ["says no range", part({ headers: {} }), "EUCLEAN"],
    ["sends parts", part({ headers: { "content-type": "multipart/byteranges; boundary=x" } }), "EUCLEAN"],
    [
      "sends parts with a range beside",
      part({ headers: { ...ASKED, "content-type": "multipart/byteranges" } }),
      "EUCLEAN",
    ],
    ["sends gzip", part({ headers: { ...ASKED, "content-encoding": "gzip" } }), "EUCLEAN"],
    [
      "sends gzip of the whole",
      isRanged(() => ({ status: 200, headers: { "content-encoding": "gzip" }, body: CONTENT })),
      "EUCLEAN",
    ],
    ["sends a range in other units", part({ headers: { "content-range": "items 1000-2999/100000" } }), "EUCLEAN"],
    ["says a length that is none", part({ headers: { ...ASKED, "content-length": "2000, 2000" } }), "EIO"],
    ["says another length than it sends", part({ headers: { ...ASKED, "content-length": "1999" } }), "EUCLEAN"],
    ["answers 204", isRanged(() => ({ status: 204, headers: { "content-length": "" } })), "EIO"],
    ["answers 201", isRanged(() => ({ status: 201, body: wanted })), "EIO"],
    ["sends fewer bytes", part({ body: wanted.subarray(0, 900) }), "EUCLEAN"],
    ["sends more bytes", part({ body: CONTENT.subarray(1000, 3001) }), "EUCLEAN"],
    ["has another blob", isRanged(() => ({ status: 200, body: CONTENT.subarray(1) })), "EUCLEAN"],
    ["has no such range", isRanged(() => ({ status: 416 })), "EUCLEAN"],
    ["has no such blob", isRanged(() => ({ status: 404, body: '{"errors":[{"code":"BLOB_UNKNOWN"}]}' })), "ENOENT"],
    ["refuses", isRanged(() => ({ status: 403, body: '{"errors":[{"code":"DENIED","message":"no"}]}' })), "EACCES"],
    ["breaks each time", part({ cutAt: 700, end: "reset" }), "EIO"],
  ])("from a registry that %s is refused", async (_what, rule, code) => {
    await using made = await makeBlob();
    made.fake.rules.push(rule);
    const error = await failureOf(made.blob.readAt(range));
    expect(error.code as string).toBe(code);
    expect([error.at.digest, error.at.offset, error.at.length]).toEqual([made.digest, 1000, 2000]);
    expect(error.at.url).toBe(`${made.fake.origin}/v2/a/b/blobs/${made.digest}`);
  });

  /** An answer whose body says nothing of its length. */
  const chunked = (bytes: Buffer, more: Partial<FakeAnswer> = {}): FakeAnswer => {
    const head = Buffer.from(`${bytes.length.toString(16)}\r\n`);
    const headers = { "transfer-encoding": "chunked", "content-length": "", ...more.headers };
    return { status: 206, ...more, headers, body: Buffer.concat([head, bytes, Buffer.from("\r\n0\r\n\r\n")]) };
  };
  const asked = { "content-range": "bytes 1000-2999/100000" };

  test.each([
    ["short", wanted.subarray(0, 100), "EIO"],
    ["long", CONTENT.subarray(1000, 3500), "EUCLEAN"],
  ])("from a body without a length that is too %s is refused", async (_what, bytes, code) => {
    await using made = await makeBlob();
    made.fake.rules.push(isRanged(() => chunked(bytes, { headers: asked })));
    expect((await failureOf(made.blob.readAt(range))).code as string).toBe(code);
  });

  test("from a body without a length that is short once is asked again", async () => {
    await using made = await makeBlob();
    made.fake.rules.push(
      times(
        1,
        isRanged(() => chunked(wanted.subarray(0, 100), { headers: asked })),
      ),
    );
    expect(Buffer.from(await made.blob.readAt(range)).equals(wanted)).toBe(true);
  });

  test("by stream() from a body without a length that is too long is refused", async () => {
    await using made = await makeBlob();
    made.fake.rules.push(() => chunked(Buffer.concat([CONTENT, CONTENT]), { status: 200 }));
    expect((await failureOf(readStream(made.blob))).code).toBe("EUCLEAN");
  });

  test("far into a blob of a registry that ignores ranges is refused: it cannot be lazy", async () => {
    const large = Buffer.alloc(9 << 20, 3);
    await using made = await makeBlob(large);
    made.fake.rules.push(isRanged(() => ({ status: 200, body: large })));
    expect((await failureOf(made.blob.readAt({ start: (8 << 20) + 1, end: 9 << 20 }))).code).toBe("ENOTSUP");
  });

  test("near the start of a huge blob of a registry that ignores ranges takes only what it needs", async () => {
    const huge = Buffer.alloc(64 << 20, 5);
    await using made = await makeBlob(huge);
    made.fake.rules.push(isRanged(() => ({ status: 200, body: huge })));
    const bytes = await made.blob.readAt({ start: 4 << 20, end: (4 << 20) + 4096 });
    expect(bytes.every((byte) => byte === 5) && bytes.length === 4096).toBe(true);
    // The connection is ended with most of the body unsent: what is taken does not grow with the blob.
    expect(await made.fake.sentBytes()).toBeLessThan(40 << 20);
  });

  test("from a registry that sends a byte now and then ends at the reader's deadline", async () => {
    await using made = await makeBlob();
    made.fake.rules.push(part({ headers: ASKED, dripMs: 5 }));
    const reading = made.blob.readAt(range, { signal: AbortSignal.timeout(100) });
    expect(["ETIMEDOUT", "ECANCELED"]).toContain((await failureOf(reading)).code);
  });

  test("that is aborted ends at once, though the registry never answers", async () => {
    await using made = await makeBlob();
    made.fake.rules.push(part({ cutAt: 10, end: "hang" }));
    const controller = new AbortController();
    const reading = failureOf(made.blob.readAt(range, { signal: controller.signal }));
    setTimeout(() => controller.abort(), 30);
    expect((await reading).code).toBe("ECANCELED");
  });
});

describe("redirects", () => {
  const range = { start: 10, end: 20 };

  test("are followed to another host without the token, relative ones too, and remembered", async () => {
    await using cdn = await startFakeRegistry();
    await using made = await makeBlob();
    cdn.blobs.set(made.digest, CONTENT);
    const token = "canary-token";
    made.fake.rules.push((request) => {
      if (request.path.startsWith("/token")) return { status: 200, body: JSON.stringify({ token }) };
      if (request.headers["authorization"] !== `Bearer ${token}`) {
        const realm = `Bearer realm="${made.fake.origin}/token",service="s",scope="repository:a/b:pull"`;
        return { status: 401, headers: { "www-authenticate": realm } };
      }
      if (request.path.startsWith("/hop")) {
        return { status: 307, headers: { location: `${cdn.origin}/v2/x/y/blobs/${made.digest}?sig=secret` } };
      }
      return { status: 302, headers: { location: "../../../../hop?x=1" } };
    });
    expect(Buffer.from(await made.blob.readAt(range)).equals(CONTENT.subarray(10, 20))).toBe(true);
    expect(cdn.requests.map(({ headers }) => headers["authorization"])).toEqual([undefined]);
    expect(cdn.requests[0]?.headers["range"]).toBe("bytes=10-19");
    const before = made.fake.requests.length;
    await made.blob.readAt({ start: 30, end: 40 });
    expect([made.fake.requests.length, cdn.requests.length]).toEqual([before, 2]);
    cdn.rules.push(times(1, () => ({ status: 403, body: "expired" })));
    await made.blob.readAt({ start: 50, end: 60 });
    expect(made.fake.requests.length).toBe(before + 2);
    cdn.rules.push(() => ({ status: 404, body: '{"errors":[{"message":"gone"}]}' }));
    const error = await failureOf(made.blob.readAt({ start: 70, end: 80 }));
    expect(formatError(error)).not.toContain("secret");
    expect(formatError(error)).not.toContain(token);
  });

  test("are followed through five hosts, each a relative or a whole address, and asked anew when they expire", async () => {
    await using made = await makeBlob();
    await using other = await startFakeRegistry();
    other.blobs.set(made.digest, CONTENT);
    made.fake.rules.push(({ path }) => {
      if (path.includes("/blobs/")) return { status: 307, headers: { location: "/one?x=canary" } };
      if (path.startsWith("/one")) return { status: 302, headers: { location: `//${other.host}/two` } };
      return { status: 308, headers: { location: `${other.origin}/four` } };
    });
    let signature = 0;
    other.rules.push(({ path }) => {
      if (path.startsWith("/two")) return { status: 301, headers: { location: `${made.fake.origin}/three` } };
      if (path.startsWith("/four"))
        return { status: 303, headers: { location: `v2/x/blobs/${made.digest}?sig=${++signature}` } };
      return path.endsWith(`?sig=${signature}`) ? undefined : { status: 403, body: "<Error>expired</Error>" };
    });
    expect(Buffer.from(await made.blob.readAt(range)).equals(CONTENT.subarray(10, 20))).toBe(true);
    const before = made.fake.requests.length;
    await made.blob.readAt(range);
    expect([made.fake.requests.length, signature]).toEqual([before, 1]);
    signature = 2; // the first has had its time
    expect(Buffer.from(await made.blob.readAt(range)).equals(CONTENT.subarray(10, 20))).toBe(true);
    expect([made.fake.requests.length, signature]).toEqual([2 * before, 3]);
  });

  test("five are followed, six are not", async () => {
    for (const [hops, isFine] of [
      [5, true],
      [6, false],
    ] as const) {
      await using made = await makeBlob();
      made.fake.rules.push(times(hops, (request) => ({ status: 307, headers: { location: request.path } })));
      const error = await made.blob.readAt(range).then(
        () => undefined,
        (thrown: { code: string }) => thrown.code,
      );
      expect(error).toBe(isFine ? undefined : "EACCES");
    }
  });

  test.each(["file:///etc/passwd", "ftp://127.0.0.1/x", "http://user:pw@127.0.0.1/x", "", "http://"])(
    "to %p are refused",
    async (location) => {
      await using made = await makeBlob();
      made.fake.rules.push(() => ({ status: 302, headers: location === "" ? {} : { location } }));
      const error = await failureOf(made.blob.readAt(range));
      expect(error.code).toBe("EACCES");
      expect(formatError(error)).not.toContain("pw");
    },
  );
});

describe("stream()", () => {
  test.each<[string, FakeRule]>([
    ["resets", times(3, (request) => answerFrom(request.headers["range"], { cutAt: 20_000, end: "reset" }))],
    ["closes", times(3, (request) => answerFrom(request.headers["range"], { cutAt: 20_000, end: "close" }))],
    ["answers 503 in between", times(2, () => ({ status: 503 }))],
    [
      "resets and then ignores the range",
      times(2, (request) => ({
        status: 200,
        body: CONTENT,
        ...(request.headers["range"] ? {} : { cutAt: 5000, end: "reset" as const }),
      })),
    ],
  ])("goes on where it broke, from a registry that %s", async (_what, rule) => {
    await using made = await makeBlob();
    made.fake.rules.push(rule);
    expect((await readStream(made.blob)).equals(CONTENT)).toBe(true);
  });

  /** What a good registry would answer, cut. */
  function answerFrom(range: string | undefined, cut: Partial<FakeAnswer>): FakeAnswer {
    const start = Number(/^bytes=(\d+)-/.exec(range ?? "")?.[1] ?? 0);
    const body = CONTENT.subarray(start);
    if (range === undefined) return { status: 200, body, ...cut };
    const headers = { "content-range": `bytes ${start}-${CONTENT.length - 1}/${CONTENT.length}` };
    return { status: 206, headers, body, ...cut };
  }

  test("ends in EIO when nothing ever comes, and in EUCLEAN when another blob does", async () => {
    await using made = await makeBlob();
    made.fake.rules.push(() => ({ status: 200, body: CONTENT, cutAt: 0, end: "close" }));
    expect((await failureOf(readStream(made.blob))).code).toBe("EIO");
    made.fake.rules[0] = () => ({ status: 200, body: Buffer.concat([CONTENT, CONTENT]) });
    expect((await failureOf(readStream(made.blob))).code).toBe("EUCLEAN");
  });
});

describe("manifests", () => {
  test("of another digest, too large, of no media type, or not there are told apart", async () => {
    await using fake = await startFakeRegistry();
    const image = sampleImage("m");
    const entry = { mediaType: image.root.mediaType, bytes: Buffer.from(image.manifest) };
    const other = { ...entry, bytes: Buffer.concat([image.manifest, Buffer.from(" ")]) };
    fake.manifests.set("good", entry).set("untyped", { ...entry, mediaType: "text/plain" });
    fake.manifests.set(image.root.digest, other).set("large", { ...entry, bytes: Buffer.alloc((4 << 20) + 1, 32) });
    const root = async (name: string): Promise<unknown> => {
      await using source = await openSource(`docker://${fake.host}/r${name}`, { root: "/nonexistent" });
      return await source.root().then(
        ({ descriptor }) => descriptor.mediaType,
        (error: { code: string; message: string }) => `${error.code} ${error.message}`,
      );
    };
    expect(await root(":good")).toBe(image.root.mediaType);
    expect(await root(":untyped")).toBe(image.root.mediaType);
    expect(await root(`@${image.root.digest}`)).toContain("EBADMSG");
    expect(await root(":large")).toContain("EUCLEAN");
    expect(await root(":none")).toBe(
      "ENOENT Cannot get manifest none: the server answers 404: MANIFEST_UNKNOWN: manifest unknown",
    );
  });

  test("error bodies are shown as one printable line, cut", async () => {
    await using fake = await startFakeRegistry();
    const message = `a\u001b[31m\nb${"c".repeat(5000)}`;
    fake.rules.push(() => ({ status: 400, body: JSON.stringify({ errors: [{ code: "X", message }, null, 7] }) }));
    await using source = await openSource(`docker://${fake.host}/r:x`, { root: "/nonexistent" });
    const error = await failureOf(source.root());
    expect(error.message).toContain("400: X: a [31m b");
    expect(error.message.length).toBeLessThan(400);
  });
});

describe("uploads", () => {
  test("that break are begun anew; a registry that got other bytes is EBADMSG; what it has is not sent", async () => {
    await using fake = await startFakeRegistry();
    const dir = mkdtempSync(join(tmpdir(), "nydus-upload-"));
    const image = sampleImage("up");
    fake.rules.push(times(2, (request) => (request.method === "PUT" ? { status: 502 } : undefined)));
    {
      await using target = await openTarget(`docker://${fake.host}/r:x`, { root: dir });
      await writeImage(target, image);
      const sent = fake.requests.length;
      await target.putBytes(image.config, image.configBytes);
      expect(fake.requests.slice(sent).map(({ method }) => method)).toEqual(["HEAD"]);
      fake.rules.push((request) =>
        request.method === "PUT" ? { status: 201, headers: { "docker-content-digest": image.root.digest } } : undefined,
      );
      const other = sampleImage("other");
      expect((await failureOf(target.putBytes(other.config, other.configBytes))).code).toBe("EBADMSG");
    }
    await using source = await openSource(`docker://${fake.host}/r:x`, { root: dir });
    await expectImage(source, image);
    rmSync(dir, { recursive: true, force: true });
  });

  test.each(["http://example.invalid/up", "ftp://x/", "http://u:p@127.0.0.1/up", ""])(
    "to %p are refused",
    async (location) => {
      await using fake = await startFakeRegistry();
      fake.rules.push((request) => (request.method === "POST" ? { status: 202, headers: { location } } : undefined));
      const dir = mkdtempSync(join(tmpdir(), "nydus-upload-"));
      await using target = await openTarget(`docker://${fake.host}/r:x`, { root: dir });
      const { config, configBytes } = sampleImage("up");
      const error = await failureOf(target.putBytes(config, configBytes));
      expect(error.code).toBe("EACCES");
      rmSync(dir, { recursive: true, force: true });
    },
  );

  test("to a name with a digest take that image only", async () => {
    await using fake = await startFakeRegistry();
    const image = sampleImage("digest");
    await using target = await openTarget(`docker://${fake.host}/r@${image.root.digest}`, { root: tmpdir() });
    await target.commit(image.root, image.manifest);
    expect(fake.manifests.has(image.root.digest)).toBe(true);
    const other = sampleImage("another");
    expect((await failureOf(target.commit(other.root, other.manifest))).code).toBe("EINVAL");
  });
});

describe("tokens", () => {
  function guarded(
    fake: FakeRegistry,
    realm: string,
    answer: FakeAnswer = { status: 200, body: '{"access_token":"tok"}' },
  ): void {
    fake.rules.push((request) => {
      if (request.path.startsWith("/token")) return answer;
      if (request.headers["authorization"] === "Bearer tok") return undefined;
      return {
        status: 401,
        headers: { "www-authenticate": `Bearer realm="${realm}",service="svc",scope="repository:r:pull"` },
      };
    });
  }

  test("are asked for once, with service and scope, and used from then on", async () => {
    await using fake = await startFakeRegistry();
    guarded(fake, `${fake.origin}/token`);
    const image = sampleImage("tok");
    fake.manifests.set("x", { mediaType: image.root.mediaType, bytes: Buffer.from(image.manifest) });
    fake.blobs
      .set(image.config.digest, Buffer.from(image.configBytes))
      .set(image.layer.digest, Buffer.from(image.layerBytes));
    await using source = await openSource(`docker://${fake.host}/r:x`, { root: "/nonexistent" });
    await expectImage(source, image);
    const asked = fake.requests.filter(({ path }) => path.startsWith("/token"));
    expect(asked.map(({ path }) => path)).toEqual(["/token?service=svc&scope=repository%3Ar%3Apull"]);
    expect(asked[0]?.headers["authorization"]).toBeUndefined();
  });

  test.each([
    "http://example.invalid/token",
    "http://169.254.169.254/token",
    "file:///etc/passwd",
    "https://user:pw@example.invalid/token",
    "nowhere",
    "",
  ])("are not asked of the realm %p", async (realm) => {
    await using fake = await startFakeRegistry();
    guarded(fake, realm);
    await using source = await openSource(`docker://${fake.host}/r:x`, { root: "/nonexistent" });
    const error = await failureOf(source.root());
    expect(error.code).toBe("EACCES");
    expect(error.message).not.toContain("pw");
  });

  test.each<[string, FakeAnswer]>([
    ["a redirect", { status: 302, headers: { location: "/token2" } }],
    ["no JSON", { status: 200, body: "<html>" }],
    ["no token", { status: 200, body: "{}" }],
    ["a token that would split the header", { status: 200, body: JSON.stringify({ token: "a\r\nx: y" }) }],
    ["a refusal", { status: 401, body: "no" }],
    ["a token that the registry refuses", { status: 200, body: '{"token":"other"}' }],
  ])("that come as %s end in an error", async (_what, answer) => {
    await using fake = await startFakeRegistry();
    guarded(fake, `${fake.origin}/token`, answer);
    await using source = await openSource(`docker://${fake.host}/r:x`, { root: "/nonexistent" });
    expect(["EACCES", "EIO", "EUCLEAN"]).toContain((await failureOf(source.root())).code);
    expect(fake.requests.length).toBeLessThan(5);
  });

  test("a registry that wants a password says so", async () => {
    await using fake = await startFakeRegistry();
    fake.rules.push(() => ({ status: 401, headers: { "www-authenticate": 'Basic realm="x"' } }));
    await using source = await openSource(`docker://${fake.host}/r:x`, { root: "/nonexistent" });
    expect((await failureOf(source.root())).message).toContain("basic");
  });
});

test("a registry that is elsewhere is asked by https only", async () => {
  await using far = await openSource("docker://registry.invalid/r:x", { root: "/nonexistent" });
  const error = await failureOf(far.root());
  expect([error.code, error.at.url]).toEqual(["EIO", "https://registry.invalid/v2/r/manifests/x"]);
});

test("a registry that is not there is EIO, after some tries", async () => {
  const made = await makeBlob();
  await made.fake[Symbol.asyncDispose]();
  expect((await failureOf(made.blob.readAt({ start: 0, end: 9 }))).code).toBe("EIO");
});
