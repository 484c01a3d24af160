import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import type { Credential } from "../../../../src/content/registry/credential.ts";
import { CredentialFiles } from "../../../../src/content/registry/credential-files.ts";
import { CredentialHelper } from "../../../../src/content/registry/credential-helper.ts";
import { failureOf } from "../../../suite/byte-source.ts";

let dir = "";
let env: Record<string, string> = {};
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "nydus-creds-"));
  mkdirSync(join(dir, "bin"));
  env = {
    HOME: join(dir, "home"),
    XDG_RUNTIME_DIR: join(dir, "run"),
    PATH: `${join(dir, "bin")}:${process.env["PATH"]}`,
  };
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

function put(path: string, value: unknown): string {
  const file = join(dir, path);
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, typeof value === "string" ? value : JSON.stringify(value));
  return file;
}

/** A credential helper of a shell script. */
function helper(name: string, script: string): void {
  chmodSync(put(`bin/docker-credential-${name}`, `#!/bin/sh\ncd ${dir}\n${script}\n`), 0o755);
}

const user = (username: string, password = "pw"): Credential => ({ kind: "password", username, password });
const entry = (username: string): object => ({ auth: btoa(`${username}:pw`) });
const find = (registry: string, repository?: string): Promise<Credential | undefined> =>
  new CredentialFiles(env).find({ registry, repository });

describe("CredentialFiles", () => {
  test("finds nothing where there is nothing, or nothing in it", async () => {
    expect(await find("reg.test")).toBeUndefined();
    put("home/.docker/config.json", "");
    put("run/containers/auth.json", { auths: { "reg.test": {} } });
    expect(await find("reg.test")).toBeUndefined();
  });

  test("takes the first that there is: REGISTRY_AUTH_FILE, docker's, containers'", async () => {
    put("run/containers/auth.json", { auths: { "reg.test": entry("containers"), "other.test": entry("other") } });
    expect(await find("reg.test")).toEqual(user("containers"));
    put("home/.docker/config.json", { auths: { "reg.test": entry("home") } });
    expect(await find("reg.test")).toEqual(user("home"));
    put("docker/config.json", { auths: { "reg.test": entry("docker") } });
    env["DOCKER_CONFIG"] = join(dir, "docker");
    expect(await find("reg.test")).toEqual(user("docker"));
    env["REGISTRY_AUTH_FILE"] = put("named.json", { auths: { "reg.test": entry("named") } });
    expect(await find("reg.test")).toEqual(user("named"));
    expect(await find("other.test")).toEqual(user("other"));
  });

  test.each<[object, Credential | undefined]>([
    [{ auth: btoa("me:p:w") }, user("me", "p:w")],
    [{ auth: Buffer.from("me:pw\0\0").toString("base64") }, user("me")],
    [
      { auth: btoa("me:pw"), identitytoken: "idt" },
      { kind: "identity", token: "idt" },
    ],
    [
      { registrytoken: "rt", identitytoken: "idt" },
      { kind: "bearer", token: "rt" },
    ],
    [{ username: "me", password: "pw" }, user("me")],
    [{ auth: btoa("<token>:idt") }, { kind: "identity", token: "idt" }],
    [{ auth: "" }, undefined],
    [{}, undefined],
  ])("reads %p", async (value, expected) => {
    put("home/.docker/config.json", { auths: { "reg.test": value } });
    expect(await find("reg.test")).toEqual(expected);
  });

  test.each([
    "https://index.docker.io/v1/",
    "index.docker.io",
    "docker.io",
    "registry-1.docker.io",
    "https://registry-1.docker.io/v2/",
    "http://index.docker.io",
  ])("finds Docker Hub's under %p", async (key) => {
    put("home/.docker/config.json", { auths: { "a.test": entry("x"), [key]: entry("hub") } });
    expect(await find("docker.io", "library/debian")).toEqual(user("hub"));
  });

  test.each(["reg.test:5000", "https://reg.test:5000", "http://reg.test:5000/", "https://reg.test:5000/v2/"])(
    "finds a registry's under %p",
    async (key) => {
      put("home/.docker/config.json", { auths: { [key]: entry("me") } });
      expect(await find("reg.test:5000", "a/b")).toEqual(user("me"));
      expect(await find("reg.test")).toBeUndefined();
      expect(await find("other.reg.test:5000")).toBeUndefined();
    },
  );

  test("takes the most specific part of a registry in containers' file, the whole in docker's", async () => {
    const auths = { "reg.test": entry("all"), "reg.test/a": entry("a"), "reg.test/a/b": entry("ab") };
    put("run/containers/auth.json", { auths });
    expect(await find("reg.test", "a/b")).toEqual(user("ab"));
    expect(await find("reg.test", "a/c")).toEqual(user("a"));
    expect(await find("reg.test", "ab")).toEqual(user("all"));
    put("home/.docker/config.json", { auths });
    expect(await find("reg.test", "a/b")).toEqual(user("all"));
  });

  test("asks the registry's helper before the helper for all, and that before the file", async () => {
    helper("one", `cat > one.in; echo '{"ServerURL":"x","Username":"one","Secret":"pw"}'`);
    helper(
      "all",
      `grep -q none.test && { echo "credentials not found in native keychain"; exit 1; }; echo '{"Username":"<token>","Secret":"idt"}'`,
    );
    const auths = { "none.test": entry("file") };
    put("home/.docker/config.json", {
      credHelpers: { "reg.test": "one", "docker.io": "one" },
      credsStore: "all",
      auths,
    });
    expect(await find("reg.test")).toEqual(user("one"));
    expect(readFileSync(join(dir, "one.in"), "utf8")).toBe("reg.test");
    expect(await find("docker.io")).toEqual(user("one"));
    expect(readFileSync(join(dir, "one.in"), "utf8")).toBe("https://index.docker.io/v1/");
    expect(await find("other.test")).toEqual({ kind: "identity", token: "idt" });
    expect(await find("none.test")).toEqual(user("file"));
  });

  test.each<[string, unknown]>([
    ["no JSON", '{"auths":{"reg.test":{"auth":"canary"'],
    ["a list", ["canary"]],
    ["auths as text", { auths: "canary" }],
    ["an entry as text", { auths: { "reg.test": "canary" } }],
    ["auth as a number", { auths: { "reg.test": { auth: 7, canary: 1 } } }],
    ["auth without a colon", { auths: { "reg.test": { auth: btoa("canary") } } }],
    ["a helper's name that is a path", { credHelpers: { "reg.test": "../canary" } }],
    ["a helper's name that is an option", { credsStore: "-canary" }],
    ["a helper's name that is a number", { credsStore: 7 }],
  ])("refuses a file with %s, without a word of what is in it", async (_what, value) => {
    const path = put("home/.docker/config.json", value);
    const error = await failureOf(find("reg.test"));
    expect([error.code, error.at.path]).toEqual(["EUCLEAN", path]);
    expect(error.message).not.toContain("canary");
  });
});

