import { isDeepStrictEqual } from "node:util";
import { parse, TomlError } from "smol-toml";
import { NydusError } from "../../base/errors.ts";
import type { Setting } from "./containerd-settings.ts";
import { type BlockDraft, formatBlock, withoutBlocks } from "./marked-block.ts";
import { readTomlStatements, statementOf, type TomlStatement } from "./toml-statements.ts";

/** A TOML table, as parsed. */
export type TomlTable = { readonly [key: string]: unknown };

type TableSetting = Extract<Setting, { kind: "table" }>;
type ArraySetting = Extract<Setting, { kind: "array" }>;
type Values = TableSetting["values"];

/**
 * Parses a configuration. A byte order mark is passed over.
 * @throws EUCLEAN no TOML, with line and column and without a word of what stands there
 */
export function parseConfig(text: string): TomlTable {
  try {
    return parse(text.replace(/^\ufeff/, ""), { integersAsBigInt: "asNeeded" });
  } catch (error) {
    if (!(error instanceof TomlError)) throw error;
    const [reason = ""] = error.message.replace(/^Invalid TOML document: /, "").split("\n");
    const where = `line ${error.line}, column ${error.column}`;
    throw new NydusError("EUCLEAN", `Cannot read the configuration: ${where}: ${reason}`, {}, { cause: error });
  }
}

/** The version that a configuration says it is of; 1 where it says nothing. @throws EUCLEAN it says no number */
export function configVersionOf(config: TomlTable): number {
  const version = config["version"] ?? 1;
  if (typeof version === "number") return version === 0 ? 1 : version;
  throw new NydusError("EUCLEAN", "Cannot read the configuration: its version is no number");
}

/** The socket that containerd serves, where a configuration names another one than the default. */
export function containerdAddressIn(config: TomlTable | undefined): string | undefined {
  const address = valueAt(config, ["grpc", "address"]);
  return typeof address === "string" && address.startsWith("/") ? address : undefined;
}

/** What `path` names in a configuration; undefined when there is nothing. */
export function valueAt(config: unknown, path: readonly string[]): unknown {
  let value = config;
  for (const key of path) {
    if (!isTable(value) || !Object.hasOwn(value, key)) return undefined;
    value = value[key];
  }
  return value;
}

function isTable(value: unknown): value is TomlTable {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Date);
}

/** What a configuration lacks of a setting, a line each: `proxy_plugins.nydus.address is not "/run/…"`. */
export function missingOf(config: TomlTable, setting: Setting): string[] {
  if (setting.kind === "array") {
    const name = formatPath(setting.path);
    const { platform, snapshotter } = setting.element;
    return hasElement(config, setting) ? [] : [`${name} has no element for ${snapshotter} on ${platform}`];
  }
  return missingKeys(config, setting).map(
    (key) => `${formatPath([...setting.path, key])} is not ${formatValue(setting.values[key])}`,
  );
}

function missingKeys(config: TomlTable, { path, values }: TableSetting): string[] {
  return Object.keys(values).filter((key) => valueAt(config, [...path, key]) !== values[key]);
}

function hasElement(config: TomlTable, { path, element }: ArraySetting): boolean {
  const elements = valueAt(config, path);
  const isIt = (one: unknown): boolean =>
    ["platform", "snapshotter"].every((key) => valueAt(one, [key]) === element[key]);
  return Array.isArray(elements) && elements.some(isIt);
}

/**
 * Adds settings to the text of a configuration and keeps everything else of it: comments, order, line ends. What was
 * added before goes first, so that the same settings give the same text.
 * @returns the new text; the same when nothing is missing
 * @throws EUCLEAN no TOML; EEXIST something else is there, or in a form that lines cannot be added to: with the line
 */
export function addSettings(text: string, settings: readonly Setting[]): string {
  if (settings.every((setting) => missingOf(parseConfig(text), setting).length === 0)) return text;
  let made = removeSettings(text);
  for (const setting of settings)
    made = setting.kind === "table" ? addTable(made, setting) : addElements(made, setting);
  return made;
}

