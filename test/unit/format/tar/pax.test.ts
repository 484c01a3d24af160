import { describe, expect, test } from "bun:test";
import { keyOfBytes } from "../../../../src/base/bytes.ts";
import { END, failure, gnuLong, header, padded, pax, read, readOne, utf8 } from "../../../kit/tar-bytes.ts";

describe("readTar() pax records", () => {
  test("xattrs come raw from SCHILY and encoded from LIBARCHIVE, SCHILY winning", async () => {
    const records = {
      "LIBARCHIVE.xattr.user.both": "bGlidGFy",
      "SCHILY.xattr.user.both": "star",
      "LIBARCHIVE.xattr.user.a%3db%ff": "AAH/",
      "SCHILY.xattr.user.empty": "",
      "SCHILY.xattr.security.capability": Uint8Array.of(1, 0, 0, 10, 255),
    };
    const { xattrs } = await readOne(pax(records), header());
    expect(Object.fromEntries([...xattrs].sort())).toEqual({
      "security.capability": Uint8Array.of(1, 0, 0, 10, 255),
      "user.a=b\xff": Uint8Array.of(0, 1, 255),
      "user.both": utf8("star"),
      "user.empty": new Uint8Array(0),
    });
  });

  test("global records hold until an entry's own overrule them, for that entry", async () => {
    const pieces = [pax({ mtime: "7", uid: "9" }, "g"), header(), pax({ mtime: "8" }), header(), header(), END];
    const entries = await read(pieces);
    expect(entries.map(({ mtimeSec, uid }) => [mtimeSec, uid])).toEqual([
      [7, 9],
      [8, 9],
      [7, 9],
    ]);
  });

  test("a pax size overrules the header's", async () => {
    const entries = await read([pax({ size: "3" }), header(), padded(utf8("abc")), header({ name: "next" }), END]);
    expect(entries.map(({ name, text }) => [name, text])).toEqual([
      ["file", "abc"],
      ["next", ""],
    ]);
  });

  test("GNU long names and links are taken", async () => {
    const long = `${"dir/".repeat(40)}name`;
    const entry = await readOne(gnuLong("K", long), gnuLong("L", `${long}2`), header({ typeflag: "2" }));
    expect([entry.name, keyOfBytes(entry.linkPath)]).toEqual([`${long}2`, long]);
  });

  test.each([
    ["no length", "x path=a\n"],
    ["a length past the end", "99 path=a\n"],
    ["a length too short", "3 path=a\n"],
    ["no newline", "10 path=ab"],
    ["no equals sign", "8 pathx\n"],
    ["an empty keyword", "5 =a\n"],
    ["a length of many digits", "00000000000000000000010 path=a\n"],
  ])("refuses a record with %s", async (_, text) => {
    const body = utf8(text);
    const error = await failure([header({ typeflag: "x", size: body.length }), padded(body), header(), END]);
    expect(error.code).toBe("EUCLEAN");
    expect(error.at.offset).toBe(0);
  });

  test("refuses over 1 MiB of records, for one entry or by global headers", async () => {
    const half = pax({ comment: "x".repeat(600_000) });
    expect((await failure([half, half, header(), END])).message).toContain("1048576");
    const globals = [1, 2, 3].map((i) => pax({ [`comment${i}`]: "x".repeat(600_000) }, "g"));
    expect((await failure([...globals, header(), END])).message).toContain("global");
  });
});

describe("readTar() sparse files", () => {
  const data = padded(utf8("AAAABBBB"));
  const wanted = `\0\0AAAA${"\0".repeat(4)}BBBB${"\0".repeat(6)}`;

  test("pax 0.0", async () => {
    const body = utf8(
      "22 GNU.sparse.size=20\n26 GNU.sparse.numblocks=2\n23 GNU.sparse.offset=2\n25 GNU.sparse.numbytes=4\n24 GNU.sparse.offset=10\n25 GNU.sparse.numbytes=4\n",
    );
    const entry = await readOne(header({ typeflag: "x", size: body.length }), padded(body), header({ size: 8 }), data);
    expect([entry.text, entry.sizeBytes]).toEqual([wanted, 20]);
  });

  test("pax 0.1", async () => {
    const records = { "GNU.sparse.size": "20", "GNU.sparse.map": "2,4,10,4", "GNU.sparse.name": "real/name" };
    const entry = await readOne(pax(records), header({ size: 8 }), data);
    expect([entry.name, entry.text]).toEqual(["real/name", wanted]);
  });

  test("pax 1.0", async () => {
    const records = {
      "GNU.sparse.major": "1",
      "GNU.sparse.minor": "0",
      "GNU.sparse.realsize": "20",
      "GNU.sparse.name": "n",
    };
    const map = padded(utf8("2\n2\n4\n10\n4\n"));
    const entry = await readOne(pax(records), header({ size: 512 + 8 }), map, data);
    expect([entry.name, entry.text]).toEqual(["n", wanted]);
  });

  test.each([
    ["overlapping", "2,4,5,4"],
    ["out of order", "10,4,2,4"],
    ["past the end", "2,4,17,4"],
    ["of other bytes than the body", "2,4"],
    ["of an odd count", "2,4,10"],
    ["of a negative number", "-2,4,10,4"],
    ["of a number beyond 2^53", "2,4,99999999999999999,4"],
  ])("refuses extents %s", async (_, map) => {
    const error = await failure([
      pax({ "GNU.sparse.size": "20", "GNU.sparse.map": map }),
      header({ size: 8 }),
      data,
      END,
    ]);
    expect(error.code).toBe("EUCLEAN");
  });

  test("a file that is one hole has no body", async () => {
    const entry = await readOne(pax({ "GNU.sparse.size": "600000", "GNU.sparse.map": "" }), header());
    expect(entry.text).toBe("\0".repeat(600_000));
  });
});
