import { expect, test } from "bun:test";
import { parseMountBody } from "../../../../src/service/daemon/api.ts";

const body = (registry: unknown): object => ({
  image: { name: "reg.test/app:1", registry },
  shown: "app",
  mountpoint: "/mnt",
  engine: "fuse",
  readTimeoutMs: 1000,
  options: "",
});

test.each([
  [{}, {}],
  [
    { caFile: "/etc/ca.pem", plainHttp: true },
    { caFile: "/etc/ca.pem", plainHttp: true },
  ],
])("a mount's body says how its registry is reached: %p", (registry, expected) => {
  expect(parseMountBody(body(registry)).image).toMatchObject({ registry: expected });
});

test.each([{ caFile: "ca.pem" }, { plainHttp: "yes" }, { credentials: {} }, "x"])(
  "a mount's body with registry %p is refused",
  (registry) => {
    expect(() => parseMountBody(body(registry))).toThrow(/registry/);
  },
);
