import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  chmodSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CredentialFiles, dockerConfigPath, loginFilePath } from "../../../../src/content/registry/credential-files.ts";
import { eraseLogin, parseRegistry, storeLogin, verifyLogin } from "../../../../src/content/registry/login.ts";
import { type FakeRegistry, startFakeRegistry } from "../../../kit/fake-registry.ts";
import { failureOf } from "../../../suite/byte-source.ts";

const ME = { kind: "password", username: "me", password: "canary" } as const;

describe("what a login keeps", () => {
  let dir = "";
  let env: Record<string, string> = {};
  const config = (): string => join(dir, ".docker", "config.json");
  const read = (): unknown => JSON.parse(readFileSync(config(), "utf8"));
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), "nydus-login-"));
    env = { HOME: dir, XDG_RUNTIME_DIR: dir, PATH: `${dir}:${process.env["PATH"]}` };
  });
  afterEach(() => rmSync(dir, { recursive: true, force: true }));

  test("is in a new file that only its owner can read, and is found again", async () => {
    expect(await storeLogin("reg.test", ME, env)).toEqual({ path: config(), helper: undefined });
    expect(statSync(config()).mode & 0o777).toBe(0o600);
    expect(statSync(join(dir, ".docker")).mode & 0o777).toBe(0o700);
    expect(read()).toEqual({ auths: { "reg.test": { auth: btoa("me:canary") } } });
    expect(await new CredentialFiles(env).find({ registry: "reg.test" })).toEqual(ME);
    expect(readdirSync(join(dir, ".docker"))).toEqual(["config.json"]);
  });

  test("leaves everything else in the file, and narrows who can read it", async () => {
    mkdirSync(join(dir, ".docker"));
    const before = {
      psFormat: "x",
      auths: { "https://other.test": { auth: "eDp5" }, "https://reg.test/v1/": { auth: "b2xkOm8=" } },
      HttpHeaders: { a: "b" },
    };
    writeFileSync(config(), JSON.stringify(before), { mode: 0o644 });
    await storeLogin("reg.test", ME, env);
    const auths = { "https://other.test": { auth: "eDp5" }, "reg.test": { auth: btoa("me:canary") } };
    expect(read()).toEqual({ ...before, auths });
    expect(statSync(config()).mode & 0o777).toBe(0o600);
    expect(await eraseLogin("reg.test", env)).toEqual({ path: config(), helper: undefined });
    expect(read()).toEqual({ ...before, auths: { "https://other.test": { auth: "eDp5" } } });
    expect(await eraseLogin("reg.test", env)).toBeUndefined();
  });

  test("is Docker Hub's under docker's name for it", async () => {
    await storeLogin("docker.io", ME, env);
    expect(read()).toEqual({ auths: { "https://index.docker.io/v1/": { auth: btoa("me:canary") } } });
    expect(await eraseLogin("docker.io", env)).toBeDefined();
  });

  test("goes where a link leads", async () => {
    mkdirSync(join(dir, ".docker"));
    writeFileSync(join(dir, "real.json"), "{}");
    symlinkSync("../real.json", config());
    await storeLogin("reg.test", ME, env);
    expect(lstatSync(config()).isSymbolicLink()).toBe(true);
    expect(readFileSync(join(dir, "real.json"), "utf8")).toContain("reg.test");
  });

  test("is the helper's where the file names one", async () => {
    mkdirSync(join(dir, ".docker"));
    writeFileSync(config(), JSON.stringify({ credsStore: "x" }));
    const script = `#!/bin/sh\nif [ "$1" = get ]; then grep -q reg.test && cat ${dir}/kept; else cat > ${dir}/kept; fi\n`;
    writeFileSync(join(dir, "docker-credential-x"), script);
    chmodSync(join(dir, "docker-credential-x"), 0o755);
    expect((await storeLogin("reg.test", ME, env)).helper).toBe("x");
    expect(read()).toEqual({ credsStore: "x", auths: { "reg.test": {} } });
    expect(await new CredentialFiles(env).find({ registry: "reg.test" })).toEqual(ME);
    expect(await eraseLogin("reg.test", env)).toBeDefined();
    expect(readFileSync(join(dir, "kept"), "utf8")).toBe("reg.test");
    expect(read()).toEqual({ credsStore: "x", auths: {} });
  });

  test("is not written over a file that cannot be read right", async () => {
    mkdirSync(join(dir, ".docker"));
    writeFileSync(config(), "{half");
    expect((await failureOf(storeLogin("reg.test", ME, env))).code).toBe("EUCLEAN");
    expect(readFileSync(config(), "utf8")).toBe("{half");
  });

  test("of many at once is all there", async () => {
    const hosts = Array.from({ length: 8 }, (_, i) => `r${i}.test`);
    await Promise.all(hosts.map((host) => storeLogin(host, ME, env)));
    expect(Object.keys((read() as { auths: object }).auths).sort()).toEqual(hosts);
  });

  test("is in REGISTRY_AUTH_FILE, else where DOCKER_CONFIG says", () => {
    expect(loginFilePath({ REGISTRY_AUTH_FILE: "/a/b.json", DOCKER_CONFIG: "/c" })).toBe("/a/b.json");
    expect(loginFilePath({ DOCKER_CONFIG: "/c", HOME: "/h" })).toBe("/c/config.json");
    expect(dockerConfigPath({ HOME: "/h" })).toBe("/h/.docker/config.json");
  });
});

