import { describe, expect, test } from "bun:test";
import { bytesOfKey, keyOfBytes } from "../../../../src/base/bytes.ts";
import { NydusError } from "../../../../src/base/errors.ts";
import { deviceIdMask } from "../../../../src/format/erofs/device.ts";
import { encodeRdev } from "../../../../src/format/erofs/inode.ts";
import { ErofsReader } from "../../../../src/format/erofs/reader.ts";
import { SUPER_OFFSET, SuperBlock } from "../../../../src/format/erofs/superblock.ts";
import { openRafs } from "../../../../src/format/rafs/image.ts";
import { encodeBootstrap } from "../../../../src/format/rafs/writer.ts";
import { makeNode, type TreeNode } from "../../../../src/format/tree/node.ts";
import { FakeBlob, randomOf } from "../rafs/samples.ts";

function imageOf(root: TreeNode): Uint8Array {
  return encodeBootstrap({ root, blobs: [], chunkBytes: 4096, compressor: "none", digester: "sha256" });
}

/** A directory of names that a seed decides, of 1 to 255 bytes. */
function wideDirectory(count: number): { readonly erofs: ErofsReader; readonly names: string[] } {
  const random = randomOf(count);
  const root = makeNode("dir");
  while (root.children.size < count) {
    const length = 1 + Math.floor(random() ** 4 * 255);
    const name = String.fromCharCode(...Array.from({ length }, () => 1 + Math.floor(random() * 255))).replaceAll(
      "/",
      "-",
    );
    if (name !== "." && name !== "..") root.children.set(name, makeNode("fifo"));
  }
  return { erofs: new ErofsReader(imageOf(root)), names: [...root.children.keys(), ".", ".."].sort() };
}

function codeOf(fn: () => unknown): string {
  try {
    fn();
  } catch (error) {
    if (error instanceof NydusError) return error.code;
    throw error;
  }
  return "nothing";
}

describe("a directory of 3000 names", () => {
  const { erofs, names } = wideDirectory(3000);
  const root = erofs.rootNid;
  const entries = [...erofs.readdir(root)];

  test("readdir() gives every name once, in byte order", () => {
    expect(entries.map((entry) => keyOfBytes(entry.name))).toEqual(names);
  });

  test("lookup() finds every name with the nid that readdir() gives", () => {
    for (const { name, nid, type } of entries) expect(erofs.lookup(root, name)).toEqual({ nid, type });
  });

  test("lookup() finds nothing between the names", () => {
    const known = new Set(names);
    for (const name of names) {
      for (const other of [`${name}\u0001`, name.slice(0, -1), `${name.slice(0, -1)}\u00ff\u00ff`]) {
        if (!known.has(other)) expect(erofs.lookup(root, bytesOfKey(other))).toBeUndefined();
      }
    }
    expect(erofs.lookup(root, new Uint8Array(0))).toBeUndefined();
    expect(erofs.lookup(root, new Uint8Array(300).fill(255))).toBeUndefined();
  });

  test("readdir() goes on behind any entry from its cookie", () => {
    for (let i = 0; i < entries.length; i += 97) {
      const rest = [...erofs.readdir(root, entries[i]?.next)];
      expect(rest.length).toBe(entries.length - i - 1);
      if (rest.length > 0) expect(rest[0]).toEqual(entries[i + 1] as (typeof rest)[0]);
    }
  });

  test("readdir() takes any number as a cookie", () => {
    for (const cookie of [-1, 1, 11, 12, 13, 4095, 4097, erofs.inode(root).sizeBytes, 2 ** 53]) {
      const wanted = entries.filter((entry) => entry.next - 12 >= cookie);
      expect([...erofs.readdir(root, cookie)].length).toBe(wanted.length);
    }
  });
});

describe("opening an image", () => {
  const sound = imageOf(makeNode("dir"));
  const changed = (field: keyof typeof SuperBlock.at, value: number): Uint8Array => {
    const copy = sound.slice();
    copy[SUPER_OFFSET + SuperBlock.at[field]] = value;
    return copy;
  };
  test.each([
    ["another magic", changed("magic", 1), "EUCLEAN"],
    ["blocks of 512 bytes", changed("blkszbits", 9), "ENOTSUP"],
    ["blocks of 64 KiB", changed("blkszbits", 16), "ENOTSUP"],
    ["blocks of 2^200 bytes", changed("blkszbits", 200), "EUCLEAN"],
    ["an incompatible feature unknown", changed("featureIncompat", 0x2c), "ENOTSUP"],
    ["metadata past the end", changed("metaBlkaddr", 0xf0), "EUCLEAN"],
    ["a root outside", changed("rootnid2b", 0xff), "EUCLEAN"],
    ["a device table past the end", changed("devtSlotoff", 0xff), "EUCLEAN"],
    ["too few bytes", sound.subarray(0, 1100), "EUCLEAN"],
    ["no bytes", new Uint8Array(0), "EUCLEAN"],
  ])("with %s ends as it should", (_, bytes, code) => {
    expect(codeOf(() => new ErofsReader(bytes))).toBe(code);
  });

  test("device slots past the end are refused", () => {
    const copy = changed("extraDevices", 0xff);
    expect(codeOf(() => new ErofsReader(copy))).toBe("EUCLEAN");
  });
});

