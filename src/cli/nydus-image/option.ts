/** A flag or option of a command, as its help and its parser have it. */
export interface OptionRow {
  /** Without the two dashes. */
  readonly long: string;
  readonly short?: string;
  readonly aliases?: readonly string[];
  readonly help: string;
  /** Whether it stands alone: other options take a value. */
  readonly isFlag?: boolean;
  readonly default?: string;
  readonly choices?: readonly string[];
  /** Taken, but not shown in the help: callers look for features there. */
  readonly isHidden?: boolean;
  /** Long names that it cannot be used with. */
  readonly conflicts?: readonly string[];
  readonly isRequired?: boolean;
  /** One of these makes it dispensable. */
  readonly requiredUnless?: readonly string[];
}

/** What stands on a command line without dashes. */
export interface PositionalRow {
  readonly name: string;
  readonly help: string;
  readonly isMany?: boolean;
  readonly isRequired?: boolean;
}

/** A command line. */
export interface CommandShape {
  /** As in usage lines: `nydus-image create`. */
  readonly name: string;
  readonly about: string;
  readonly options: readonly OptionRow[];
  readonly positional?: PositionalRow;
}

/** What a command line says. */
export interface Parsed {
  /** By long names; of a flag true. Defaults are in it. */
  readonly values: ReadonlyMap<string, string | true>;
  readonly positionals: readonly string[];
}

/** Options that stand before or after the name of every command. */
export const COMMON_OPTIONS: readonly OptionRow[] = [
  { long: "log-file", short: "L", help: "File that gets the errors too" },
  {
    long: "log-level",
    short: "l",
    help: "Log level",
    default: "info",
    choices: ["trace", "debug", "info", "warn", "error"],
  },
  { long: "help", short: "h", isFlag: true, help: "Print help information" },
];

/** The value of an option that takes one. */
export function textOf({ values }: Pick<Parsed, "values">, long: string): string | undefined {
  const value = values.get(long);
  return typeof value === "string" ? value : undefined;
}

/** The members of a comma-separated list. */
export function listOf(parsed: Pick<Parsed, "values">, long: string): readonly string[] | undefined {
  return textOf(parsed, long)
    ?.split(",")
    .map((member) => member.trim());
}

/** An option with its value's name: `--blob <blob>`. */
export function shownOption({ long, isFlag }: OptionRow): string {
  return isFlag === true ? `--${long}` : `--${long} <${long}>`;
}

/** A positional as usage lines have it: `<SOURCE>...`. */
export function shownPositional({ name, isMany, isRequired }: PositionalRow): string {
  return isRequired === true ? `<${name}>${isMany === true ? "..." : ""}` : `[${name}]`;
}

/** The usage line of a command, without its head. */
export function usageOf({ name, options, positional }: CommandShape): string {
  const required = options.filter((option) => option.isRequired === true).map(shownOption);
  return [name, "[OPTIONS]", ...required, ...(positional === undefined ? [] : [shownPositional(positional)])].join(" ");
}

/** What `--help` prints. */
export function helpOf(shape: CommandShape): string {
  const { about, options, positional } = shape;
  const shown = options.filter(({ isHidden }) => isHidden !== true);
  const rows = shown.map((option) => {
    const short = option.short === undefined ? "    " : `-${option.short}, `;
    return `  ${short}${shownOption(option)}\n          ${option.help}${remarksOf(option)}\n`;
  });
  const argument =
    positional === undefined ? "" : `Arguments:\n  ${shownPositional(positional)}  ${positional.help}\n\n`;
  return `${about}\n\nUsage: ${usageOf(shape)}\n\n${argument}Options:\n${rows.join("")}`;
}

function remarksOf(option: OptionRow): string {
  const value = option.default === undefined ? "" : ` [default: ${option.default}]`;
  const choices = option.choices === undefined ? "" : ` [possible values: ${option.choices.join(", ")}]`;
  return value + choices;
}
