import { describe, expect, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { toHex } from "../../../../src/base/digest.ts";
import { NydusError } from "../../../../src/base/errors.ts";
import type { Digester } from "../../../../src/format/codec/codecs.ts";
import { CALL_BYTES_MAX, loadKernels } from "../../../../src/format/codec/kernels.ts";

const kernels = await loadKernels();

const SEED = 0x51ed;
console.log(`kernels-hash.test.ts: seed ${SEED}`);

/** A generator of u32 (mulberry32). */
function randomOf(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return (t ^ (t >>> 14)) >>> 0;
  };
}

function randomBytes(random: () => number, length: number): Uint8Array {
  return Uint8Array.from({ length }, random);
}

/** The input of BLAKE3's test vectors: bytes 0 to 250, over and over. */
function pattern(length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let i = 0; i < Math.min(251, length); i++) bytes[i] = i;
  for (let done = 251; done < length; done *= 2) bytes.copyWithin(done, 0, done);
  return bytes;
}

const text = (value: string): Uint8Array => new TextEncoder().encode(value);

function codeOf(fn: () => unknown): string {
  try {
    fn();
  } catch (error) {
    if (error instanceof NydusError) return error.code;
    throw error;
  }
  return "no error";
}

/** The lengths of BLAKE3's test_vectors.json, and two that it lacks; made with b3sum 1.2.0. */
const BLAKE3_VECTORS: readonly (readonly [length: number, digest: string])[] = [
  [0, "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"],
  [1, "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213"],
  [2, "7b7015bb92cf0b318037702a6cdd81dee41224f734684c2c122cd6359cb1ee63"],
  [3, "e1be4d7a8ab5560aa4199eea339849ba8e293d55ca0a81006726d184519e647f"],
  [4, "f30f5ab28fe047904037f77b6da4fea1e27241c5d132638d8bedce9d40494f32"],
  [5, "b40b44dfd97e7a84a996a91af8b85188c66c126940ba7aad2e7ae6b385402aa2"],
  [6, "06c4e8ffb6872fad96f9aaca5eee1553eb62aed0ad7198cef42e87f6a616c844"],
  [7, "3f8770f387faad08faa9d8414e9f449ac68e6ff0417f673f602a646a891419fe"],
  [8, "2351207d04fc16ade43ccab08600939c7c1fa70a5c0aaca76063d04c3228eaeb"],
  [63, "e9bc37a594daad83be9470df7f7b3798297c3d834ce80ba85d6e207627b7db7b"],
  [64, "4eed7141ea4a5cd4b788606bd23f46e212af9cacebacdc7d1f4c6dc7f2511b98"],
  [65, "de1e5fa0be70df6d2be8fffd0e99ceaa8eb6e8c93a63f2d8d1c30ecb6b263dee"],
  [127, "d81293fda863f008c09e92fc382a81f5a0b4a1251cba1634016a0f86a6bd640d"],
  [128, "f17e570564b26578c33bb7f44643f539624b05df1a76c81f30acd548c44b45ef"],
  [129, "683aaae9f3c5ba37eaaf072aed0f9e30bac0865137bae68b1fde4ca2aebdcb12"],
  [1023, "10108970eeda3eb932baac1428c7a2163b0e924c9a9e25b35bba72b28f70bd11"],
  [1024, "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7"],
  [1025, "d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444"],
  [2048, "e776b6028c7cd22a4d0ba182a8bf62205d2ef576467e838ed6f2529b85fba24a"],
  [2049, "5f4d72f40d7a5f82b15ca2b2e44b1de3c2ef86c426c95c1af0b6879522563030"],
  [3072, "b98cb0ff3623be03326b373de6b9095218513e64f1ee2edd2525c7ad1e5cffd2"],
  [3073, "7124b49501012f81cc7f11ca069ec9226cecb8a2c850cfe644e327d22d3e1cd3"],
  [4096, "015094013f57a5277b59d8475c0501042c0b642e531b0a1c8f58d2163229e969"],
  [4097, "9b4052b38f1c5fc8b1f9ff7ac7b27cd242487b3d890d15c96a1c25b8aa0fb995"],
  [5120, "9cadc15fed8b5d854562b26a9536d9707cadeda9b143978f319ab34230535833"],
  [5121, "628bd2cb2004694adaab7bbd778a25df25c47b9d4155a55f8fbd79f2fe154cff"],
  [6144, "3e2e5b74e048f3add6d21faab3f83aa44d3b2278afb83b80b3c35164ebeca205"],
  [6145, "f1323a8631446cc50536a9f705ee5cb619424d46887f3c376c695b70e0f0507f"],
  [7168, "61da957ec2499a95d6b8023e2b0e604ec7f6b50e80a9678b89d2628e99ada77a"],
  [7169, "a003fc7a51754a9b3c7fae0367ab3d782dccf28855a03d435f8cfe74605e7817"],
  [8192, "aae792484c8efe4f19e2ca7d371d8c467ffb10748d8a5a1ae579948f718a2a63"],
  [8193, "bab6c09cb8ce8cf459261398d2e7aef35700bf488116ceb94a36d0f5f1b7bc3b"],
  [16384, "f875d6646de28985646f34ee13be9a576fd515f76b5b0a26bb324735041ddde4"],
  [31744, "62b6960e1a44bcc1eb1a611a8d6235b6b4b78f32e7abc4fb4c6cdcce94895c47"],
  [102400, "bc3e3d41a1146b069abffad3c0d44860cf664390afce4d9661f7902e7943e085"],
  [1048577, "2f053cd7472cf0cd2f9adaf45c1180255b91b9a865404a63671a0ee5f792ed33"],
  [67108864, "6837ea41ffe5fe2612df38ae49ca6e52341714f1a117d98ae400e4ac7885701d"],
];

