import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { type DockerRegistry, hasDockerRegistry, startDockerRegistry } from "../kit/docker-registry.ts";
import { type FakeProxy, startFakeProxy } from "../kit/fake-proxy.ts";
import { smallGolden } from "../kit/golden.ts";
import { isBuilt, PROGRAM } from "../kit/program.ts";
import { hasOpenssl, makeTestCa, type TestCa } from "../kit/test-ca.ts";

const hasSkopeo = spawnSync("skopeo", ["--version"]).status === 0;
const PASSWORD = "canary/pass:word";

interface Done {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

describe.skipIf(!isBuilt || !hasDockerRegistry || !hasOpenssl)("a registry with https and a password", () => {
  let registry: DockerRegistry;
  let ca: TestCa;
  let proxy: FakeProxy;
  let dir = "";
  let env: Record<string, string> = {};
  const image = (): string => `${registry.host}/app:1`;

  beforeAll(async () => {
    ca = makeTestCa("DNS:reg.test,IP:127.0.0.1");
    registry = await startDockerRegistry({ user: { name: "me", password: PASSWORD }, tls: ca });
    proxy = await startFakeProxy(Number(registry.host.split(":")[1]));
    dir = mkdtempSync(join(tmpdir(), "nydus-e2e-login-"));
    env = {
      PATH: process.env["PATH"] ?? "",
      HOME: dir,
      XDG_RUNTIME_DIR: join(dir, "run"),
      NYDUS_ROOT: join(dir, "root"),
    };
  });
  afterAll(async () => {
    await proxy[Symbol.asyncDispose]();
    await registry[Symbol.asyncDispose]();
    ca[Symbol.dispose]();
    rmSync(dir, { recursive: true, force: true });
  });

  /** The program runs beside the proxy of this process, so it is waited for without blocking. */
  async function run(
    words: readonly string[],
    more: { input?: string; env?: Record<string, string> } = {},
  ): Promise<Done> {
    const child = Bun.spawn([PROGRAM, ...words], {
      env: { ...env, ...more.env },
      stdin: Buffer.from(more.input ?? ""),
      stdout: "pipe",
      stderr: "pipe",
    });
    const [stdout, stderr] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
    return { status: await child.exited, stdout, stderr };
  }
  const login = (password: string, ...more: string[]): Promise<Done> =>
    run(["login", "-u", "me", "--password-stdin", registry.host, ...more], { input: `${password}\n` });
  const push = (...more: string[]): Promise<Done> =>
    run(["convert", "-q", `oci:${smallGolden()}/images:oci`, image(), ...more]);

  // Each of these goes on from where the one before has ended.
  test("is not trusted without its CA, and plain http is never tried", async () => {
    const words = ["login", "-u", "me", "--password-stdin", "reg.test"];
    const by = { HTTPS_PROXY: `http://${proxy.host}`, HTTP_PROXY: `http://${proxy.host}` };
    const { status, stderr } = await run(words, { input: PASSWORD, env: by });
    expect([status, stderr]).toEqual([7, expect.stringContaining("https://reg.test/v2/")]);
    expect(new Set(proxy.calls.map(({ line }) => line))).toEqual(new Set(["CONNECT reg.test:443 HTTP/1.1"]));
    expect(stderr).not.toContain(PASSWORD);
  });

  test("refuses a wrong password, of which nothing is kept or shown", async () => {
    const { status, stderr } = await login("canary-wrong", "--ca-file", ca.caFile);
    expect([status, stderr]).toEqual([8, expect.stringContaining("UNAUTHORIZED")]);
    expect(stderr).not.toContain("canary");
    expect(existsSync(join(dir, ".docker"))).toBe(false);
  });

  test("takes nothing from those who have not logged in", async () => {
    expect((await push("--ca-file", ca.caFile)).status).toBe(8);
  });

  test("is logged in to, and takes an image", async () => {
    const { status, stdout, stderr } = await login(PASSWORD, "--ca-file", ca.caFile);
    expect([status, stdout, stderr]).toEqual([0, "", expect.stringContaining("logged in")]);
    expect(statSync(join(dir, ".docker", "config.json")).mode & 0o777).toBe(0o600);
    expect(await push("--ca-file", ca.caFile)).toMatchObject({ status: 0 });
    const { stdout: report } = await run(["inspect", "--json", image(), "--ca-file", ca.caFile]);
    expect(JSON.parse(report)).toMatchObject({ fsVersion: 6 });
  });

  test("is reached by a proxy where no other way leads", async () => {
    const by = { SSL_CERT_FILE: ca.caFile, HTTPS_PROXY: `http://${proxy.host}` };
    // The login is another host's: this name is known to the proxy only.
    const named = { input: PASSWORD, env: by };
    expect(await run(["login", "-u", "me", "--password-stdin", "reg.test"], named)).toMatchObject({ status: 0 });
    expect(await run(["ls", "reg.test/app:1", "/"], { env: by })).toMatchObject({ status: 0 });
    expect(new Set(proxy.calls.map(({ line }) => line))).toEqual(new Set(["CONNECT reg.test:443 HTTP/1.1"]));
    expect((await run(["ls", "reg.test/app:1", "/"], { env: { SSL_CERT_FILE: ca.caFile } })).status).not.toBe(0);
  });

  describe.skipIf(!hasSkopeo)("beside skopeo", () => {
    const skopeo = (...words: string[]): Done => {
      const done = spawnSync("skopeo", words, { env: { ...env, SSL_CERT_FILE: ca.caFile } });
      return { status: done.status, stdout: done.stdout.toString(), stderr: done.stderr.toString() };
    };

    test("skopeo uses what nydus login has kept", () => {
      const authfile = join(dir, ".docker", "config.json");
      expect(skopeo("inspect", "--authfile", authfile, "--raw", `docker://${image()}`)).toMatchObject({ status: 0 });
    });

    test("what skopeo login has kept is used", async () => {
      expect(await run(["logout", registry.host])).toMatchObject({ status: 0 });
      const words = ["inspect", image(), "--ca-file", ca.caFile];
      expect((await run(words)).status).toBe(8);
      const authfile = join(dir, "run", "containers", "auth.json");
      mkdirSync(dirname(authfile), { recursive: true });
      expect(skopeo("login", "-u", "me", "-p", PASSWORD, "--authfile", authfile, registry.host).status).toBe(0);
      expect(await run(words)).toMatchObject({ status: 0 });
    });
  });

  test("is logged out of, twice without harm", async () => {
    for (const word of ["reg.test", registry.host, "never.test"]) expect((await run(["logout", word])).status).toBe(0);
    rmSync(join(dir, "run"), { recursive: true, force: true });
    const { status } = await run(["inspect", image(), "--ca-file", ca.caFile]);
    expect(status).toBe(8);
  });
});

test.skipIf(!isBuilt)("login says what is wrong with its arguments", async () => {
  for (const words of [
    ["login", "not-a-host"],
    ["login", "--password-stdin", "x.test"],
    ["login", "x.test"],
  ]) {
    const child = Bun.spawn([PROGRAM, ...words], { stdin: Buffer.from("pw"), stderr: "pipe" });
    expect(await child.exited).toBe(2);
  }
});
