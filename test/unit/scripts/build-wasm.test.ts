import { afterAll, describe, expect, test } from "bun:test";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { instantiate, type Root } from "../../../dist/core/core.js";
import { CORE_WASM_BASE64 } from "../../../dist/core/core-wasm.js";
import { buildWasm, exportName } from "../../../scripts/build-wasm.ts";
import type { loadKernels } from "../../../src/format/codec/kernels.ts";

const ROOT = join(import.meta.dir, "..", "..", "..");
const scratch = mkdtempSync(join(tmpdir(), "build-wasm-test-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

/** Every file below a directory: path to bytes in hex. */
function filesOf(dir: string): Record<string, string> {
  const names = readdirSync(dir, { recursive: true }) as string[];
  const files = names.filter((name) => statSync(join(dir, name)).isFile()).sort();
  return Object.fromEntries(files.map((name) => [name, readFileSync(join(dir, name)).toString("hex")]));
}

/** A checkout of what loads the core, with its own dist/core; `damage` changes that before it is loaded. */
async function loadFromCopy(name: string, damage: (core: string) => void): ReturnType<typeof loadKernels> {
  const copy = join(scratch, name);
  for (const path of ["src/base", "src/format/codec", "dist/core"]) {
    mkdirSync(join(copy, path), { recursive: true });
    cpSync(join(ROOT, path), join(copy, path), { recursive: true });
  }
  damage(join(copy, "dist", "core"));
  const module = await import(pathToFileURL(join(copy, "src", "format", "codec", "kernels.ts")).href);
  return module.loadKernels();
}

async function rejection(promise: Promise<unknown>): Promise<{ code?: unknown; message: string; cause?: unknown }> {
  try {
    await promise;
  } catch (error) {
    return error as Error & { code?: unknown };
  }
  throw new Error("nothing was thrown");
}

function instantiateRaw(): { root: Root; memory: WebAssembly.Memory } {
  let memory: WebAssembly.Memory | undefined;
  const root = instantiate(
    () => new WebAssembly.Module(Buffer.from(CORE_WASM_BASE64, "base64")),
    {},
    (module, imports) => {
      const instance = new WebAssembly.Instance(module, imports);
      memory = instance.exports["memory"] as WebAssembly.Memory;
      return instance;
    },
  );
  if (memory === undefined) throw new Error("the core exports no memory");
  return { root, memory };
}

describe("buildWasm()", () => {
  test("gives the same bytes from the same sources", async () => {
    await buildWasm(join(scratch, "one"));
    await buildWasm(join(scratch, "two"));
    const files = filesOf(join(scratch, "one"));
    expect(Object.keys(files)).toContain("core.component.wasm");
    expect(files).toEqual(filesOf(join(scratch, "two")));
  }, 60_000);

  test("makes a module without imports whose memory ends at 512 MiB", () => {
    const module = new WebAssembly.Module(Buffer.from(CORE_WASM_BASE64, "base64"));
    expect(WebAssembly.Module.imports(module)).toEqual([]);
    const { memory } = instantiateRaw();
    expect(() => memory.grow(8192)).toThrow();
  });

  test("exports every function of core.wit and nothing more", () => {
    const wit = readFileSync(join(ROOT, "wasm", "core.wit"), "utf8");
    const wanted: string[] = [];
    for (const part of wit.split("interface ").slice(1)) {
      const name = part.split(" ")[0];
      for (const match of part.matchAll(/^ {2}([a-z0-9-]+): func/gm))
        wanted.push(`nydus:core/${name}@1.0.0#${match[1]}`);
    }
    const module = new WebAssembly.Module(Buffer.from(CORE_WASM_BASE64, "base64"));
    const found = WebAssembly.Module.exports(module).map((entry) => entry.name);
    expect(found.sort()).toEqual([...wanted, "cabi_realloc", "memory"].sort());
  });
});

test("exportName() gives the name of the canonical ABI, and none for what is not in core.wit's form", () => {
  expect(exportName("hash_digestChunks")).toBe("nydus:core/hash@1.0.0#digest-chunks");
  expect(exportName("codec_lz4Compress")).toBe("nydus:core/codec@1.0.0#lz4-compress");
  expect(exportName("cabi_realloc")).toBeUndefined();
  expect(exportName("memory")).toBeUndefined();
});

describe("the core's memory", () => {
  const data = new Uint8Array(4 << 20);
  const quietly = (fn: () => unknown): unknown => {
    try {
      return fn();
    } catch {
      return undefined; // a fault; what it leaves behind is what the test looks at
    }
  };
  const CALLS: Readonly<Record<string, (root: Root) => unknown>> = {
    blake3: ({ hash }) => hash.blake3(data),
    sha256: ({ hash }) => hash.sha256(data),
    crc32c: ({ hash }) => hash.crc32c(data, 0),
    xxh64: ({ hash }) => hash.xxh64(data, 0n),
    "digest-chunks": ({ hash }) => hash.digestChunks("blake3", data, Uint32Array.of(data.length), 4096),
    "sha256-update": ({ hash }) => hash.sha256Update(0, data),
    "lz4-compress": ({ codec }) => codec.lz4Compress(data),
    "lz4-decompress": ({ codec }) => codec.lz4Decompress(data, data.length),
    "zstd-decompress": ({ codec }) => codec.zstdDecompress(data, data.length),
    inflate: ({ codec }) => codec.inflate("gzip", data, data.length),
    "stream-push": ({ codec }) => codec.streamPush(0, data, data.length),
  };

  test.each(Object.entries(CALLS))("stays at the high-water mark of one call of %s", (_, call) => {
    const { root, memory } = instantiateRaw();
    quietly(() => call(root));
    const mark = memory.buffer.byteLength;
    expect(mark).toBeLessThan(16 << 20);
    for (let round = 0; round < 5; round++) quietly(() => call(root));
    expect(memory.buffer.byteLength).toBe(mark);
  });
});

describe("loadKernels()", () => {
  test("runs the module in dist/core: without it there is a clear error", async () => {
    const error = await rejection(loadFromCopy("missing", (core) => rmSync(core, { recursive: true })));
    expect(error.code).toBe("EFAULT");
    expect(error.message).toBe(
      "Cannot load the WASM core: dist/core is missing or damaged; bun run build:wasm makes it",
    );
  });

  test("runs the module in dist/core: with bytes that are no module there is the same error", async () => {
    const damage = (core: string): void =>
      writeFileSync(join(core, "core-wasm.js"), 'export const CORE_WASM_BASE64 = "AGFzbQ==";\n');
    expect((await rejection(loadFromCopy("damaged", damage))).code).toBe("EFAULT");
  });

  test("runs the module in dist/core: a constant changed in it changes the digests", async () => {
    const kernels = await loadFromCopy("altered", (core) => {
      const wasm = Buffer.from(CORE_WASM_BASE64, "base64");
      const k0 = Buffer.from([0x98, 0x2f, 0x8a, 0x42]); // the first constant of SHA-256
      expect(wasm.indexOf(k0)).toBeGreaterThan(0);
      wasm[wasm.indexOf(k0)] = 0x99;
      writeFileSync(join(core, "core-wasm.js"), `export const CORE_WASM_BASE64 = "${wasm.toString("base64")}";\n`);
    });
    const digest = Buffer.from(kernels.sha256(new Uint8Array(0))).toString("hex");
    expect(digest).not.toStartWith("e3b0c442");
    expect(Buffer.from(kernels.blake3(new Uint8Array(0))).toString("hex")).toStartWith("af1349b9");
  });

  test("a trap in the core is EFAULT, not a WebAssembly error", async () => {
    const kernels = await loadFromCopy("trapping", (core) => {
      const glue = readFileSync(join(core, "core.js"), "utf8");
      const trapping = glue.replace("hash100Blake3(ptr0, len0)", "hash100Blake3(0xfff00000, len0)");
      expect(trapping).not.toBe(glue);
      writeFileSync(join(core, "core.js"), trapping);
    });
    const error = await rejection((async () => kernels.blake3(new Uint8Array(10)))());
    expect([error.code, error.message]).toEqual(["EFAULT", "Cannot compute a BLAKE3: the WASM core failed"]);
    expect(error.cause).toBeInstanceOf(WebAssembly.RuntimeError);
  });
});