describe("verifyLogin()", () => {
  const signal = new AbortController().signal;
  async function verify(set: (fake: FakeRegistry) => void): Promise<readonly (string | undefined)[]> {
    await using fake = await startFakeRegistry();
    set(fake);
    await verifyLogin(fake.host, ME, { env: {} }, signal);
    return fake.requests.map(({ path, headers }) => `${path} ${headers["authorization"] ?? ""}`);
  }
  const basic = `Basic ${btoa("me:canary")}`;

  test("asks with Basic", async () => {
    const calls = await verify((fake) =>
      fake.rules.push(({ headers }) =>
        headers["authorization"] === basic
          ? { status: 200 }
          : { status: 401, headers: { "www-authenticate": 'Basic realm="x"' } },
      ),
    );
    expect(calls).toEqual(["/v2/ ", `/v2/ ${basic}`]);
  });

  test("asks for a token, and with it", async () => {
    const calls = await verify((fake) =>
      fake.rules.push(({ path, headers }) => {
        if (path.startsWith("/token")) return { status: 200, body: '{"token":"t"}' };
        const challenge = `Bearer realm="${fake.origin}/token",service="s"`;
        return headers["authorization"] === "Bearer t"
          ? { status: 200 }
          : { status: 401, headers: { "www-authenticate": challenge } };
      }),
    );
    expect(calls).toEqual(["/v2/ ", `/token?service=s ${basic}`, "/v2/ Bearer t"]);
  });

  test("takes a registry that asks for nothing", async () => {
    expect(await verify((fake) => fake.rules.push(() => ({ status: 200 })))).toEqual(["/v2/ "]);
  });

  test.each([
    [401, "EACCES"],
    [403, "EACCES"],
    [404, "ENOENT"],
  ])("throws what a %p says, without the password", async (status, code) => {
    await using fake = await startFakeRegistry();
    fake.rules.push(({ headers }) =>
      headers["authorization"] === undefined
        ? { status: 401, headers: { "www-authenticate": 'Basic realm="x"' } }
        : { status, body: '{"errors":[{"code":"UNAUTHORIZED","message":"not with canary"}]}' },
    );
    const error = await failureOf(verifyLogin(fake.host, ME, { env: {} }, signal));
    expect(error.code as string).toBe(code);
    expect(error.message).toBe(`Cannot log in: the server answers ${status}: UNAUTHORIZED: not with …`);
  });
});

describe("parseRegistry()", () => {
  test.each([
    ["ghcr.io", "ghcr.io"],
    ["https://ghcr.io/v2/", "ghcr.io"],
    ["localhost:5000", "localhost:5000"],
    ["[::1]:5000", "[::1]:5000"],
    ["docker.io", "docker.io"],
    ["https://index.docker.io/v1/", "docker.io"],
  ])("reads %p as %p", (text, expected) => {
    expect(parseRegistry(text)).toBe(expected);
  });

  test.each(["", "name", "ghcr.io/owner", "a b.test", "http://u:p@x.test", "x.test?y"])("refuses %p", (text) => {
    expect(() => parseRegistry(text)).toThrow(/Cannot/);
  });
});
