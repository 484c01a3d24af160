import { describe, expect, test } from "bun:test";
import { NydusError } from "../../../../src/base/errors.ts";
import { realmOf } from "../../../../src/content/registry/realm.ts";

describe("realmOf()", () => {
  test.each<[string, string, boolean]>([
    ["https://registry-1.docker.io/v2/", "https://auth.docker.io/token", true],
    ["https://registry.gitlab.com/v2/", "https://gitlab.com/jwt/auth", true],
    ["https://ghcr.io/v2/", "https://ghcr.io/token", true],
    ["https://quay.io:443/v2/", "https://quay.io:8443/v2/auth", true],
    ["https://us.icr.io/v2/", "https://icr.io/oauth/token", true],
    ["https://rg.fr-par.scw.cloud/v2/", "https://api.scaleway.com/registry-internal/v1/tokens", true],
    ["https://reg.shop.co.uk/v2/", "https://auth.shop.co.uk/token", true],
    ["https://registry.example/v2/", "https://auth.registry.example/token", true],
    ["https://10.0.0.5:5000/v2/", "https://10.0.0.5/token", true],
    ["http://127.0.0.1:5000/v2/", "http://127.0.0.1:5001/token", true],
    ["http://localhost:5000/v2/", "http://127.0.0.1:5001/token", true],
    ["http://harbor.lan/v2/", "http://harbor.lan/service/token", true],
    ["https://registry-1.docker.io/v2/", "https://auth.docker.io.evil.example/token", false],
    ["https://registry-1.docker.io/v2/", "https://evil.example/token", false],
    ["https://registry-1.docker.io/v2/", "https://evildocker.io/token", false],
    ["https://reg.shop.co.uk/v2/", "https://evil.co.uk/token", false],
    ["https://mine.azurecr.io/v2/", "https://evil.azurecr.io/token", false],
    ["https://mine.azurecr.io/v2/", "https://azurecr.io/token", false],
    ["https://10.0.0.5:5000/v2/", "https://11.0.0.5/token", false],
    ["https://registry.example/v2/", "https://127.0.0.1/token", false],
    ["https://registry/v2/", "https://other/token", false],
  ])("of %p trusts %p with credentials: %p", (registry, realm, isTrusted) => {
    expect(realmOf(realm, new URL(registry)).isTrusted).toBe(isTrusted);
  });

  test.each([
    ["https://registry.example/v2/", "http://registry.example/token"],
    ["https://registry.example/v2/", "http://127.0.0.1/token"],
    ["http://127.0.0.1:5000/v2/", "http://registry.example/token"],
    ["http://harbor.lan/v2/", "http://auth.harbor.lan/token"],
    ["https://registry.example/v2/", "https://user:canary@registry.example/token"],
    ["https://registry.example/v2/", "file:///etc/passwd"],
    ["https://registry.example/v2/", "ftp://registry.example/"],
    ["https://registry.example/v2/", "/token"],
    ["https://registry.example/v2/", ""],
  ])("of %p refuses %p", (registry, realm) => {
    const read = (): unknown => realmOf(realm, new URL(registry));
    expect(read).toThrow(NydusError);
    expect(read).not.toThrow(/canary/);
  });

  test("guards realms on other hosts than the registry's", () => {
    const registry = new URL("https://registry.example/v2/");
    expect(realmOf("https://registry.example:1/token#x", registry)).toMatchObject({ isGuarded: false });
    expect(realmOf("https://auth.registry.example/token", registry)).toMatchObject({ isGuarded: true });
  });
});
