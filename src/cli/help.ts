import type { ArgDef, ArgsDef } from "citty";
import { aliasesOf, GLOBAL_ARGS, isVariadic, nameOfPositional } from "./arguments.ts";
import type { CommandWithUsage } from "./command.ts";
import { COMMAND_GROUPS, type CommandEntry } from "./commands.ts";
import { versionLine } from "./version.ts";

function flagLine([name, def]: readonly [string, ArgDef]): readonly [string, string] {
  const short = aliasesOf(def).find((alias) => alias.length === 1);
  const value = def.type === "boolean" ? "" : ` ${valueName(def)}`;
  const fallback = def.default === undefined ? "" : ` (default ${String(def.default)})`;
  return [`${short === undefined ? "    " : `-${short}, `}--${name}${value}`, `${def.description ?? ""}${fallback}`];
}

function valueName(def: ArgDef): string {
  const options = "options" in def ? def.options : undefined;
  return def.valueHint ?? options?.join("|") ?? "VALUE";
}

function columns(lines: readonly (readonly [string, string])[]): string {
  const width = Math.max(...lines.map(([left]) => left.length));
  return lines.map(([left, right]) => `  ${left.padEnd(width)}  ${right}\n`).join("");
}

function flagSection(title: string, args: ArgsDef): string {
  const flags = Object.entries(args).filter(([, def]) => def.type !== "positional");
  return flags.length === 0 ? "" : `\n${title}:\n${columns(flags.map(flagLine))}`;
}

function positionalWord([name, def]: readonly [string, ArgDef]): string {
  const word = `${nameOfPositional(name)}${isVariadic(def) ? "..." : ""}`;
  return def.required === false ? `[${word}]` : word;
}

/** Help of the whole program, in nerdctl's manner; loads no command. */
export function programHelp(): string {
  const groups = COMMAND_GROUPS.map(
    ([title, commands]) =>
      `${title}:\n${columns(Object.entries(commands).map(([name, entry]: [string, CommandEntry]) => [name, entry.summary]))}\n`,
  );
  return [
    "Convert container images to Nydus (RAFS v6) and mount them lazily\n\n",
    "Usage: nydus [flags] COMMAND [arguments]\n\n",
    ...groups,
    `Flags:\n${columns([...Object.entries(GLOBAL_ARGS).map(flagLine), ["-v, --version", "Show version and commit"]])}\n`,
    "Run 'nydus COMMAND --help' for more about a command.\n",
    `${versionLine()}\n`,
  ].join("");
}

/** Help of one command. @param command its description's first line is that of the list of commands */
export function commandHelp(name: string, command: CommandWithUsage): string {
  const args = (command.args ?? {}) as ArgsDef;
  const { description = "" } = command.meta as { readonly description?: string };
  const positionals = Object.entries(args).filter(([, def]) => def.type === "positional");
  const usage = command.usage ?? [positionals.map(positionalWord).join(" ")];
  const about = positionals.map(([word, def]) => [nameOfPositional(word), def.description ?? ""] as const);
  return [
    `${description}\n\nUsage:\n`,
    ...usage.map((words) => `  nydus ${name} [flags] ${words}`.trimEnd().concat("\n")),
    about.length === 0 ? "" : `\nArguments:\n${columns(about)}`,
    flagSection("Flags", args),
    flagSection("Global flags", GLOBAL_ARGS),
  ].join("");
}
