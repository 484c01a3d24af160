import { describe, expect, test } from "bun:test";
import { concatBytes, keyOfBytes } from "../../../../src/base/bytes.ts";
import { TAR_BLOCK, UstarHeader } from "../../../../src/format/tar/header.ts";
import { readTar, type TarEntry } from "../../../../src/format/tar/reader.ts";
import { collect, streamOf } from "../../../kit/overlay-oracle.ts";
import { END, failure, gnuLong, header, padded, patched, pax, read, readOne, utf8 } from "../../../kit/tar-bytes.ts";

describe("readTar() paths", () => {
  test.each([
    ["a/b", "a/b"],
    ["/a/b", "a/b"],
    ["./a", "a"],
    ["././a//b/./c/", "a/b/c"],
    ["../../a", "a"],
    ["a/../../b", "b"],
    ["a/..", ""],
    ["./", ""],
    ["/", ""],
    ["..", ""],
    ["...", "..."],
    ["a/..b", "a/..b"],
    [".wh..wh..opq", ".wh..wh..opq"],
  ])("%j becomes %j, as Go cleans it to the root", async (name, wanted) => {
    expect((await readOne(header({ name, typeflag: "5" }))).name).toBe(wanted);
  });

  test("a hard link's target is cleaned, a symlink's stays raw", async () => {
    const hard = await readOne(header({ typeflag: "1", linkname: utf8("/../x/./y") }));
    expect(keyOfBytes(hard.linkPath)).toBe("x/y");
    const soft = await readOne(header({ typeflag: "2", linkname: utf8("/../x/./y") }));
    expect(keyOfBytes(soft.linkPath)).toBe("/../x/./y");
  });

  test("raw bytes that are no UTF-8 stay as they are", async () => {
    const raw = Uint8Array.of(0x61, 0xff, 0xfe, 0x2f, 0x80);
    expect(await readOne(header({ name: raw })).then((entry) => entry.path)).toEqual(raw);
    expect(await readOne(pax({ path: raw }), header()).then((entry) => entry.path)).toEqual(raw);
  });

  test("a name of 255 bytes is taken, one of 256 refused at its header's offset", async () => {
    expect((await readOne(gnuLong("L", `d/${"n".repeat(255)}`), header())).name).toHaveLength(257);
    const error = await failure([header(), gnuLong("L", "n".repeat(256)), header(), END]);
    expect(error.code).toBe("EUCLEAN");
    expect(error.at.offset).toBe(3 * TAR_BLOCK);
    expect(error.message).toContain("256 bytes");
  });

  test("a whiteout may hide a name of 255 bytes", async () => {
    expect((await readOne(gnuLong("L", `.wh.${"n".repeat(255)}`), header())).name).toHaveLength(259);
    expect((await failure([gnuLong("L", `.wh.${"n".repeat(256)}`), header(), END])).code).toBe("EUCLEAN");
  });

  test("a path over 4,095 bytes is refused", async () => {
    expect((await readOne(gnuLong("L", `${"d/".repeat(2047)}d`), header())).name).toHaveLength(4095);
    expect((await failure([gnuLong("L", `${"d/".repeat(2048)}d`), header(), END])).message).toContain("4097 bytes");
  });

  test("a NUL in a pax path is refused", async () => {
    expect((await failure([pax({ path: "a\0b" }), header(), END])).message).toContain("NUL");
  });

  test("the ustar prefix goes before the name, but not in GNU's dialect", async () => {
    const block = header({ name: "name", prefix: utf8("pre/fix") });
    expect((await readOne(block)).name).toBe("pre/fix/name");
    expect((await readOne(patched(block, UstarHeader.at.magic, "ustar  \0"))).name).toBe("name");
  });
});

