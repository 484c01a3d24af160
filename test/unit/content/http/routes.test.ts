import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { lookup as resolveHost } from "node:dns";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { formatError } from "../../../../src/base/errors.ts";
import type { HttpResponse } from "../../../../src/content/http/response.ts";
import { HttpClient, type HttpOptions } from "../../../../src/content/http/transport.ts";
import { type FakeProxy, startFakeProxy } from "../../../kit/fake-proxy.ts";
import { type FakeRegistry, startFakeRegistry } from "../../../kit/fake-registry.ts";
import { hasOpenssl, makeTestCa, type TestCa } from "../../../kit/test-ca.ts";
import { failureOf } from "../../../suite/byte-source.ts";

const textOf = async (response: HttpResponse): Promise<string> => Buffer.from(await response.bytes(999)).toString();

/** Names of this test, by the addresses that they stand for; no other name is found. */
function names(addresses: Readonly<Record<string, string>>): typeof resolveHost {
  const find = (host: string, _: unknown, done: (error: Error | null, found?: object[]) => void): void => {
    const address = addresses[host];
    if (address !== undefined) done(null, [{ address, family: address.includes(":") ? 6 : 4 }]);
    else done(Object.assign(new Error(`no ${host}`), { code: "ENOTFOUND" }));
  };
  return find as unknown as typeof resolveHost;
}

async function get(url: string, options: HttpOptions, more: object = {}): Promise<string> {
  await using http = new HttpClient({ backoffMs: 1, env: {}, ...options });
  return await http.send({ method: "GET", url: new URL(url), ...more }, textOf);
}

describe.skipIf(!hasOpenssl)("https", () => {
  let ca: TestCa;
  let server: FakeRegistry;
  beforeAll(async () => {
    ca = makeTestCa("DNS:reg.test,IP:127.0.0.1");
    server = await startFakeRegistry(ca);
    server.rules.push((request) => ({ status: 200, body: `secure ${request.headers["host"]}` }));
  });
  afterAll(async () => {
    await server[Symbol.asyncDispose]();
    ca[Symbol.dispose]();
  });

  test("is refused at once from a server whose certificate nobody vouches for", async () => {
    const error = await failureOf(get(server.origin, {}));
    expect(error.code).toBe("EIO");
    expect(error.message).toContain("UNABLE_TO_VERIFY_LEAF_SIGNATURE");
    expect(server.requests).toEqual([]);
  });

  test("trusts the certificates of caFile and of SSL_CERT_FILE besides the system's", async () => {
    expect(await get(server.origin, { caFile: ca.caFile })).toBe(`secure ${server.host}`);
    expect(await get(server.origin, { env: { SSL_CERT_FILE: ca.caFile } })).toBe(`secure ${server.host}`);
  });

  test("is refused from a server with another name", async () => {
    const lookup = names({ "other.test": "127.0.0.1", "reg.test": "127.0.0.1" });
    const error = await failureOf(get(`https://other.test:${server.port}`, { caFile: ca.caFile, lookup }));
    expect(error.message).toContain("ERR_TLS_CERT_ALTNAME_INVALID");
    const url = `https://reg.test:${server.port}`;
    expect(await get(url, { caFile: ca.caFile, lookup })).toBe(`secure reg.test:${server.port}`);
  });

  test("never becomes http", async () => {
    await using plain = await startFakeRegistry();
    plain.rules.push(() => ({ status: 200, body: "plain" }));
    expect((await failureOf(get(`https://${plain.host}`, { caFile: ca.caFile }, { timeoutMs: 100 }))).code).toBe(
      "ETIMEDOUT",
    );
    expect(plain.requests).toEqual([]);
  });

  test("says of a CA file that it is not there, or none", async () => {
    const dir = mkdtempSync(join(tmpdir(), "nydus-ca-bad-"));
    writeFileSync(join(dir, "bad.pem"), "nothing");
    expect((await failureOf(get(server.origin, { caFile: join(dir, "none") }))).code).toBe("ENOENT");
    expect((await failureOf(get(server.origin, { caFile: join(dir, "bad.pem") }))).code).toBe("EUCLEAN");
    rmSync(dir, { recursive: true, force: true });
  });

  describe("by a proxy", () => {
    const wanted = `Basic ${btoa("me:canary")}`;
    let proxy: FakeProxy;
    beforeAll(async () => {
      proxy = await startFakeProxy(server.port, wanted);
    });
    afterAll(() => proxy[Symbol.asyncDispose]());
    /** No name is found: there is no direct way. */
    const lookup = names({});

    test("goes through a tunnel where there is no direct way", async () => {
      const env = { HTTPS_PROXY: `http://me:canary@${proxy.host}` };
      expect(await get("https://reg.test/", { env, caFile: ca.caFile, lookup })).toBe("secure reg.test");
      expect(proxy.calls).toEqual([{ line: "CONNECT reg.test:443 HTTP/1.1", authorization: wanted }]);
      expect(server.requests.at(-1)?.headers["proxy-authorization"]).toBeUndefined();
    });

    test("checks the certificate of the server behind it", async () => {
      const env = { HTTPS_PROXY: `http://me:canary@${proxy.host}` };
      const error = await failureOf(get("https://other.test/", { env, caFile: ca.caFile, lookup }));
      expect(error.message).toContain("ERR_TLS_CERT_ALTNAME_INVALID");
    });

    test("is refused by a proxy that wants another password, once, without showing it", async () => {
      const before = proxy.calls.length;
      const env = { HTTPS_PROXY: `http://me:canary-other@${proxy.host}` };
      const error = await failureOf(get("https://reg.test/?sig=canary", { env, caFile: ca.caFile, lookup }));
      expect(formatError(error)).toBe(
        `Cannot connect to reg.test:443 by the proxy ${proxy.host}: the proxy answers 407 (https://reg.test/)`,
      );
      expect(error.code).toBe("EACCES");
      expect(proxy.calls.length).toBe(before + 1);
    });

    test("tries again when the proxy cannot reach the server", async () => {
      const before = proxy.calls.length;
      proxy.answer = 502;
      const env = { HTTPS_PROXY: `http://me:canary@${proxy.host}` };
      expect((await failureOf(get("https://reg.test/", { env, caFile: ca.caFile, lookup }))).code).toBe("EIO");
      expect(proxy.calls.length).toBe(before + 5);
      proxy.answer = undefined;
    });

    test("goes directly where NO_PROXY says so", async () => {
      const env = { HTTPS_PROXY: `http://${proxy.host}`, NO_PROXY: ".test" };
      const before = proxy.calls.length;
      const direct = names({ "reg.test": "127.0.0.1" });
      const url = `https://reg.test:${server.port}/`;
      expect(await get(url, { env: { ...env, NO_PROXY: "reg.test" }, caFile: ca.caFile, lookup: direct })).toContain(
        "secure",
      );
      expect(proxy.calls.length).toBe(before);
    });
  });
});

