import { NydusError } from "../../base/errors.ts";

/** A piece of a filter. */
export interface Token {
  readonly kind: "name" | "quoted" | "value" | "operator" | "separator";
  /** Of a quoted one, what it stands for. */
  readonly text: string;
  /** Character that a quoted one stands between. */
  readonly quote?: string | undefined;
}

/** Only a separator must stand right behind what it separates. */
const SEPARATOR = "(?<separator>[,.])";
const QUOTED = String.raw`(?<quoted>(?<quote>["/|])(?<inner>(?:\\.|(?!\k<quote>)[^\\\n])*)\k<quote>)`;
const OPERATOR = "(?<operator>[=!~]+)";
const ANYWHERE = new RegExp(String.raw`${SEPARATOR}|\s*(?:${QUOTED}|${OPERATOR}|(?<name>[A-Za-z0-9_]+))`, "uy");
const BEHIND_OPERATOR = new RegExp(
  String.raw`${SEPARATOR}|\s*(?:${QUOTED}|${OPERATOR}|(?<value>(?!["/|.])[^\s,\p{C}]+))`,
  "uy",
);
const KINDS = ["quoted", "operator", "separator", "name", "value"] as const;

/**
 * The pieces of a filter. What follows an operator is a value, which may hold anything but a comma and a space.
 * @throws EINVAL naming the place
 */
export function readFilterTokens(text: string): readonly Token[] {
  const tokens: Token[] = [];
  for (let at = 0; at < text.length; ) {
    const pattern = tokens.at(-1)?.kind === "operator" ? BEHIND_OPERATOR : ANYWHERE;
    pattern.lastIndex = at;
    const groups = pattern.exec(text)?.groups;
    const kind = KINDS.find((name) => groups?.[name] !== undefined);
    if (groups === undefined || kind === undefined) throw unreadable(text, at);
    const quote = groups["quote"];
    const found = kind === "quoted" ? unquote(groups["inner"] ?? "", quote ?? "") : groups[kind];
    if (found === undefined) throw unreadable(text, at);
    tokens.push({ kind, text: found, quote });
    at = pattern.lastIndex;
  }
  return tokens;
}

function unreadable(text: string, at: number): NydusError {
  return new NydusError("EINVAL", `Cannot read filter ${JSON.stringify(text)}: nothing known begins at ${at}`);
}

/** One escape, or a run of text without any. */
const PIECES =
  /\\(?:x(?<hex>[0-9A-Fa-f]{2})|(?<octal>[0-7]{3})|[uU](?<code>(?<=u)[0-9A-Fa-f]{4}|(?<=U)[0-9A-Fa-f]{8})|(?<simple>.))|(?<plain>[^\\]+)/gsu;
const SIMPLE: Readonly<Record<string, number>> = { a: 7, b: 8, t: 9, n: 10, v: 11, f: 12, r: 13, "\\": 0x5c };
const MAX_CODE_POINT = 0x10ffff;
const MAX_BYTE = 0xff;

/** What a Go string literal stands for: `\x` and `\377` are bytes of UTF-8. @returns undefined when it is malformed */
function unquote(inner: string, quote: string): string | undefined {
  const pieces = [...inner.matchAll(PIECES)].map(({ groups = {} }) => pieceBytes(groups, quote));
  if (pieces.includes(undefined)) return undefined;
  return new TextDecoder().decode(new Uint8Array(pieces.flatMap((bytes) => [...(bytes ?? [])])));
}

function pieceBytes(groups: Readonly<Record<string, string | undefined>>, quote: string): Iterable<number> | undefined {
  const { hex, octal, code, simple, plain } = groups;
  if (plain !== undefined) return new TextEncoder().encode(plain);
  if (code !== undefined) {
    const codePoint = Number.parseInt(code, 16);
    return codePoint > MAX_CODE_POINT ? undefined : new TextEncoder().encode(String.fromCodePoint(codePoint));
  }
  if (simple !== undefined) {
    const byte = simple === quote ? quote.charCodeAt(0) : SIMPLE[simple];
    return byte === undefined ? undefined : [byte];
  }
  const byte = hex === undefined ? Number.parseInt(octal ?? "", 8) : Number.parseInt(hex, 16);
  return byte > MAX_BYTE ? undefined : [byte];
}
