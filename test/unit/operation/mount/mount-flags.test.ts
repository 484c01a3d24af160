import { describe, expect, test } from "bun:test";
import { NydusError } from "../../../../src/base/errors.ts";
import { DEFAULT_MOUNT_FLAGS, parseMountFlags } from "../../../../src/operation/mount/mount-flags.ts";

describe("parseMountFlags()", () => {
  test.each([
    ["", {}],
    ["ro,default_permissions,noatime", {}],
    ["allow_other,suid,dev,noexec", { allowOther: true, suid: true, dev: true, exec: false }],
    ["suid,nosuid,dev,nodev,noexec,exec", {}],
    ["fsname=a:b/c,subtype=x.y,max_read=4096,", { fsname: "a:b/c", subtype: "x.y", maxReadBytes: 4096 }],
    ["max_read=1048576", { maxReadBytes: 1 << 20 }],
  ])("%j gives the defaults and %j", (text, changed) => {
    expect(parseMountFlags(text)).toEqual({ ...DEFAULT_MOUNT_FLAGS, ...changed });
  });

  test.each([
    "rw",
    "allow_root",
    "constructor",
    "ro=1",
    "fsname",
    "fsname=",
    "fsname=a b",
    "fsname=a\\b",
    "subtype=a/b",
    "max_read=4095",
    "max_read=1048577",
    "max_read=0x1000",
    " ro",
  ])("refuses %j", (text) => {
    expect(() => parseMountFlags(text)).toThrow(NydusError);
  });

  test("names the known options to who gives an unknown one", () => {
    expect(() => parseMountFlags("ro,foo=bar")).toThrow(
      'Cannot use mount option "foo=bar": known are allow_other, ro, default_permissions, noatime, suid, nosuid, dev, nodev, exec, noexec, fsname=, subtype=, max_read=',
    );
  });
});
