import { describe, expect, test } from "bun:test";
import { NydusError } from "../../../../src/base/errors.ts";
import { proxiesOf } from "../../../../src/content/http/proxy.ts";

const PROXY = "http://proxy.test:3128";

describe("proxiesOf()", () => {
  // The cases are those of Go's golang.org/x/net/http/httpproxy, by its documentation.
  test.each<[string, string, boolean]>([
    ["", "https://example.com/", true],
    ["", "https://localhost/", false],
    ["", "https://127.0.0.1:8443/", false],
    ["", "https://[::1]/", false],
    ["*", "https://example.com/", false],
    ["example.com", "https://example.com/", false],
    ["example.com", "https://EXAMPLE.com./", false],
    ["example.com", "https://a.example.com/", false],
    ["example.com", "https://notexample.com/", true],
    [".example.com", "https://example.com/", true],
    [".example.com", "https://a.example.com/", false],
    ["*.example.com", "https://a.b.example.com/", false],
    ["*.example.com", "https://example.com/", true],
    ["example.com:8443", "https://example.com:8443/", false],
    ["example.com:8443", "https://example.com/", true],
    ["example.com:443", "https://example.com/", false],
    ["other.test, Example.COM ,", "https://example.com/", false],
    ["10.1.2.3", "https://10.1.2.3/", false],
    ["10.1.2.3", "https://10.1.2.4/", true],
    ["10.1.2.3:443", "https://10.1.2.3/", false],
    ["10.0.0.0/8", "https://10.200.1.1/", false],
    ["10.0.0.0/8", "https://11.0.0.1/", true],
    ["10.0.0.0/8", "https://ten.example/", true],
    ["fd00::/8", "https://[fd12::1]/", false],
    ["fd00::/8", "https://[fe12::1]/", true],
    ["[fd12::0:1]", "https://[fd12::1]/", false],
  ])("with NO_PROXY %p leads %p by the proxy: %p", (noProxy, url, isProxied) => {
    const proxy = proxiesOf({ HTTPS_PROXY: PROXY, NO_PROXY: noProxy })(new URL(url));
    expect(proxy?.url.origin).toBe(isProxied ? PROXY : undefined);
  });

  test("takes each scheme's variable, the upper-case one first, a scheme left out, user and password", () => {
    const env = { http_proxy: "a.test:1", HTTPS_PROXY: "https://u%40x:p%3A@b.test", https_proxy: "http://c.test" };
    const proxyOf = proxiesOf(env);
    expect(proxyOf(new URL("http://x.test"))?.url.href).toBe("http://a.test:1/");
    const secure = proxyOf(new URL("https://x.test"));
    expect(secure?.url.href).toBe("https://b.test/");
    expect(secure?.authorization).toBe(`Basic ${btoa("u@x:p:")}`);
    expect(proxiesOf({ HTTPS_PROXY: PROXY })(new URL("http://x.test"))).toBeUndefined();
    expect(proxiesOf({ HTTP_PROXY: PROXY, REQUEST_METHOD: "GET" })(new URL("http://x.test"))).toBeUndefined();
  });

  test.each(["http://user:canary@:0x/", "socks5://user:canary@x.test", "http://"])(
    "refuses %p without showing it",
    (text) => {
      const read = (): unknown => proxiesOf({ HTTPS_PROXY: text });
      expect(read).toThrow(NydusError);
      expect(read).not.toThrow(/canary/);
    },
  );
});