/** Takes out what {@link addSettings} has added. @throws EUCLEAN no TOML; EEXIST it was changed since: with the line */
export function removeSettings(text: string): string {
  parseConfig(text);
  const rest = withoutBlocks(text, readTomlStatements(text));
  parseConfig(rest);
  return rest;
}

function addTable(text: string, setting: TableSetting): string {
  const { path, values, replaces } = setting;
  const config = parseConfig(text);
  const statements = readTomlStatements(text);
  const missing = missingKeys(config, setting);
  const isThere = (key: string): boolean => valueAt(config, [...path, key]) !== undefined;
  const others = missing.filter(isThere);
  const [conflict] = replaces ? [] : others;
  if (conflict !== undefined) {
    const found = formatValue(valueAt(config, [...path, conflict]));
    throw isInTheWay(statements, [...path, conflict], `is ${found}, ${formatValue(values[conflict])} is wanted`);
  }
  let made = text;
  for (const key of others) made = replaceValue(made, [...path, key], values[key]);
  const added = Object.fromEntries(missing.filter((key) => !isThere(key)).map((key) => [key, values[key]]));
  if (Object.keys(added).length > 0) made = addKeys(made, path, added as Values);
  return checked(made, { text, path, wanted: mergeValues(config, path, values) });
}

/** Below the table's header where it has one, else with a header of its own at the end. */
function addKeys(text: string, path: readonly string[], values: Values): string {
  const header = readTomlStatements(text).find(
    (one) => one.kind === "table" && isDeepStrictEqual([...one.path], [...path]),
  );
  const lines = Object.entries(values).map(([key, value]) => `${formatPath([key])} = ${formatValue(value)}`);
  const eol = eolOf(text);
  if (header === undefined) return append(text, { lines: [`[${formatPath(path)}]`, ...indented(lines, "  ")], eol });
  const newline = text.indexOf("\n", header.end);
  const draft = { lines: indented(lines, `${indentOf(text, header)}  `), eol };
  if (newline < 0) return append(text, draft);
  return `${text.slice(0, newline + 1)}${formatBlock(draft)}${eol}${text.slice(newline + 1)}`;
}

function addElements(text: string, setting: ArraySetting): string {
  const { path, element, assumed } = setting;
  const config = parseConfig(text);
  if (hasElement(config, setting)) return text;
  const before = valueAt(config, path);
  const elements = before === undefined ? [assumed, element] : [element];
  const isEmpty = Array.isArray(before) && before.length === 0;
  const base = isEmpty ? replaceLine(text, path, []) : text;
  const lines = elements.flatMap((one) => [
    `[[${formatPath(path)}]]`,
    ...indented(
      Object.entries(one).map(([key, value]) => `${key} = ${formatValue(value)}`),
      "  ",
    ),
  ]);
  const made = append(base, { lines, eol: eolOf(text) });
  const all = [...(Array.isArray(before) ? before : []), ...elements.map(tableOf)];
  return checked(made, { text, path, wanted: withValue(config, path, all) });
}

/** @throws EEXIST the result is not what is wanted: what is there has a form that cannot be added to */
function checked(
  made: string,
  expected: { readonly text: string; readonly path: readonly string[]; readonly wanted: TomlTable },
): string {
  let found: TomlTable | undefined;
  try {
    found = parseConfig(made);
  } catch {
    // said below, with the line that is the cause
  }
  if (found !== undefined && isDeepStrictEqual(found, expected.wanted)) return made;
  const statements = readTomlStatements(expected.text);
  throw isInTheWay(statements, expected.path, "is written in a form that nothing can be added to; use [table] headers");
}

function isInTheWay(statements: readonly TomlStatement[], path: readonly string[], what: string): NydusError {
  const statement = statementOf(statements, path);
  const where = statement === undefined ? "" : `line ${statement.line}: `;
  return new NydusError("EEXIST", `Cannot add to the configuration: ${where}${formatPath(path)} ${what}`);
}

