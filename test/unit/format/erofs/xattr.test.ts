import { describe, expect, test } from "bun:test";
import { NydusError } from "../../../../src/base/errors.ts";
import {
  decodeXattrs,
  encodeXattrs,
  isEncodableXattr,
  xattrIcount,
  xattrKey,
} from "../../../../src/format/erofs/xattr.ts";
import { randomOf } from "../rafs/samples.ts";

const ACL = "system.posix_acl_access";

function decode(area: Uint8Array): Map<string, Uint8Array> {
  const found = decodeXattrs({ bytes: area, offset: 0, length: area.length, sharedOffset: 0 });
  return new Map(found.map((xattr) => [xattrKey(xattr), xattr.value]));
}

describe("an inline area", () => {
  test("gives back every attribute, names sorted, whatever their order was", () => {
    const random = randomOf(3);
    const names = ["user.a", "user.b\xff", "trusted.overlay.x", "security.capability", ACL, "system.posix_acl_default"];
    const xattrs = new Map(
      names.map((name) => [name, Uint8Array.from({ length: random() * 50 }, () => random() * 256)]),
    );
    const area = encodeXattrs(xattrs);
    const found = decode(area);
    expect([...found.keys()]).toEqual([...names].sort());
    for (const [name, value] of found) expect(Buffer.from(value).equals(xattrs.get(name) as Uint8Array)).toBe(true);
    expect(Bun.hash(encodeXattrs(new Map([...xattrs].reverse())))).toBe(Bun.hash(area));
  });

  test("is empty for no attributes, and counts in words of 4 bytes", () => {
    expect(encodeXattrs(new Map()).length).toBe(0);
    expect(xattrIcount(new Uint8Array(0))).toBe(0);
    const area = encodeXattrs(new Map([["user.a", new Uint8Array(4)]]));
    expect([area.length, xattrIcount(area)]).toEqual([12 + 12, 4]);
  });

  test("takes a value of 65535 bytes and refuses one more", () => {
    expect(decode(encodeXattrs(new Map([["user.a", new Uint8Array(65535)]]))).get("user.a")?.length).toBe(65535);
    expect(() => encodeXattrs(new Map([["user.a", new Uint8Array(65536)]]))).toThrow("at most 65535");
  });

  test("is refused when its size does not fit the inode", () => {
    const xattrs = new Map(Array.from({ length: 5 }, (_, i) => [`user.${i}`, new Uint8Array(65535)]));
    expect(() => encodeXattrs(xattrs)).toThrow("262148");
  });
});

test.each(["user.", "foo", "system.posix_acl_accessX", "os2.a", "", `user.${"x".repeat(256)}`])(
  "the name %j has no place in EROFS",
  (name) => {
    expect(isEncodableXattr(name)).toBe(false);
    expect(() => encodeXattrs(new Map([[name, new Uint8Array(1)]]))).toThrow(NydusError);
  },
);

describe("damage", () => {
  const area = encodeXattrs(new Map([["user.a", new Uint8Array(8)]]));
  const damaged = (at: number, value: number): Uint8Array => {
    const copy = area.slice();
    copy[at] = value;
    return copy;
  };
  test.each([
    ["an unknown name index", 13, 9],
    ["a value past the end", 14, 200],
    ["a name past the end", 12, 200],
    ["more shared ids than bytes", 4, 200],
    ["a shared id outside of the image", 4, 1],
  ])("%s is EUCLEAN", (_, at, value) => {
    expect(() => decode(damaged(at, value))).toThrow(NydusError);
  });

  test("a long name prefix is ENOTSUP", () => {
    expect(() => decode(damaged(13, 0x81))).toThrow("long name prefix");
  });
});
