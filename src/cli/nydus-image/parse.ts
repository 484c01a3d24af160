import {
  type CommandShape,
  type OptionRow,
  type Parsed,
  type PositionalRow,
  shownOption,
  shownPositional,
  usageOf,
} from "./option.ts";

/** A command line that cannot be read: the program says why on stderr and ends with status 2. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

/** Reads words one by one into values and positionals. */
class WordReader {
  readonly values = new Map<string, string | true>();
  readonly positionals: string[] = [];
  readonly #shape: CommandShape;
  readonly #words: readonly string[];
  #at = 0;

  constructor(shape: CommandShape, words: readonly string[]) {
    this.#shape = shape;
    this.#words = words;
  }

  /** Takes words up to the end, or up to the first positional. @returns the words not taken */
  read(upToPositional: boolean): readonly string[] {
    while (this.#at < this.#words.length) {
      const word = this.#words[this.#at] as string;
      const isPositional = word === "-" || !word.startsWith("-");
      if (isPositional && upToPositional) break;
      this.#at++;
      if (word === "--") {
        this.positionals.push(...this.#words.slice(this.#at));
        this.#at = this.#words.length;
      } else if (isPositional) this.positionals.push(word);
      else if (word.startsWith("--")) this.#long(word);
      else this.#short(word.slice(1));
    }
    return this.#words.slice(this.#at);
  }

  #long(word: string): void {
    const equals = word.indexOf("=");
    const name = equals < 0 ? word : word.slice(0, equals);
    const option = this.#shape.options.find(
      ({ long, aliases = [] }) => `--${long}` === name || aliases.includes(name.slice(2)),
    );
    if (option === undefined) throw this.#unexpected(name);
    this.#set(option, equals < 0 ? undefined : word.slice(equals + 1));
  }

  #short(letters: string): void {
    for (let i = 0; i < letters.length; i++) {
      const letter = letters[i] as string;
      const option = this.#shape.options.find(({ short }) => short === letter);
      if (option === undefined) throw this.#unexpected(`-${letter}`);
      const rest = letters.slice(i + 1);
      if (option.isFlag !== true && rest !== "") {
        this.#set(option, rest.replace(/^=/, ""));
        return;
      }
      this.#set(option, undefined);
    }
  }

  #set(option: OptionRow, attached: string | undefined): void {
    const shown = shownOption(option);
    if (this.values.has(option.long)) {
      throw this.#error(`the argument '${shown}' cannot be used multiple times`);
    }
    if (option.isFlag === true) {
      if (attached !== undefined) {
        throw this.#error(`unexpected value '${attached}' for '${shown}' found; no more were expected`);
      }
      this.values.set(option.long, true);
      return;
    }
    this.values.set(option.long, this.#checked(option, attached ?? this.#nextValue(option)));
  }

  #nextValue(option: OptionRow): string {
    const value = this.#words[this.#at];
    if (value === undefined || (value.startsWith("-") && value !== "-")) {
      throw new UsageError(
        `a value is required for '${shownOption(option)}' but none was supplied${choicesOf(option)}`,
      );
    }
    this.#at++;
    return value;
  }

  #checked(option: OptionRow, value: string): string {
    if (option.choices === undefined || option.choices.includes(value)) return value;
    throw new UsageError(`invalid value '${value}' for '${shownOption(option)}'${choicesOf(option)}`);
  }

  #unexpected(word: string): UsageError {
    return this.#error(`unexpected argument '${word}' found`);
  }

  #error(message: string): UsageError {
    return usageError(this.#shape, message);
  }
}

function choicesOf({ choices }: OptionRow): string {
  return choices === undefined ? "" : `\n  [possible values: ${choices.join(", ")}]`;
}

function usageError(shape: CommandShape, message: string): UsageError {
  return new UsageError(`${message}\n\nUsage: ${usageOf(shape)}`);
}

/**
 * Reads the options before a command's name.
 * @returns their values, and the words from the name on
 * @throws UsageError
 */
export function parseHead(shape: CommandShape, words: readonly string[]): [Parsed["values"], readonly string[]] {
  const reader = new WordReader(shape, words);
  const rest = reader.read(true);
  return [reader.values, rest];
}

/**
 * Reads the words after a command's name; options may stand behind positionals. `--help` excuses what is missing.
 * @throws UsageError unknown, repeated, conflicting or missing arguments, and values that are not among the choices
 */
export function parseWords(shape: CommandShape, words: readonly string[]): Parsed {
  const reader = new WordReader(shape, words);
  reader.read(false);
  const { values, positionals } = reader;
  if (!values.has("help")) {
    checkPositionals(shape, positionals);
    checkConflicts(shape, values);
    checkRequired(shape, { values, positionals });
  }
  for (const option of shape.options) {
    if (option.default !== undefined && !values.has(option.long)) values.set(option.long, option.default);
  }
  return { values, positionals };
}

function checkPositionals(shape: CommandShape, positionals: readonly string[]): void {
  const { positional } = shape;
  const taken = positional === undefined ? 0 : positional.isMany === true ? Number.POSITIVE_INFINITY : 1;
  const extra = positionals.length > taken ? positionals[taken] : undefined;
  if (extra !== undefined) throw usageError(shape, `unexpected argument '${extra}' found`);
}

function checkConflicts(shape: CommandShape, given: Parsed["values"]): void {
  for (const option of shape.options) {
    if (!given.has(option.long)) continue;
    const other = shape.options.find(({ long }) => option.conflicts?.includes(long) === true && given.has(long));
    if (other === undefined) continue;
    throw usageError(shape, `the argument '${shownOption(option)}' cannot be used with '${shownOption(other)}'`);
  }
}

function checkRequired(shape: CommandShape, given: Parsed): void {
  const missing = shape.options.filter((option) => isMissing(option, given)).map(shownOption);
  const { positional } = shape;
  const lacks = (row: PositionalRow): boolean => row.isRequired === true && given.positionals.length === 0;
  if (positional !== undefined && lacks(positional)) missing.push(shownPositional(positional));
  if (missing.length === 0) return;
  const list = missing.map((one) => `  ${one}`).join("\n");
  throw usageError(shape, `the following required arguments were not provided:\n${list}`);
}

function isMissing({ long, isRequired, requiredUnless }: OptionRow, { values }: Parsed): boolean {
  if (values.has(long)) return false;
  if (requiredUnless !== undefined) return !requiredUnless.some((other) => values.has(other));
  return isRequired === true;
}