describe("inodes", () => {
  const blob = new FakeBlob(0, 4096);
  const root = makeNode("dir");
  const times: [number, number][] = [
    [0, 0],
    [-1, 999_999_999],
    [2 ** 33, 1],
    [-(2 ** 40), 5],
  ];
  times.forEach(([mtimeSec, mtimeNsec], i) => {
    root.children.set(
      `time${i}`,
      makeNode("fifo", { mtimeSec, mtimeNsec, uid: 2 ** 32 - 2, gid: 70_000, mode: 0o7777 }),
    );
  });
  root.children.set("char", makeNode("char", { rdevMajor: 4095, rdevMinor: 2 ** 20 - 1 }));
  root.children.set("file", blob.file(9000));
  const image = openRafs(
    encodeBootstrap({ root, blobs: [blob.record], chunkBytes: 4096, compressor: "none", digester: "sha256" }),
  );
  const { erofs } = image;
  const nidOf = (name: string): number => erofs.lookup(erofs.rootNid, bytesOfKey(name))?.nid ?? -1;

  test("keep times before 1970 and beyond 2106, large ids and all mode bits", () => {
    const found = times.map((_, i) => erofs.inode(nidOf(`time${i}`)));
    expect(found.map(({ mtimeSec, mtimeNsec }) => [mtimeSec, mtimeNsec])).toEqual(times);
    expect(found[0]).toMatchObject({ uid: 2 ** 32 - 2, gid: 70_000, mode: 0o7777, type: "fifo", nlink: 1 });
  });

  test("decode device numbers as the kernel encodes them", () => {
    expect(erofs.inode(nidOf("char"))).toMatchObject({ type: "char", rdevMajor: 4095, rdevMinor: 2 ** 20 - 1 });
    expect(encodeRdev(8, 1)).toBe(0x801);
    expect(encodeRdev(1, 0x12345)).toBe(0x12300145);
  });

  test.each([-1, 0.5, 2 ** 40, Number.NaN, 2 ** 53])("nid %d is refused", (nid) => {
    expect(codeOf(() => erofs.inode(nid))).toBe("EUCLEAN");
  });

  test("the wrong question is EINVAL", () => {
    expect(codeOf(() => erofs.readlink(nidOf("file")))).toBe("EINVAL");
    expect(codeOf(() => erofs.lookup(nidOf("file"), bytesOfKey("x")))).toBe("EINVAL");
    expect(codeOf(() => [...erofs.extents(erofs.rootNid, 0, 1)])).toBe("EINVAL");
  });

  test("extents are clipped to the file and empty behind it", () => {
    const nid = nidOf("file");
    expect([...erofs.extents(nid, 0, 2 ** 50)]).toEqual([
      { kind: "device", device: 1, deviceOffset: 0, fileOffset: 0, length: 9000 },
    ]);
    expect([...erofs.extents(nid, 8999, 5)]).toEqual([
      { kind: "device", device: 1, deviceOffset: 8999, fileOffset: 8999, length: 1 },
    ]);
    expect([...erofs.extents(nid, 9000, 5), ...erofs.extents(nid, 5, 0)]).toEqual([]);
  });

  test("a chunk index past the image is EUCLEAN", () => {
    const damaged = image.bytes.slice();
    new DataView(damaged.buffer).setUint32(erofs.inode(nidOf("file")).offset + 12, 2 ** 10, true); // i_size, high half
    const reader = new ErofsReader(damaged);
    expect(codeOf(() => [...reader.extents(nidOf("file"), 2 ** 41, 1)])).toBe("EUCLEAN");
  });

  test("attributes past the image are EUCLEAN", () => {
    const damaged = imageOf(makeNode("dir"));
    const inode = new ErofsReader(damaged).inode(128);
    new DataView(damaged.buffer).setUint16(inode.offset + 2, 0xffff, true); // i_xattr_icount
    expect(() => new ErofsReader(damaged)).toThrow("ends past the image");
  });

  test("a chunk past its device is EUCLEAN", () => {
    const damaged = image.bytes.slice();
    const slot = 1408; // device table, first slot: blocks at 64
    damaged[slot + 64] = 2;
    const reader = new ErofsReader(damaged);
    expect(codeOf(() => [...reader.extents(nidOf("file"), 0, 9000)])).toBe("EUCLEAN");
  });
});

test.each([
  [0, 0],
  [1, 1],
  [2, 3],
  [3, 3],
  [4, 7],
  [254, 255],
])("%d extra devices make the device id mask %d", (devices, mask) => {
  expect(deviceIdMask(devices)).toBe(mask);
});

describe("a directory block", () => {
  const sound = imageOf(makeNode("dir", { children: new Map([["name", makeNode("fifo")]]) }));
  const { offset, sizeBytes } = new ErofsReader(sound).inode(128);
  // three entries: ".", "..", "name"; each nid, nameoff (8), type
  test.each([
    ["the first name behind the block", 0, 1200, "first nameoff 1200"],
    ["the first name among the entries", 0, 11, "first nameoff 11"],
    ["a name that ends behind the block", 1, sizeBytes + 1, "name from 36 to"],
    ["a name that ends before it begins", 1, 36, "name from 36 to 36"],
    ["a last name behind the block", 2, 4000, "name from"],
  ])("with %s is EUCLEAN", (_, entry, nameoff, message) => {
    const damaged = sound.slice();
    new DataView(damaged.buffer).setUint16(offset + 64 + entry * 12 + 8, nameoff, true);
    const reader = new ErofsReader(damaged);
    expect(() => [...reader.readdir(128)]).toThrow(message);
    expect(codeOf(() => [...reader.readdir(128)])).toBe("EUCLEAN");
  });
});

test("a name with a slash never leaves readdir()", () => {
  const image = imageOf(makeNode("dir", { children: new Map([["a_b", makeNode("fifo")]]) }));
  const at = Buffer.from(image).indexOf("a_b");
  image[at + 1] = 0x2f;
  const reader = new ErofsReader(image);
  expect(codeOf(() => [...reader.readdir(reader.rootNid)])).toBe("EUCLEAN");
});
