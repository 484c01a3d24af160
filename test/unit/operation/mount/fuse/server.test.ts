import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { NydusError } from "../../../../../src/base/errors.ts";
import { ErofsReader } from "../../../../../src/format/erofs/reader.ts";
import {
  Dirent,
  EntryOut,
  InHeader,
  InitFlag,
  InitIn,
  InitOut,
  OutHeader,
  ReadIn,
} from "../../../../../src/format/fuse/abi.ts";
import { FUSE_OPCODES } from "../../../../../src/format/fuse/opcode.ts";
import { ImageFs } from "../../../../../src/operation/mount/fuse/image-fs.ts";
import {
  FuseServer,
  MAX_READ_BYTES,
  REPLY_BYTES,
  readerErrno,
} from "../../../../../src/operation/mount/fuse/server.ts";
import { smallGolden } from "../../../../kit/golden.ts";

const bootstrap = new Uint8Array(readFileSync(join(smallGolden(), "rafs", "v6-zstd-blake3-64k", "merged.boot")));

function makeServer(image: Uint8Array = bootstrap, onError: (error: unknown) => void = () => undefined): FuseServer {
  return new FuseServer({
    fs: new ImageFs(new ErofsReader(image)),
    readReady: () => undefined,
    onMissing: () => undefined,
    onError,
    reply: new Uint8Array(REPLY_BYTES),
  });
}

function request(opcode: keyof typeof FUSE_OPCODES, nodeid: number, body: Uint8Array = new Uint8Array(0)): Uint8Array {
  const bytes = new Uint8Array(InHeader.sizeBytes + body.length);
  InHeader.write(bytes, 0, { len: bytes.length, opcode: FUSE_OPCODES[opcode].code, unique: 7n, nodeid });
  bytes.set(body, InHeader.sizeBytes);
  return bytes;
}

function readBody(offset: number, size: number): Uint8Array {
  const body = new Uint8Array(ReadIn.sizeBytes);
  ReadIn.write(body, 0, { offset, size });
  return body;
}

function initBody(major: number, minor: number, flags: number): Uint8Array {
  const body = new Uint8Array(InitIn.sizeBytes);
  InitIn.write(body, 0, { major, minor, maxReadahead: 131072, flags });
  return body;
}

/** The errno of a reply, or its payload's length. */
function answer(server: FuseServer, bytes: Uint8Array): number {
  const length = server.handle(bytes);
  if (length === 0) return 0;
  const header = OutHeader.read(server.reply, 0);
  expect(header.len).toBe(length);
  expect(header.unique).toBe(7n);
  return header.error === 0 ? length - OutHeader.sizeBytes : header.error;
}