describe("a credential helper", () => {
  const get = (timeoutMs?: number): Promise<unknown> => new CredentialHelper("x", { env, timeoutMs }).get("reg.test");

  test.each([
    ["is not there", "", "EACCES", "docker-credential-x does not run"],
    ["fails with words", "echo 'the vault is locked'; echo canary; exit 1", "EACCES", "the vault is locked"],
    ["fails without words", "exit 3", "EACCES", "it ends with 3"],
    ["fails with a credential", `echo '{"Secret":"canary"}'; exit 1`, "EACCES", "it ends with 1"],
    ["says no JSON", "echo canary", "EUCLEAN", "is no credential"],
    ["says null", "echo null", "EUCLEAN", "is no credential"],
    ["says no secret", `echo '{"Username":"canary"}'`, "EUCLEAN", "is no credential"],
    ["never stops talking", "cat /dev/zero", "EUCLEAN", "says too much"],
  ])("that %s is told, but not its secrets", async (_what, script, code, words) => {
    if (script !== "") helper("x", script);
    const error = await failureOf(get());
    expect(error.code as string).toBe(code);
    expect(error.message).toContain(words);
    expect(error.message).not.toContain("canary");
  });

  test("that does not end is ended", async () => {
    helper("x", "exec sleep 600");
    expect((await failureOf(get(50))).code).toBe("ETIMEDOUT");
  });

  test("stores and erases, with the secret on stdin", async () => {
    helper(
      "x",
      `echo "$@" > args; cat > in; [ "$1" = erase ] && grep -q none in && { echo credentials not found; exit 1; }; exit 0`,
    );
    const x = new CredentialHelper("x", { env });
    await x.store("docker.io", user("me", "canary"));
    expect(readFileSync(join(dir, "args"), "utf8")).toBe("store\n");
    const stored = { ServerURL: "https://index.docker.io/v1/", Username: "me", Secret: "canary" };
    expect(JSON.parse(readFileSync(join(dir, "in"), "utf8"))).toEqual(stored);
    expect(await x.erase("reg.test")).toBe(true);
    expect(await x.erase("none.test")).toBe(false);
    helper("x", "cat; exit 1");
    expect((await failureOf(x.store("reg.test", user("me", "canary")))).message).not.toContain("canary");
  });
});
