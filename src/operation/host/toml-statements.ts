/** A header or an assignment of a TOML text, and where it stands. Offsets are those of JavaScript's string. */
export interface TomlStatement {
  /** `[table]`, `[[array]]` or `key = value`. */
  readonly kind: "table" | "array" | "value";
  /** Keys from the root. */
  readonly path: readonly string[];
  /** Counted from 1. */
  readonly line: number;
  /** Its first character, and the first behind its last; a comment behind it is not part of it. */
  readonly start: number;
  readonly end: number;
  /** Of a value: its first character. */
  readonly valueStart: number;
}

const BLANK = /[ \t]/;
const BARE_KEY = /[^\s.=\]"'#]/;
const ESCAPES: Readonly<Record<string, string>> = {
  ...{ b: "\b", t: "\t", n: "\n", f: "\f", r: "\r", e: "\x1b", '"': '"', "\\": "\\" },
};
/** What brackets outside of strings open and close. */
const DEPTHS: Readonly<Record<string, number>> = { "[": 1, "{": 1, "]": -1, "}": -1 };
/** Digits behind `\x`, `\u` and `\U`. */
const CODE_DIGITS: Readonly<Record<string, number>> = { x: 2, u: 4, U: 8 };

/**
 * The statements of a TOML text in their order. Whoever calls has had the text parsed: what is no TOML gives statements
 * that mean nothing, but no error.
 * @see https://toml.io/en/v1.1.0
 */
export function readTomlStatements(text: string): TomlStatement[] {
  return new StatementReader(text).read();
}

/** The statement that gives `path` its value or form: an assignment of it or above it, else a header of it or around it. */
export function statementOf(statements: readonly TomlStatement[], path: readonly string[]): TomlStatement | undefined {
  const isWithin = (inner: readonly string[], outer: readonly string[]): boolean =>
    outer.every((key, i) => inner[i] === key);
  return (
    statements.find((one) => one.kind === "value" && isWithin(path, one.path)) ??
    statements.find((one) => isWithin(one.path, path)) ??
    statements.find((one) => isWithin(path, one.path))
  );
}

class StatementReader {
  readonly #text: string;
  readonly #statements: TomlStatement[] = [];
  #at = 0;
  #line = 1;
  #table: readonly string[] = [];

  constructor(text: string) {
    this.#text = text;
    if (text.startsWith("\ufeff")) this.#at = 1;
  }

  read(): TomlStatement[] {
    while (this.#at < this.#text.length) {
      this.#skipBlanks();
      const first = this.#text[this.#at];
      if (first === "[") this.#header();
      else if (first !== undefined && first !== "#" && first !== "\n" && first !== "\r") this.#assignment();
      this.#skipLine();
    }
    return this.#statements;
  }

  #header(): void {
    const [start, line] = [this.#at, this.#line];
    const isArray = this.#text.startsWith("[[", start);
    this.#at += isArray ? 2 : 1;
    const path = this.#key();
    this.#at += isArray ? 2 : 1;
    this.#table = path;
    this.#statements.push({ kind: isArray ? "array" : "table", path, line, start, end: this.#at, valueStart: start });
  }

  #assignment(): void {
    const [start, line] = [this.#at, this.#line];
    const key = this.#key();
    this.#at++; // the "="
    this.#skipBlanks();
    const valueStart = this.#at;
    const end = this.#value();
    this.#statements.push({ kind: "value", path: [...this.#table, ...key], line, start, end, valueStart });
  }

  #key(): string[] {
    const parts: string[] = [];
    for (;;) {
      this.#skipBlanks();
      parts.push(this.#keyPart());
      this.#skipBlanks();
      if (this.#text[this.#at] !== ".") return parts;
      this.#at++;
    }
  }

  #keyPart(): string {
    const [start, quote] = [this.#at, this.#text[this.#at]];
    if (quote === '"' || quote === "'") {
      this.#string();
      const body = this.#text.slice(start + 1, this.#at - 1);
      return quote === "'" ? body : unescaped(body);
    }
    while (BARE_KEY.test(this.#text[this.#at] ?? " ")) this.#at++;
    return this.#text.slice(start, this.#at);
  }

  /** Passes over a value. @returns where its last character that is not blank ends */
  #value(): number {
    let [depth, end] = [0, this.#at];
    while (this.#at < this.#text.length) {
      const char = this.#text[this.#at] as string;
      if (depth === 0 && (char === "\n" || char === "#")) return end;
      depth += DEPTHS[char] ?? 0;
      if (char === '"' || char === "'") this.#string();
      else if (char === "#") this.#skipComment();
      else this.#step();
      if (!/\s/.test(char)) end = this.#at;
    }
    return end;
  }

  /** Passes over a string of any of the four kinds. */
  #string(): void {
    const quote = this.#text[this.#at] as string;
    const isLong = this.#text.startsWith(quote.repeat(3), this.#at);
    const mark = isLong ? quote.repeat(3) : quote;
    this.#at += mark.length;
    while (this.#at < this.#text.length && !this.#text.startsWith(mark, this.#at)) {
      if (!isLong && this.#text[this.#at] === "\n") return;
      if (quote === '"' && this.#text[this.#at] === "\\") this.#step();
      this.#step();
    }
    this.#at += mark.length;
    // Up to two quotes may stand before the closing three.
    for (let i = 0; isLong && i < 2 && this.#text[this.#at] === quote; i++) this.#at++;
  }

  #step(): void {
    if (this.#text[this.#at] === "\n") this.#line++;
    this.#at++;
  }

  #skipBlanks(): void {
    while (BLANK.test(this.#text[this.#at] ?? "")) this.#at++;
  }

  #skipComment(): void {
    while (this.#at < this.#text.length && this.#text[this.#at] !== "\n") this.#at++;
  }

  #skipLine(): void {
    this.#skipComment();
    if (this.#at >= this.#text.length) return;
    this.#line++;
    this.#at++;
  }
}

function unescaped(body: string): string {
  return body.replace(/\\(?:([xuU])([0-9A-Fa-f]+)|(.))/g, (whole, kind?: string, digits?: string, char?: string) => {
    if (kind === undefined) return ESCAPES[char as string] ?? whole;
    const length = CODE_DIGITS[kind] as number;
    const code = Number.parseInt((digits as string).slice(0, length), 16);
    return (code <= 0x10ffff ? String.fromCodePoint(code) : "") + (digits as string).slice(length);
  });
}