test("http by a proxy sends whole addresses, and the proxy's password to the proxy only", async () => {
  await using server = await startFakeRegistry();
  server.rules.push((request) => ({ status: 200, body: `${request.headers["host"]} ${request.path}` }));
  await using proxy = await startFakeProxy(server.port, `Basic ${btoa("me:pw")}`);
  const options = { env: { http_proxy: `http://me:pw@${proxy.host}` }, lookup: names({}) };
  expect(await get("http://reg.test:5000/a?b=c", options)).toBe("reg.test:5000 /a?b=c");
  expect(proxy.calls[0]?.line).toBe("GET http://reg.test:5000/a?b=c HTTP/1.1");
  expect(server.requests[0]?.headers["proxy-authorization"]).toBeUndefined();
});

describe("addresses that another server names", () => {
  test.each([
    "http://169.254.169.254/latest",
    "http://2852039166/latest",
    "http://0xa9.0xfe.0xa9.0xfe/",
    "http://[fe80::1]/",
    "http://[::ffff:169.254.169.254]/",
    "http://0/",
    "http://metadata.test/",
    "http://metadata6.test/",
  ])("by redirecting to %p are not connected to", async (location) => {
    await using server = await startFakeRegistry();
    server.rules.push(() => ({ status: 302, headers: { location } }));
    const lookup = names({ "metadata.test": "169.254.169.254", "metadata6.test": "fd00:ec2::254" });
    const error = await failureOf(get(`${server.origin}/x`, { lookup }));
    expect(error.code).toBe("EACCES");
    expect(server.requests.length).toBe(1);
  });

  test("may be private ones and this machine", async () => {
    await using server = await startFakeRegistry();
    server.rules.push(({ path, headers }) =>
      path === "/x"
        ? { status: 302, headers: { location: `http://near.test:${server.port}/y` } }
        : { status: 200, body: `here ${headers["authorization"]}` },
    );
    const lookup = names({ "near.test": "127.0.0.1" });
    const headers = { authorization: "Bearer canary-token" };
    expect(await get(`${server.origin}/x`, { lookup }, { headers })).toBe("here undefined");
  });
});
