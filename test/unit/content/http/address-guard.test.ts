import { expect, test } from "bun:test";
import { isForbiddenAddress } from "../../../../src/content/http/address-guard.ts";

test.each([
  "169.254.169.254",
  "169.254.0.1",
  "0.0.0.0",
  "100.100.100.200",
  "168.63.129.16",
  "192.0.0.192",
  "fe80::1",
  "fe80::1%eth0",
  "FEBF::1",
  "fd00:ec2::254",
  "fd00:0ec2:0:0:0:0:0:0254",
  "::",
  "::ffff:169.254.169.254",
  "::ffff:a9fe:a9fe",
  "0:0:0:0:0:ffff:169.254.1.2",
  "64:ff9b::169.254.169.254",
])("%p may not be connected to on another server's word", (address) => {
  expect(isForbiddenAddress(address)).toBe(true);
});

test.each(["10.0.0.1", "192.168.1.1", "172.16.0.1", "127.0.0.1", "::1", "fd12::1", "8.8.8.8", "::ffff:10.0.0.1"])(
  "%p may",
  (address) => {
    expect(isForbiddenAddress(address)).toBe(false);
  },
);

test("a name is no address", () => {
  expect(isForbiddenAddress("169.254.169.254.example")).toBe(false);
});
