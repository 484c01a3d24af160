import { readdirSync, readFileSync } from "node:fs";
import { basename, dirname, isAbsolute, join, normalize } from "node:path";
import { NydusError } from "../../base/errors.ts";
import { formatPath, parseConfig, type TomlTable, valueAt } from "./containerd-config.ts";
import type { Setting } from "./containerd-settings.ts";

/** More files are not looked into: containerd itself is asked in the end. */
const MAX_FILES = 100;

/** A file that a configuration imports: what it says goes before what the importing file says. */
export interface ImportedConfig {
  readonly path: string;
  readonly config: TomlTable;
}

/**
 * The files that a configuration imports, directly and through others. Those that cannot be read or parsed are left
 * out: containerd will tell.
 * @param path of the configuration, that relative names start from
 */
export function readImports(path: string, config: TomlTable): ImportedConfig[] {
  const found = new Map<string, TomlTable>([[path, config]]);
  const ahead = importPaths(path, config);
  for (let one = ahead.shift(); one !== undefined && found.size <= MAX_FILES; one = ahead.shift()) {
    if (found.has(one)) continue;
    const imported = readConfig(one);
    if (imported === undefined) continue;
    found.set(one, imported);
    ahead.push(...importPaths(one, imported));
  }
  found.delete(path);
  return [...found].map(([from, imported]) => ({ path: from, config: imported }));
}

function readConfig(path: string): TomlTable | undefined {
  try {
    return parseConfig(readFileSync(path, "utf8"));
  } catch {
    return undefined;
  }
}

function importPaths(parent: string, config: TomlTable): string[] {
  const imports = config["imports"];
  if (!Array.isArray(imports)) return [];
  return imports
    .filter((one): one is string => typeof one === "string")
    .map((one) => (isAbsolute(one) ? normalize(one) : join(dirname(parent), one)))
    .flatMap((one) => (/[*?[]/.test(basename(one)) ? matchesOf(one) : [one]));
}

/** Files of one directory by a pattern; patterns of directories are containerd's affair. */
function matchesOf(pattern: string): string[] {
  const expression = basename(pattern)
    .replace(/[.+^${}()|\\]/g, "\\$&")
    .replaceAll("*", "[^/]*")
    .replaceAll("?", "[^/]");
  try {
    const name = new RegExp(`^${expression}$`);
    const names = readdirSync(dirname(pattern)).filter((one) => name.test(one));
    return names.sort().map((one) => join(dirname(pattern), one));
  } catch {
    return [];
  }
}

/**
 * Makes sure that nothing imported takes away what is to be installed.
 * @param isWhole whether an imported file's table of a plugin takes the place of the whole table: before containerd 2
 * @throws EEXIST naming the file
 */
export function checkImports(imports: readonly ImportedConfig[], settings: readonly Setting[], isWhole: boolean): void {
  for (const { path, config } of imports) {
    const inTheWay = settings
      .map((setting) => (isWhole || setting.path[0] === "proxy_plugins" ? setting.path.slice(0, 2) : setting.path))
      .find((one) => valueAt(config, one) !== undefined);
    if (inTheWay === undefined) continue;
    const what = `a file that the configuration imports has ${formatPath(inTheWay)}, and goes before it`;
    throw new NydusError("EEXIST", `Cannot install: ${what}; install into that file: --config ${path}`, { path });
  }
}