describe("blake3()", () => {
  test.each(BLAKE3_VECTORS)("gives the official digest of %d bytes", (length, digest) => {
    expect(toHex(kernels.blake3(pattern(length)))).toBe(digest);
  });

  const hasB3sum = spawnSync("b3sum", ["--version"]).status === 0;
  test.skipIf(!hasB3sum)("agrees with b3sum on random lengths", () => {
    const random = randomOf(SEED);
    for (let round = 0; round < 40; round++) {
      const data = randomBytes(random, random() % 20_000);
      const b3sum = spawnSync("b3sum", ["--no-names"], { input: data });
      expect(toHex(kernels.blake3(data))).toBe(b3sum.stdout.toString().trim());
    }
  });

  test("reads a view at an odd offset, not its whole buffer", () => {
    const whole = pattern(5000);
    const copy = whole.slice(77, 4999);
    expect(kernels.blake3(whole.subarray(77, 4999))).toEqual(kernels.blake3(copy));
  });
});

/** FIPS 180-4 examples of NIST, and CAVP's SHA256ShortMsg and SHA256LongMsg by their lengths. */
const SHA256_VECTORS: readonly (readonly [input: Uint8Array, digest: string])[] = [
  [text(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"],
  [text("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"],
  [
    text("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
    "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
  ],
  [
    text(
      "abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu",
    ),
    "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1",
  ],
  [new Uint8Array(1_000_000).fill(0x61), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"],
  [Uint8Array.of(0xd3), "28969cdfa74a12c82f3bad960b0b000aca2ac329deea5c2328ebc6f2ba9802c1"],
  [Uint8Array.of(0x11, 0xaf), "5ca7133fa735326081558ac312c620eeca9970d1e70a4b95533d956f072d1f98"],
];

describe("sha256()", () => {
  test.each(SHA256_VECTORS.map(([input, digest]) => [input.length, digest, input] as const))(
    "gives NIST's digest of %d bytes",
    (_, digest, input) => {
      expect(toHex(kernels.sha256(input))).toBe(digest);
    },
  );

  test("agrees with node:crypto on every length to 300 and on some above", () => {
    const random = randomOf(SEED);
    const lengths = [...Array(300).keys(), 4095, 4096, 65_537, 1_048_577];
    for (const length of lengths) {
      const data = randomBytes(random, length);
      expect(toHex(kernels.sha256(data))).toBe(createHash("sha256").update(data).digest("hex"));
    }
  });
});

describe("sha256Stream()", () => {
  test("gives the one-shot digest however the input is split", () => {
    const random = randomOf(SEED);
    for (let round = 0; round < 200; round++) {
      const data = randomBytes(random, random() % 1000);
      const stream = kernels.sha256Stream();
      for (let at = 0; at < data.length; ) {
        const end = at + (random() % 150);
        stream.update(data.subarray(at, end));
        at = end;
      }
      expect(toHex(stream.digest())).toBe(createHash("sha256").update(data).digest("hex"));
    }
  });

  test("peek() digests what was given so far and the stream goes on", () => {
    for (const length of [0, 1, 55, 56, 63, 64, 65, 1000]) {
      const data = pattern(length);
      using stream = kernels.sha256Stream();
      stream.update(data);
      const once = createHash("sha256").update(data).digest("hex");
      expect(toHex(stream.peek())).toBe(once);
      expect(toHex(stream.peek())).toBe(once);
      stream.update(data);
      expect(toHex(stream.digest())).toBe(createHash("sha256").update(data).update(data).digest("hex"));
    }
  });

  test("keeps 16 open streams apart and refuses a 17th with EBUSY until one ends", () => {
    const streams = Array.from({ length: 16 }, () => kernels.sha256Stream());
    for (let part = 0; part < 50; part++) streams.forEach((stream, i) => void stream.update(pattern(part + i)));
    expect(codeOf(() => kernels.sha256Stream())).toBe("EBUSY");
    streams.forEach((stream, i) => {
      const hash = createHash("sha256");
      for (let part = 0; part < 50; part++) hash.update(pattern(part + i));
      expect(toHex(stream.digest())).toBe(hash.digest("hex"));
    });
    kernels.sha256Stream()[Symbol.dispose]();
  });

  test("disposing gives the handle back, also after digest()", () => {
    for (let i = 0; i < 40; i++) {
      using stream = kernels.sha256Stream();
      stream.update(pattern(i));
      if (i % 2 === 0) stream.digest();
    }
    expect(codeOf(() => kernels.sha256Stream()[Symbol.dispose]())).toBe("no error");
  });

  test("a stream that has ended and is collected does not end the next one of its handle", async () => {
    const open = Array.from({ length: 16 }, () => kernels.sha256Stream());
    while (open.length > 0) open.pop()?.digest();
    const next = Array.from({ length: 16 }, () => kernels.sha256Stream());
    for (let round = 0; round < 5; round++) {
      Bun.gc(true);
      await Bun.sleep(2);
    }
    for (const stream of next) stream.update(text("abc"));
    for (const stream of next) expect(toHex(stream.digest())).toBe(SHA256_VECTORS[1]?.[1] as string);
  });

  test("refuses an update and a second digest after the end", () => {
    const stream = kernels.sha256Stream();
    stream.digest();
    expect(codeOf(() => stream.update(pattern(1)))).toBe("EFAULT");
    expect(codeOf(() => stream.digest())).toBe("EFAULT");
  });
});

/** RFC 3720 appendix B.4, and the check value of the CRC catalogue. */
const CRC32C_VECTORS: readonly (readonly [name: string, input: Uint8Array, crc: number])[] = [
  ["32 bytes of zeros", new Uint8Array(32), 0x8a9136aa],
  ["32 bytes of ones", new Uint8Array(32).fill(0xff), 0x62a8ab43],
  ["32 incrementing bytes", Uint8Array.from({ length: 32 }, (_, i) => i), 0x46dd794e],
  ["32 decrementing bytes", Uint8Array.from({ length: 32 }, (_, i) => 31 - i), 0x113fdb5c],
  ["the digits 1 to 9", text("123456789"), 0xe3069283],
  ["nothing", text(""), 0],
];

/** One bit at a time, from the definition. */
function crc32cByBits(data: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of data) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  }
  return ~crc >>> 0;
}

describe("crc32c()", () => {
  test.each(CRC32C_VECTORS)("gives the published value of %s", (_, input, crc) => {
    expect(kernels.crc32c(input)).toBe(crc);
  });

  test("agrees with the definition, and a seed continues an earlier result", () => {
    const random = randomOf(SEED);
    for (let length = 0; length < 200; length++) {
      const data = randomBytes(random, length);
      const split = length === 0 ? 0 : random() % length;
      expect(kernels.crc32c(data)).toBe(crc32cByBits(data));
      expect(kernels.crc32c(data.subarray(split), kernels.crc32c(data.subarray(0, split)))).toBe(crc32cByBits(data));
    }
  });
});

describe("xxh64()", () => {
  test("gives the published values", () => {
    expect(kernels.xxh64(text(""))).toBe(0xef46db3751d8e999n);
    expect(kernels.xxh64(text(""), 0x9e3779b1n)).toBe(0xac75fda2929b17efn);
    expect(kernels.xxh64(text("abc"))).toBe(0x44bc2cf5ad770999n);
  });

  test("agrees with the runtime's on every length to 200, with seeds", () => {
    const random = randomOf(SEED);
    for (let length = 0; length < 200; length++) {
      const data = randomBytes(random, length);
      const seed = BigInt(random()) * 0x1_0000_0000n + BigInt(random());
      expect(kernels.xxh64(data, seed)).toBe(Bun.hash.xxHash64(data, seed));
    }
  });
});

describe("digestChunks()", () => {
  test.each<Digester>(["blake3", "sha256"])("digests each chunk of each file by %s, in order", (digester) => {
    const random = randomOf(SEED);
    for (const chunkBytes of [1, 1000, 4096, 65_536]) {
      const extents = [0, 1, chunkBytes, chunkBytes + 1, 0, 3 * chunkBytes - 1, chunkBytes - 1];
      const data = randomBytes(
        random,
        extents.reduce((sum, extent) => sum + extent),
      );
      const wanted: string[] = [];
      let fileAt = 0;
      for (const extent of extents) {
        for (let at = 0; at < extent; at += chunkBytes) {
          wanted.push(toHex(kernels[digester](data.subarray(fileAt + at, fileAt + Math.min(extent, at + chunkBytes)))));
        }
        fileAt += extent;
      }
      const digests = kernels.digestChunks(digester, data, Uint32Array.from(extents), chunkBytes);
      expect(toHex(digests)).toBe(wanted.join(""));
    }
  });

  test("gives nothing for empty files", () => {
    expect(kernels.digestChunks("blake3", new Uint8Array(0), new Uint32Array(3), 4096)).toHaveLength(0);
    expect(kernels.digestChunks("sha256", new Uint8Array(0), new Uint32Array(0), 4096)).toHaveLength(0);
  });

  test("refuses extents that do not sum to the data, and a chunk size of no bytes", () => {
    const data = pattern(100);
    expect(codeOf(() => kernels.digestChunks("blake3", data, Uint32Array.of(99), 10))).toBe("EINVAL");
    expect(codeOf(() => kernels.digestChunks("blake3", data, Uint32Array.of(101), 10))).toBe("EINVAL");
    for (const chunkBytes of [0, -1, 1.5, Number.NaN, 2 ** 32]) {
      expect(codeOf(() => kernels.digestChunks("blake3", data, Uint32Array.of(100), chunkBytes))).toBe("EINVAL");
    }
  });
});

test("a call beyond the core's bound is refused, and the next one works", () => {
  expect(codeOf(() => kernels.blake3(new Uint8Array(CALL_BYTES_MAX + 1)))).toBe("EINVAL");
  expect(toHex(kernels.blake3(pattern(0)))).toBe("af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
});

test("two instances have their own memory and handles", async () => {
  const other = await loadKernels();
  const mine = kernels.sha256Stream();
  const theirs = other.sha256Stream();
  mine.update(text("a"));
  theirs.update(text("abc"));
  mine.update(text("bc"));
  expect(mine.digest()).toEqual(theirs.digest());
});
