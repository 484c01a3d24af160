import { expect, test } from "bun:test";
import { HttpClient } from "../../../../src/content/http/transport.ts";
import { RegistryAuth } from "../../../../src/content/registry/auth.ts";
import type { Credential } from "../../../../src/content/registry/credential.ts";
import { heldCredential } from "../../../../src/content/registry/credential-files.ts";
import { requestToken } from "../../../../src/content/registry/token.ts";
import { startFakeRegistry } from "../../../kit/fake-registry.ts";
import { failureOf } from "../../../suite/byte-source.ts";

const USER: Credential = { kind: "password", username: "me", password: "canary" };
const IDENTITY: Credential = { kind: "identity", token: "canary" };

test.each([USER, IDENTITY])(
  "requestToken() sends nothing of %p to a realm that is not the registry's owner's",
  async (credential) => {
    await using fake = await startFakeRegistry();
    await using http = new HttpClient({ env: {} });
    const realm = { url: new URL(`${fake.origin}/token`), isTrusted: false, isGuarded: true };
    const error = await failureOf(requestToken(http, { realm, service: "s", scope: "x", credential }, Date.now));
    expect([error.code, fake.requests.length]).toEqual(["EACCES", 0]);
    fake.rules.push(() => ({ status: 200, body: '{"token":"t"}' }));
    const anyone = { realm, service: "s", scope: "x", credential: undefined };
    expect((await requestToken(http, anyone, () => 5)).value).toBe("t");
  },
);

test.each([USER, IDENTITY])("requestToken() with %p does not connect to a forbidden address", async (credential) => {
  await using http = new HttpClient({ env: {}, backoffMs: 1 });
  const realm = { url: new URL("http://169.254.169.254:1/token"), isTrusted: true, isGuarded: true };
  const error = await failureOf(requestToken(http, { realm, service: "s", scope: "x", credential }, Date.now));
  expect([error.code, error.message]).toEqual([
    "EACCES",
    "Cannot connect: another server named a link-local or metadata address",
  ]);
});

test("RegistryAuth gives its authorization to the registry's origin only, and late refusals the token that is there", async () => {
  await using fake = await startFakeRegistry();
  fake.rules.push(() => ({ status: 200, body: '{"token":"t"}' }));
  await using http = new HttpClient({ env: {} });
  const api = new URL(`${fake.origin}/v2/`);
  const credentials = heldCredential(USER);
  const auth = new RegistryAuth({ http, api, registry: fake.host, repository: "a/b", credentials });
  const challenges = [`Bearer realm="${fake.origin}/token"`];
  for (let i = 0; i < 2; i++) await auth.answer({ action: "pull", challenges, sent: undefined, signal: undefined });
  expect(fake.requests.length).toBe(1);
  await auth.answer({ action: "pull", challenges, sent: "Bearer t", signal: undefined });
  expect(fake.requests.length).toBe(2);
  expect(await auth.authorizationFor(new URL("blobs/x", api), "pull", undefined)).toBe("Bearer t");
  for (const other of [`https://${fake.host}/v2/`, "https://storage.test/x", `http://127.0.0.1:1/v2/`]) {
    expect(await auth.authorizationFor(new URL(other), "pull", undefined)).toBeUndefined();
  }
});
