import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { componentEmbed, componentNew, transpile } from "@bytecodealliance/jco";
import * as asc from "assemblyscript/asc";

const ROOT = join(dirname(fileURLToPath(import.meta.url)), "..");
const SOURCES = join(ROOT, "wasm");

/** The module's maximum, in pages of 64 KiB: MEMORY_LIMIT of wasm/memory.ts. */
const MEMORY_PAGES = 8192;

/** Package and version of core.wit, as the canonical ABI spells them in export names. */
const PACKAGE = "nydus:core";
const VERSION = "1.0.0";

interface ExportingModule {
  getNumExports(): number;
  getExportByIndex(index: number): number;
  addFunctionExport(internalName: string, externalName: string): unknown;
  removeExport(externalName: string): void;
}

interface Binaryen {
  getExportInfo(ref: number): { readonly name: string; readonly value: string };
}

/** `hash_digestChunks` of wasm/index.ts as the canonical ABI wants it; undefined for names that stay. */
export function exportName(name: string): string | undefined {
  const parts = /^(hash|codec)_([a-z0-9]+(?:[A-Z][a-z0-9]*)*)$/.exec(name);
  if (parts === null) return undefined;
  const kebab = (parts[2] as string).replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
  return `${PACKAGE}/${parts[1]}@${VERSION}#${kebab}`;
}

/** AssemblyScript cannot spell the ABI's export names, so they are given after compiling. */
class RenameExports {
  declare readonly binaryen: Binaryen;

  afterCompile(module: ExportingModule): void {
    const exports = Array.from({ length: module.getNumExports() }, (_, i) =>
      this.binaryen.getExportInfo(module.getExportByIndex(i)),
    );
    for (const { name, value } of exports) {
      const renamed = exportName(name);
      if (renamed === undefined) continue;
      module.removeExport(name);
      module.addFunctionExport(value, renamed);
    }
  }
}

/** Compiles wasm/index.ts to a core module. @throws with the compiler's diagnostics */
async function compileCore(): Promise<Uint8Array> {
  let binary: Uint8Array | undefined;
  const stderr = asc.createMemoryStream();
  const { error } = await asc.main(
    [
      ...["index.ts", "--baseDir", SOURCES, "--outFile", "core.wasm"],
      ...["-O3", "--runtime", "stub", "--enable", "simd", "--use", "abort=", "--noAssert"],
      ...["--maximumMemory", String(MEMORY_PAGES)],
    ],
    {
      stderr,
      writeFile: (name, contents) => {
        if (name === "core.wasm") binary = contents as Uint8Array;
      },
      transforms: [RenameExports as unknown as asc.Transform],
    },
  );
  if (error !== null || binary === undefined) throw new Error(`asc cannot compile wasm/index.ts\n${stderr.toString()}`);
  return binary;
}

/** The component of a core module and core.wit. */
async function makeComponent(core: Uint8Array): Promise<Uint8Array> {
  const witSource = await readFile(join(SOURCES, "core.wit"), "utf8");
  return componentNew(await componentEmbed({ binary: core, witSource, world: "core" }), []);
}

/** The typed ES module of a component: file name to bytes. */
async function makeModule(component: Uint8Array): Promise<Record<string, Uint8Array>> {
  const { files } = await transpile(component, {
    name: "core",
    instantiation: "sync",
    nodejsCompat: false,
    wasiShim: false,
    quiet: true,
  });
  return files;
}

async function writeWhole(path: string, bytes: Uint8Array | string): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  const staging = `${path}.${process.pid}`;
  await writeFile(staging, bytes);
  await rename(staging, path);
}

/** Writes a source module that carries wasm bytes, for bundles and executables that have no files beside them. */
async function writeInlined(dir: string, wasm: Uint8Array): Promise<void> {
  const note = "/** The core module of core.component.wasm, base64. */";
  const base64 = Buffer.from(wasm).toString("base64");
  await writeWhole(join(dir, "core-wasm.js"), `${note}\nexport const CORE_WASM_BASE64 = "${base64}";\n`);
  await writeWhole(join(dir, "core-wasm.d.ts"), `${note}\nexport const CORE_WASM_BASE64: string;\n`);
}

/**
 * Builds the WASM core: core.component.wasm and the module core/ that src/format/codec/kernels.ts loads.
 * The same sources and tools give the same bytes.
 * @param outDir made if missing
 */
export async function buildWasm(outDir: string): Promise<void> {
  const component = await makeComponent(await compileCore());
  await writeWhole(join(outDir, "core.component.wasm"), component);
  for (const [name, bytes] of Object.entries(await makeModule(component))) {
    await writeWhole(join(outDir, "core", name), bytes);
    if (name.endsWith(".wasm")) await writeInlined(join(outDir, "core"), bytes);
  }
}

if (import.meta.main) await buildWasm(join(ROOT, "dist"));
