import { dirname, join, normalize } from "node:path";
import { Glob } from "bun";

/** The floors of src, lowest first: a file imports from its own floor and those before it. */
export const FLOORS = ["base", "format", "os", "content", "operation", "service", "cli"] as const;

/** Each npm package of the program, and the one file (or the folder, ending in "/") that may import it. */
const PACKAGE_HOMES: Readonly<Record<string, readonly string[]>> = {
  undici: ["src/content/http/connections.ts"],
  fflate: ["src/format/codec/compress.ts"],
  "zstd-wasm": ["src/format/codec/compress.ts"],
  citty: ["src/cli/"],
  "fuse-native": ["src/os/"],
  "@grpc/grpc-js": ["src/os/grpc.ts"],
  protobufjs: ["src/os/grpc.ts"],
  "smol-toml": ["src/operation/host/containerd-config.ts"],
};

/** The floors that do no I/O. */
const PURE_FLOORS: readonly string[] = ["base", "format"];

/** The one file that loads what scripts/build-wasm.ts made. */
const CORE_LOADER = "src/format/codec/kernels.ts";

const IMPORTS = [
  /^\s*(?:import|export)\b[^"'`;]*?\bfrom\s*["'](?<to>[^"']+)["']/gm,
  /^\s*import\s*["'](?<to>[^"']+)["']/gm,
  /\bimport\(\s*(?:["'`](?<to>[^"'`$]+)["'`]\s*[,)])?/g,
  /\brequire\(\s*(?:["'`](?<to>[^"'`$]+)["'`]\s*\))?/g,
];

/** An import of one file, as written; undefined for `import(expression)`. */
interface Import {
  readonly line: number;
  readonly to: string | undefined;
}

function importsOf(source: string): Import[] {
  const code = source.replace(/\/\*[\s\S]*?\*\/|^\s*\/\/.*$/gm, (comment) => comment.replace(/[^\n]/g, " "));
  return IMPORTS.flatMap((pattern) =>
    [...code.matchAll(pattern)].map((match) => ({
      line: code.slice(0, match.index + match[0].search(/\S/)).split("\n").length,
      to: match.groups?.["to"],
    })),
  );
}

function floorOf(path: string): string | undefined {
  return /^src\/([^/]+)\//.exec(path)?.[1];
}

/** Why `from` may not import `to`, or undefined. */
function objection(from: string, to: string | undefined): string | undefined {
  const floor = floorOf(from) ?? "";
  if (to === undefined) return "a computed import cannot be checked";
  if (to.startsWith("node:")) return PURE_FLOORS.includes(floor) ? `floor ${floor} does no I/O` : undefined;
  if (to === "bun" || to.startsWith("bun:")) return floor === "os" ? undefined : "Bun's modules belong to floor os";
  if (to.startsWith(".")) return pathObjection(from, normalize(join(dirname(from), to)));
  const name = to.split("/", to.startsWith("@") ? 2 : 1).join("/");
  const homes = PACKAGE_HOMES[name];
  if (homes === undefined) return `package ${name} has no home in scripts/layers.ts`;
  return homes.some((home) => (home.endsWith("/") ? from.startsWith(home) : from === home))
    ? undefined
    : `package ${name} belongs to ${homes.join(", ")}`;
}

function pathObjection(from: string, target: string): string | undefined {
  if (target.startsWith("dist/core/")) return from === CORE_LOADER ? undefined : `dist/core belongs to ${CORE_LOADER}`;
  const [lower, upper] = [floorOf(target), floorOf(from)].map((floor) => FLOORS.indexOf(floor as "base"));
  if (lower === undefined || lower < 0) return `${target} lies on no floor`;
  return lower > (upper ?? -1) ? `floor ${floorOf(target)} lies above floor ${floorOf(from)}` : undefined;
}

/**
 * The imports that break the order of the floors.
 * @param files path from the project's root to source text
 * @returns one line a violation: who imports what, and why not
 */
export function findViolations(files: ReadonlyMap<string, string>): string[] {
  return [...files].flatMap(([from, source]) => {
    if (!FLOORS.includes(floorOf(from) as "base")) return [`${from}: lies on no floor`];
    return importsOf(source).flatMap(({ line, to }) => {
      const reason = objection(from, to);
      return reason === undefined ? [] : [`${from}:${line} -> ${to ?? "?"}: ${reason}`];
    });
  });
}

/** Violations that {@link findViolations} must find: the file they are planted in, and the line. */
export const PLANTED: readonly (readonly [path: string, line: string])[] = [
  ["src/base/planted.ts", 'import type { Descriptor } from "../format/oci/manifest.ts";'],
  ["src/base/planted.ts", 'export { readFile } from "../operation/image/read-file.ts";'],
  ["src/format/oci/planted.ts", 'import {\n  open,\n} from "node:fs/promises";'],
  ["src/content/store/planted.ts", 'const run = await import("../../operation/image/convert.ts");'],
  ["src/content/store/planted.ts", 'import { request } from "undici/index.js";'],
  ["src/operation/image/planted.ts", 'import "../../cli/main.ts";'],
  ["src/operation/image/planted.ts", 'import { dlopen } from "bun:ffi";'],
  ["src/operation/image/planted.ts", 'import { x } from "left-pad";'],
  ["src/operation/image/planted.ts", "const x = await import(name);"],
  ["src/os/planted.ts", 'const ffi: typeof import("../content/store/store.ts") = x;'],
  ["src/cli/planted.ts", 'import { buildWasm } from "../../scripts/build-wasm.ts";'],
  ["src/lib/planted.ts", ""],
];

/** The planted violations that go unseen: none, or the check is worth nothing. */
export function unseenViolations(): string[] {
  return PLANTED.filter(([path, line]) => findViolations(new Map([[path, line]])).length === 0).map(
    ([path, line]) => `not seen in ${path}: ${line}`,
  );
}

/** Every TypeScript file of src, by its path from `root`. */
export async function readSources(root: string): Promise<Map<string, string>> {
  const files = new Map<string, string>();
  for await (const path of new Glob("src/**/*.ts").scan(root)) {
    files.set(path, await Bun.file(join(root, path)).text());
  }
  return files;
}

if (import.meta.main) {
  const files = await readSources(join(import.meta.dir, ".."));
  const problems = [...unseenViolations(), ...findViolations(files)];
  for (const problem of problems) process.stderr.write(`${problem}\n`);
  if (problems.length > 0) process.exit(1);
  console.log(`${files.size} files keep the order; ${PLANTED.length} planted violations were seen`);
}
