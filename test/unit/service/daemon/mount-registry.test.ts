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

test("a mount's body says what an unpacked bootstrap was, in hex", () => {
  const unpacked = (sha256: unknown): object => ({ ...body({}), image: { bootstrapDir: "/l", sha256, blobs: [] } });
  expect(parseMountBody(unpacked("ab".repeat(32))).image).toMatchObject({ sha256: "ab".repeat(32) });
  for (const bad of ["", "AB".repeat(32), 5, null]) expect(() => parseMountBody(unpacked(bad))).toThrow(/sha256/);
});

test.each([{ caFile: "ca.pem" }, { plainHttp: "yes" }, { credentials: {} }, "x"])(
  "a mount's body with registry %p is refused",
  (registry) => {
    expect(() => parseMountBody(body(registry))).toThrow(/registry/);
  },
);