function replaceValue(text: string, path: readonly string[], value: unknown): string {
  const statement = readTomlStatements(text).find(
    (one) => one.kind === "value" && isDeepStrictEqual([...one.path], [...path]),
  );
  if (statement === undefined) return text; // within an inline table: found out by whoever checks
  const { start, valueStart, end } = statement;
  const rest = text.slice(end, lineEnd(text, end));
  const line = `${indentOf(text, statement)}${text.slice(start, valueStart)}${formatValue(value)}${rest}`;
  return replaceLine(text, path, [line]);
}

/** Puts lines in the place of the one that a statement stands on; of more than one, nothing is replaced. */
function replaceLine(text: string, path: readonly string[], lines: readonly string[]): string {
  const statement = readTomlStatements(text).find(
    (one) => one.kind === "value" && isDeepStrictEqual([...one.path], [...path]),
  );
  if (statement === undefined || text.slice(statement.start, statement.end).includes("\n")) return text;
  const from = lineStart(text, statement.start);
  const to = lineEnd(text, statement.end);
  const eol = text.startsWith("\n", to) ? "\n" : text.startsWith("\r\n", to) ? "\r\n" : eolOf(text);
  return text.slice(0, from) + formatBlock({ lines, eol, replaced: text.slice(from, to) }) + text.slice(to);
}

function append(text: string, draft: BlockDraft): string {
  const isJoined = text !== "" && text !== "\ufeff" && !text.endsWith("\n");
  return `${text}${isJoined ? draft.eol : ""}${formatBlock({ ...draft, isJoined })}${draft.eol}`;
}

function lineStart(text: string, at: number): number {
  const start = text.lastIndexOf("\n", at - 1) + 1;
  return start === 0 && text.startsWith("\ufeff") ? 1 : start;
}

/** Before the line's end, whichever it is. */
function lineEnd(text: string, at: number): number {
  const newline = text.indexOf("\n", at);
  if (newline < 0) return text.length;
  return text[newline - 1] === "\r" ? newline - 1 : newline;
}

function indentOf(text: string, { start }: TomlStatement): string {
  return /^[ \t]*/.exec(text.slice(lineStart(text, start), start))?.[0] ?? "";
}

function indented(lines: readonly string[], indent: string): string[] {
  return lines.map((line) => `${indent}${line}`);
}

function eolOf(text: string): string {
  return /\r?\n/.exec(text)?.[0] ?? "\n";
}

function mergeValues(config: TomlTable, path: readonly string[], values: Values): TomlTable {
  return Object.entries(values).reduce((merged, [key, value]) => withValue(merged, [...path, key], value), config);
}

/** A copy of a configuration with a value at a path; tables on the way are made. */
function withValue(config: unknown, [key, ...rest]: readonly string[], value: unknown): TomlTable {
  const table = isTable(config) ? config : {};
  if (key === undefined) return table;
  return tableOf({ ...table, [key]: rest.length === 0 ? value : withValue(table[key], rest, value) });
}

/** Without a prototype, as the parser makes them: `__proto__` is a key like others. */
function tableOf(values: TomlTable): TomlTable {
  return Object.assign(Object.create(null) as TomlTable, values);
}

/** Keys as TOML has them, with quotes where they are needed. */
export function formatPath(path: readonly string[]): string {
  return path.map((key) => (/^[A-Za-z0-9_-]+$/.test(key) ? key : JSON.stringify(key))).join(".");
}

/** A value as TOML has it; of tables and lists only what they are. */
function formatValue(value: unknown): string {
  if (typeof value === "string") return formatString(value);
  if (typeof value === "object" && value !== null) return Array.isArray(value) ? "a list" : "a table";
  return String(value);
}

/** JSON's escapes are TOML's too, but for DEL, which TOML wants escaped. */
function formatString(text: string): string {
  return JSON.stringify(text).replaceAll("\x7f", "\\u007f");
}