describe("readTar() numbers and times", () => {
  test("base-256 numbers are read, negative times too", async () => {
    const big = new Uint8Array(12);
    big.set([0x80, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 5]);
    expect((await readOne(patched(header(), UstarHeader.at.mtime, big))).mtimeSec).toBe(2 ** 32 + 5);
    expect((await readOne(patched(header(), UstarHeader.at.mtime, new Uint8Array(12).fill(0xff)))).mtimeSec).toBe(-1);
  });

  test.each([
    ["1600000000.123456789", 1600000000, 123456789],
    ["5", 5, 0],
    ["5.", 5, 0],
    ["5.5", 5, 500000000],
    ["5.1234567899", 5, 123456789],
    ["-1", -1, 0],
    ["-1.5", -2, 500000000],
    ["-0.000000001", -1, 999999999],
    ["0", 0, 0],
    ["4500000000.000000001", 4500000000, 1],
  ])("a pax mtime of %s is %d s and %d ns", async (text, sec, nsec) => {
    const entry = await readOne(pax({ mtime: text }), header());
    expect([entry.mtimeSec, entry.mtimeNsec]).toEqual([sec, nsec]);
  });

  test("blank device fields of a FIFO are nothing", async () => {
    const block = patched(header({ typeflag: "6" }), UstarHeader.at.devmajor, new Uint8Array(16));
    expect((await readOne(block)).type).toBe("fifo");
    expect((await readOne(patched(block, UstarHeader.at.devmajor, " ".repeat(16)))).type).toBe("fifo");
  });

  test("pax ids over 21 bits and type bits in the mode", async () => {
    const block = patched(header(), UstarHeader.at.mode, "0104755\0");
    const entry = await readOne(pax({ uid: "4294967294", gid: "7654321" }), block);
    expect([entry.uid, entry.gid, entry.mode]).toEqual([4294967294, 7654321, 0o4755]);
  });

  test("an old checksum of signed bytes is taken", async () => {
    const block = header({ name: Uint8Array.of(0xff, 0x61) });
    const copy = block.slice();
    copy.fill(0x20, UstarHeader.at.checksum, UstarHeader.at.checksum + 8);
    const signed = copy.reduce((total, byte) => total + (byte > 127 ? byte - 256 : byte), 0);
    copy.set(utf8(`${signed.toString(8).padStart(6, "0")}\0 `), UstarHeader.at.checksum);
    expect((await readOne(copy)).path).toEqual(Uint8Array.of(0xff, 0x61));
  });
});

describe("readTar() as a stream", () => {
  const archive = [
    header({ name: "a", size: 5 }),
    padded(utf8("hello")),
    header({ name: "b", size: 600 }),
    padded(utf8("w".repeat(600))),
    header({ name: "c" }),
    END,
  ];

  test.each([1, 7, 511, 512, 513, 4096])("gives the same in pieces of %d bytes", async (pieceBytes) => {
    const entries = await read(archive, pieceBytes);
    expect(entries.map(({ name, text, offset }) => [name, text, offset])).toEqual([
      ["a", "hello", 0],
      ["b", "w".repeat(600), 1024],
      ["c", "", 2560],
    ]);
  });

  test("passes over contents that nobody reads, or reads in part", async () => {
    const names: string[] = [];
    for await (const entry of readTar(streamOf(concatBytes(archive), 100))) {
      names.push(keyOfBytes(entry.path));
      if (names.length === 2) for await (const _ of entry.content) break;
    }
    expect(names).toEqual(["a", "b", "c"]);
  });

  test("hands out views of the incoming buffers", async () => {
    const whole = concatBytes(archive);
    for await (const entry of readTar(streamOf(whole))) {
      for await (const piece of entry.content) expect(piece.buffer).toBe(whole.buffer);
    }
  });

  test("reads what follows the end, so that a digest can be completed", async () => {
    let pulled = 0;
    async function* counted(): AsyncGenerator<Uint8Array> {
      for (const piece of [...archive, utf8("trailing"), new Uint8Array(10240)]) {
        pulled += piece.length;
        yield piece;
      }
    }
    for await (const _ of readTar(counted()));
    expect(pulled).toBe(concatBytes(archive).length + 8 + 10240);
  });

  test("closes its input when the consumer leaves", async () => {
    let isClosed = false;
    async function* watched(): AsyncGenerator<Uint8Array> {
      try {
        for (const piece of archive) yield piece;
      } finally {
        isClosed = true;
      }
    }
    for await (const _ of readTar(watched())) break;
    expect(isClosed).toBe(true);
  });

  test("refuses to read a content twice, or after its entry has passed", async () => {
    const kept: TarEntry[] = [];
    for await (const entry of readTar(streamOf(concatBytes(archive)))) kept.push(entry);
    await expect(collect((kept[0] as TarEntry).content)).rejects.toThrow("passed over");
  });

  test("ends at one zero block or none where the stream ends", async () => {
    expect(await read([header(), new Uint8Array(TAR_BLOCK)])).toHaveLength(1);
    expect(await read([header()])).toHaveLength(1);
    expect(await read([])).toHaveLength(0);
  });

  test("takes an end within a last body's padding", async () => {
    expect((await read([header({ size: 5 }), utf8("hello")]))[0]?.text).toBe("hello");
  });
});

