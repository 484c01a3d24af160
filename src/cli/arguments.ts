import type { ArgDef, ArgsDef } from "citty";
import { NydusError } from "../base/errors.ts";

/** Flags that every command takes, before or after its name. */
export const GLOBAL_ARGS = {
  root: { type: "string", valueHint: "DIR", description: "Directory of all state (env NYDUS_ROOT)" },
  json: { type: "boolean", description: "Print results and errors as JSON" },
  quiet: { type: "boolean", alias: "q", description: "Print no progress" },
  debug: { type: "boolean", description: "Print stack traces" },
  help: { type: "boolean", alias: "h", description: "Show this help" },
} as const satisfies ArgsDef;

/** Values of flags by their long names, and the positionals, as written. */
export interface StrictArguments {
  readonly flags: ReadonlyMap<string, string | true>;
  readonly positionals: readonly string[];
}

function usageError(message: string): NydusError {
  return new NydusError("EINVAL", message);
}

/** A flag of `args` by its long name or alias, with its long name. */
function findFlag(args: ArgsDef, name: string): readonly [string, ArgDef] | undefined {
  return Object.entries(args).find(
    ([long, def]) => def.type !== "positional" && (long === name || aliasesOf(def).includes(name)),
  );
}

/** Other names of a flag. */
export function aliasesOf(def: ArgDef): readonly string[] {
  const alias = "alias" in def ? def.alias : undefined;
  return alias === undefined ? [] : typeof alias === "string" ? [alias] : alias;
}

/** Reads flags and positionals one by one; each call of `next` takes as many words as it needs. */
class ArgumentReader {
  readonly flags = new Map<string, string | true>();
  readonly positionals: string[] = [];
  readonly #args: ArgsDef;
  readonly #words: readonly string[];
  #at = 0;

  constructor(args: ArgsDef, words: readonly string[]) {
    this.#args = args;
    this.#words = words;
  }

  /** Takes words up to the end, or up to the first positional. @returns the words not taken */
  read(upToPositional: boolean): readonly string[] {
    while (this.#at < this.#words.length) {
      const word = this.#words[this.#at] as string;
      const positional = word === "-" || !word.startsWith("-");
      if (positional && upToPositional) break;
      this.#at++;
      if (word === "--") {
        this.positionals.push(...this.#words.slice(this.#at));
        this.#at = this.#words.length;
      } else if (positional) this.positionals.push(word);
      else if (word.startsWith("--")) this.#long(word.slice(2));
      else this.#short(word.slice(1));
    }
    return this.#words.slice(this.#at);
  }

  #long(text: string): void {
    const equals = text.indexOf("=");
    const name = equals < 0 ? text : text.slice(0, equals);
    this.#set(`--${name}`, name.length > 1 ? name : "", equals < 0 ? undefined : text.slice(equals + 1));
  }

  #short(letters: string): void {
    for (let i = 0; i < letters.length; i++) {
      const letter = letters[i] as string;
      const [, def] = findFlag(this.#args, letter) ?? [];
      const rest = letters.slice(i + 1);
      if (def !== undefined && def.type !== "boolean" && rest !== "") {
        this.#set(`-${letter}`, letter, rest.replace(/^=/, ""));
        return;
      }
      this.#set(`-${letter}`, letter, undefined);
    }
  }

  #set(shown: string, name: string, attached: string | undefined): void {
    const [long, def] = findFlag(this.#args, name) ?? [];
    if (long === undefined || def === undefined) throw usageError(`Unknown flag ${shown}`);
    if (def.type === "boolean") {
      if (attached !== undefined && attached !== "true" && attached !== "false") {
        throw usageError(`Flag ${shown} takes no value, it was given ${JSON.stringify(attached)}`);
      }
      if (attached === "false") this.flags.delete(long);
      else this.flags.set(long, true);
      return;
    }
    const value = attached ?? this.#words[this.#at++];
    if (value === undefined) throw usageError(`Flag ${shown} needs a value`);
    checkChoice(shown, def, value);
    const before = this.flags.get(long);
    const joins = isRepeatable(def) && typeof before === "string";
    this.flags.set(long, joins ? `${before},${value}` : value);
  }
}

/** Whether a flag given twice makes a list; other flags take the last value. */
function isRepeatable(def: ArgDef): boolean {
  return def.type === "string" && def.valueHint?.endsWith(",...") === true;
}

function checkChoice(shown: string, def: ArgDef, value: string): void {
  const options = "options" in def ? def.options : undefined;
  if (options === undefined || options.includes(value)) return;
  throw usageError(`Flag ${shown} takes one of ${options.join(", ")}, it was given ${JSON.stringify(value)}`);
}

function checkPositionals(args: ArgsDef, positionals: readonly string[]): void {
  const defs = Object.entries(args).filter(([, def]) => def.type === "positional");
  const missing = defs.slice(positionals.length).find(([, def]) => def.required !== false);
  if (missing !== undefined) throw usageError(`Missing argument ${nameOfPositional(missing[0])}`);
  const takesMore = defs.some(([, def]) => isVariadic(def));
  const extra = takesMore ? undefined : positionals[defs.length];
  if (extra !== undefined) throw usageError(`Unexpected argument ${JSON.stringify(extra)}`);
}

/** Whether a positional, the last one, stands for any number of words. */
export function isVariadic(def: ArgDef): boolean {
  return def.type === "positional" && def.valueHint?.endsWith("...") === true;
}

/** How help and messages write a positional: `SOURCE`. */
export function nameOfPositional(name: string): string {
  return name.toUpperCase();
}

/**
 * Reads the global flags before a command's name.
 * @returns their values, and the words from the name on
 * @throws EINVAL on an unknown flag or a missing value
 */
export function readGlobalFlags(words: readonly string[], args: ArgsDef): [StrictArguments, readonly string[]] {
  const reader = new ArgumentReader(args, words);
  const rest = reader.read(true);
  return [reader, rest];
}

/**
 * Reads all words of a command: unknown flags, missing values, missing and superfluous positionals are errors,
 * which citty lets pass. `--help` excuses missing positionals.
 * @throws EINVAL
 */
export function readCommandArguments(words: readonly string[], args: ArgsDef): StrictArguments {
  const reader = new ArgumentReader({ ...GLOBAL_ARGS, ...args }, words);
  reader.read(false);
  if (!reader.flags.has("help")) checkPositionals(args, reader.positionals);
  return reader;
}

/** The same arguments in the one spelling that citty reads right: `--name=value … -- positionals`. */
export function toCittyArguments({ flags, positionals }: StrictArguments): string[] {
  const words = [...flags].map(([name, value]) => (value === true ? `--${cittyName(name)}` : `--${name}=${value}`));
  return [...words, "--", ...positionals];
}

/** citty takes `--no-unpack` for "not unpack", whatever flags there are; `--noUnpack` it knows for the flag. */
function cittyName(name: string): string {
  if (!name.startsWith("no-")) return name;
  return name.replace(/-([a-z])/g, (_, letter: string) => letter.toUpperCase());
}
