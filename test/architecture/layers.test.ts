import { expect, test } from "bun:test";
import { join } from "node:path";
import { findViolations, PLANTED, readSources } from "../../scripts/layers.ts";

const ROOT = join(import.meta.dir, "..", "..");

test("no file of src imports from a floor above its own or a package that has another home", async () => {
  expect(findViolations(await readSources(ROOT))).toEqual([]);
});

test.each(PLANTED)("a violation planted in %s is found: %s", (path, line) => {
  const [found, ...others] = findViolations(new Map([[path, line]]));
  expect(found).toContain(path);
  expect(others).toEqual([]);
});

test("the line of a violation is where the import begins", () => {
  const source = '\n// import from "nowhere"\n\nimport type { A } from "../cli/main.ts";\n';
  expect(findViolations(new Map([["src/os/planted.ts", source]]))).toEqual([
    "src/os/planted.ts:4 -> ../cli/main.ts: floor cli lies above floor os",
  ]);
});

test("imports of lower floors, of the own floor and of packages at home are no violation", () => {
  const files = new Map([
    ["src/os/a.ts", 'import { readFile } from "node:fs/promises";\nimport { dlopen } from "bun:ffi";\n'],
    ["src/content/http/connections.ts", 'import { request } from "undici/index.js";\nexport * from "./other.ts";\n'],
    ["src/cli/main.ts", 'const x = import("../operation/image/convert.ts");\nimport { a } from "citty";\n'],
    ["src/base/a.ts", '/** import { x } from "../cli/x.ts" */\nimport { b } from "./b.ts";\n'],
  ]);
  expect(findViolations(files)).toEqual([]);
});