describe("readTar() refuses", () => {
  test.each([
    ["a stream that ends within a header", [header(), header().subarray(0, 200)], 712],
    ["a stream that ends within a body", [header({ size: 600 }), new Uint8Array(512)], 1024],
    ["a stream that ends after an extended header", [pax({ path: "x" })], 1024],
    ["a wrong checksum", [header(), header().fill(1, 0, 1)], 512],
    ["a lone zero block with more after it", [header(), new Uint8Array(512), header(), END], 512],
    ["letters in a size", [patched(header(), UstarHeader.at.size, "0000000000x\0")], 0],
    [
      "a size beyond 2^53",
      [patched(header(), UstarHeader.at.size, Uint8Array.of(0x80, 0, 0, 0, 0x7f, 255, 255, 255, 255, 255, 255, 255))],
      0,
    ],
    ["a negative size", [patched(header(), UstarHeader.at.size, new Uint8Array(12).fill(255))], 0],
    ["a user id over 32 bits", [pax({ uid: "4294967296" }), header(), END], 1024],
    ["a symlink to nothing", [header({ typeflag: "2" }), END], 0],
    ["a symlink target over 4,095 bytes", [gnuLong("K", "t".repeat(4096)), header({ typeflag: "2" }), END], 5120],
  ])("%s", async (_, pieces, offset) => {
    const error = await failure(pieces);
    expect(error.code).toBe("EUCLEAN");
    expect(error.at.offset).toBe(offset);
  });

  test("an entry type that nobody knows, with ENOTSUP", async () => {
    expect((await failure([header({ typeflag: "Z" }), END])).code).toBe("ENOTSUP");
  });
});

test("an old tar's directory is a regular file whose name ends in a slash", async () => {
  expect((await readOne(header({ name: "d/", typeflag: "\0" }))).type).toBe("dir");
  expect((await readOne(header({ name: "d", typeflag: "\0" }))).type).toBe("file");
});

test("a volume label is passed over", async () => {
  expect((await readOne(header({ typeflag: "V" }), header({ name: "x" }))).name).toBe("x");
});

test("paths, links and xattrs are copies, even where the input is of Node's Buffers that are used again", async () => {
  const parts = [
    pax({ "SCHILY.xattr.user.a": "value", path: "pax/name" }),
    header({ typeflag: "2", linkname: utf8("target") }),
  ];
  const input = Buffer.from(concatBytes([...parts, END]));
  const [entry] = await Array.fromAsync(readTar(streamOf(input)));
  input.fill(0xee);
  expect(keyOfBytes(entry?.path ?? input)).toBe("pax/name");
  expect(keyOfBytes(entry?.linkPath ?? input)).toBe("target");
  expect(entry?.xattrs.get("user.a")).toEqual(utf8("value"));
});
