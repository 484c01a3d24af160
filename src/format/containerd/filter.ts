import { NydusError } from "../../base/errors.ts";
import { readFilterTokens, type Token } from "./filter-tokens.ts";

/** The value of a field by its path (`["labels", "a"]`), undefined where there is none. */
export type FieldOf = (path: readonly string[]) => string | undefined;
/** Whether something is to be listed. */
export type Filter = (fieldOf: FieldOf) => boolean;

type Operator = "==" | "!=" | "~=";
const MATCHERS: Readonly<Record<Operator, (wanted: string) => (found: string | undefined) => boolean>> = {
  "==": (wanted) => (found) => found === wanted,
  "!=": (wanted) => (found) => (found ?? "") !== wanted,
  "~=": (wanted) => {
    const pattern = compile(wanted);
    return (found) => pattern?.test(found ?? "") ?? false;
  },
};

/**
 * The filter that several texts make: one of them is to match, none matches everything. A text is selectors, separated
 * by commas, which all are to match: `FIELD`, `FIELD==VALUE`, `FIELD!=VALUE`, `FIELD~=REGEXP`; a field is names joined by
 * dots, a name or value may be a Go string literal, a regular expression one between `/` or `|` too. Regular
 * expressions are JavaScript's, and one that is none matches nothing.
 * @throws EINVAL naming the place
 * @see containerd pkg/filters
 */
export function parseFilters(texts: readonly string[]): Filter {
  const filters = texts.map(parseFilter);
  return filters.length === 0 ? () => true : (fieldOf) => filters.some((filter) => filter(fieldOf));
}

function parseFilter(text: string): Filter {
  if (text === "") return () => true;
  const selectors: Filter[] = [];
  const tokens = new TokenReader(text);
  do selectors.push(parseSelector(tokens));
  while (tokens.takeSeparator(","));
  tokens.requireEnd();
  return (fieldOf) => selectors.every((selector) => selector(fieldOf));
}

function parseSelector(tokens: TokenReader): Filter {
  const path = [tokens.takeName()];
  while (tokens.takeSeparator(".")) path.push(tokens.takeName());
  if (tokens.isAtSelectorEnd) return (fieldOf) => fieldOf(path) !== undefined;
  const operator = tokens.takeOperator();
  const matches = MATCHERS[operator](tokens.takeValue(operator === "~="));
  return (fieldOf) => matches(fieldOf(path));
}

/** Go's way of giving flags to a whole expression. */
const LEADING_FLAGS = /^\(\?([ims]+)\)/;

function compile(pattern: string): RegExp | undefined {
  const [prefix = "", flags = ""] = LEADING_FLAGS.exec(pattern) ?? [];
  try {
    return new RegExp(pattern.slice(prefix.length), flags);
  } catch {
    return undefined;
  }
}

class TokenReader {
  readonly #text: string;
  readonly #tokens: readonly Token[];
  #at = 0;

  constructor(text: string) {
    this.#text = text;
    this.#tokens = readFilterTokens(text);
  }

  get isAtSelectorEnd(): boolean {
    const next = this.#tokens[this.#at];
    return next === undefined || (next.kind === "separator" && next.text === ",");
  }

  takeSeparator(wanted: string): boolean {
    const next = this.#tokens[this.#at];
    if (next?.kind !== "separator" || next.text !== wanted) return false;
    this.#at++;
    return true;
  }

  takeName(): string {
    const { kind, text, quote } = this.#take("a field");
    if (kind === "name" || (kind === "quoted" && quote === '"')) return text;
    throw this.#failure("a field");
  }

  takeOperator(): Operator {
    const { kind, text } = this.#take("an operator");
    if (kind === "operator" && Object.hasOwn(MATCHERS, text)) return text as Operator;
    throw this.#failure("one of ==, != and ~=");
  }

  takeValue(isPattern: boolean): string {
    const { kind, text, quote } = this.#take("a value");
    if (kind === "value" || (kind === "quoted" && (isPattern || quote === '"'))) return text;
    throw this.#failure("a value");
  }

  requireEnd(): void {
    if (this.#at < this.#tokens.length) {
      this.#at++;
      throw this.#failure("a comma");
    }
  }

  #take(wanted: string): Token {
    const token = this.#tokens[this.#at++];
    if (token === undefined) throw this.#failure(wanted);
    return token;
  }

  /** What is wrong with the token that was taken last. */
  #failure(wanted: string): NydusError {
    const token = this.#tokens[this.#at - 1];
    const found = token === undefined ? "its end" : JSON.stringify(token.text);
    return new NydusError(
      "EINVAL",
      `Cannot read filter ${JSON.stringify(this.#text)}: found ${found}, wanted ${wanted}`,
    );
  }
}