describe("FuseServer", () => {
  test("negotiates only what the kernel offers", () => {
    const server = makeServer();
    expect(answer(server, request("INIT", 0, initBody(7, 45, 0xffff_ffff)))).toBe(InitOut.sizeBytes);
    const all = InitOut.read(server.reply, OutHeader.sizeBytes);
    expect([all.major, all.minor, all.maxPages]).toEqual([7, 31, 256]);
    expect(all.flags & InitFlag.MAX_PAGES).toBe(InitFlag.MAX_PAGES);
    expect(all.flags & (1 << 16)).toBe(0); // WRITEBACK_CACHE
    answer(server, request("INIT", 0, initBody(7, 31, InitFlag.ASYNC_READ)));
    expect(InitOut.read(server.reply, OutHeader.sizeBytes).flags).toBe(InitFlag.ASYNC_READ);
  });

  test.each([
    [6, 31],
    [8, 0],
    [7, 27],
  ])("refuses a kernel that speaks %d.%d", (major, minor) => {
    expect(answer(makeServer(), request("INIT", 0, initBody(major, minor, 0)))).toBe(-5);
  });

  test("answers each kind of request as its row says", () => {
    const server = makeServer();
    const errno = { readonly: -30, unsupported: -38, done: 0 } as const;
    for (const [name, row] of Object.entries(FUSE_OPCODES)) {
      const wanted = (errno as Record<string, number>)[row.handler];
      if (wanted === undefined) continue;
      expect(answer(server, request(name as keyof typeof FUSE_OPCODES, 1))).toBe(wanted);
    }
    for (const name of ["FORGET", "BATCH_FORGET", "INTERRUPT"] as const) {
      expect(server.handle(request(name, 1))).toBe(0);
    }
    expect(server.handle(new Uint8Array(10))).toBe(0);
  });

  test("lets the kernel remember a name that is not there", () => {
    const server = makeServer();
    expect(answer(server, request("LOOKUP", 1, new TextEncoder().encode("no such name\0")))).toBe(EntryOut.sizeBytes);
    const entry = EntryOut.read(server.reply, OutHeader.sizeBytes);
    expect([entry.nodeid, entry.entryValid]).toEqual([0, 0x7fff_ffff]);
  });

  test.each(["READDIR", "READDIRPLUS"] as const)(
    "%s lists the same names whatever the size of the buffer",
    (opcode) => {
      const server = makeServer();
      const head = opcode === "READDIR" ? 0 : EntryOut.sizeBytes;
      const list = (size: number): string[] => {
        const names: string[] = [];
        let cookie = 0;
        for (;;) {
          const length = answer(server, request(opcode, 1, readBody(cookie, size)));
          if (length === 0) return names;
          expect(length).toBeLessThanOrEqual(size);
          for (let at = OutHeader.sizeBytes; at < OutHeader.sizeBytes + length; ) {
            const dirent = Dirent.read(server.reply, at + head);
            const name = at + head + Dirent.sizeBytes;
            names.push(Buffer.from(server.reply.subarray(name, name + dirent.namelen)).toString("latin1"));
            cookie = dirent.off;
            at += Math.ceil((head + Dirent.sizeBytes + dirent.namelen) / 8) * 8;
          }
        }
      };
      const whole = list(MAX_READ_BYTES);
      expect(whole.slice(0, 2)).toEqual([".", ".."]);
      expect(whole.length).toBeGreaterThan(5);
      for (const size of [192, 300, 512, 4096]) expect(list(size)).toEqual(whole);
    },
  );

  test("readerErrno() is ENOSPC for lack of space and EIO for all else, never EPERM", () => {
    expect(readerErrno(new NydusError("ENOSPC", ""))).toBe(28);
    for (const code of ["EPERM", "EACCES", "EBADMSG", "ETIMEDOUT", "ENOENT"] as const) {
      expect(readerErrno(new NydusError(code, ""))).toBe(5);
    }
    expect(readerErrno(new TypeError())).toBe(5);
  });

  test("over damaged images gives a reply to every request, and its errors are NydusErrors", () => {
    const seed = 20261124;
    const random = randomFrom(seed);
    let opened = 0;
    for (let round = 0; round < 30; round++) {
      const image = bootstrap.slice();
      for (let i = 0; i < 400; i++) image[4096 + random(image.length - 4096)] = random(256);
      const server = tryServer(image, seed);
      if (server === undefined) continue;
      opened++;
      for (let i = 0; i < 300; i++) {
        const bytes = randomRequest(random, image.length);
        const isRead = bytes[InHeader.at.opcode] === FUSE_OPCODES.READ.code;
        expect(server.handle(bytes)).toBeGreaterThanOrEqual(isRead ? 0 : OutHeader.sizeBytes);
      }
    }
    expect(opened).toBeGreaterThan(10);
  });
});

function randomFrom(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

/** A server that lets only NydusErrors pass, or undefined when the image cannot be opened. */
function tryServer(image: Uint8Array, seed: number): FuseServer | undefined {
  const onError = (error: unknown): void => {
    if (!(error instanceof NydusError)) throw new Error(`seed ${seed}`, { cause: error });
  };
  try {
    return makeServer(image, onError);
  } catch (error) {
    onError(error);
    return undefined;
  }
}

const READERS = [
  "LOOKUP",
  "GETATTR",
  "READLINK",
  "READ",
  "STATFS",
  "GETXATTR",
  "LISTXATTR",
  "READDIR",
  "READDIRPLUS",
] as const;

function randomRequest(random: (below: number) => number, imageBytes: number): Uint8Array {
  const opcode = READERS[random(READERS.length)] ?? "READ";
  const nodeid = random(4) === 0 ? random(2 ** 32) : random(imageBytes / 32);
  const ranged = ["READ", "READDIR", "READDIRPLUS"].includes(opcode);
  return request(
    opcode,
    nodeid,
    ranged ? readBody(random(10_000), random(70_000)) : new Uint8Array(24).map(() => random(256)),
  );
}
