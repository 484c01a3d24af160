import { type Digest, isDigest } from "../../base/digest.ts";
import { NydusError } from "../../base/errors.ts";

/** A JSON object of which nothing is known yet. */
export type JsonObject = Readonly<Record<string, unknown>>;

/** Most bytes of a manifest, index or config; registries cap manifests at 4 MiB (distribution-spec). */
export const MAX_DOCUMENT_BYTES = 4 << 20;

/** Reads members of one document and words the errors about them: "Cannot parse manifest: layers[3].size is -1, …". */
export class JsonReader {
  readonly #document: string;

  /** @param document what it is, for messages: `manifest`, `index`, `config` */
  constructor(document: string) {
    this.#document = document;
  }

  /** The failure of the member at `where`. */
  bad(where: string, value: unknown, wanted: string): NydusError {
    const text = value === undefined ? "missing" : (JSON.stringify(value) ?? String(value));
    const shown = text.length > 80 ? `${text.slice(0, 80)}…` : text;
    return new NydusError("EUCLEAN", `Cannot parse ${this.#document}: ${where} is ${shown}, ${wanted} wanted`);
  }

  /** The document's top object. @throws EUCLEAN not UTF-8, not JSON, not an object, or over the size cap */
  parse(bytes: Uint8Array): JsonObject {
    if (bytes.length > MAX_DOCUMENT_BYTES) {
      const found = `${bytes.length} bytes, at most ${MAX_DOCUMENT_BYTES} wanted`;
      throw new NydusError("EUCLEAN", `Cannot parse ${this.#document}: ${found}`, { length: bytes.length });
    }
    let value: unknown;
    try {
      value = JSON.parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes));
    } catch (cause) {
      throw new NydusError("EUCLEAN", `Cannot parse ${this.#document}: it is not JSON`, {}, { cause });
    }
    return this.object(value, "the document");
  }

  object(value: unknown, where: string): JsonObject {
    if (typeof value !== "object" || value === null || Array.isArray(value)) throw this.bad(where, value, "an object");
    return value as JsonObject;
  }

  /** An array of at most `limit` items. */
  array(value: unknown, where: string, limit: number): readonly unknown[] {
    if (!Array.isArray(value)) throw this.bad(where, value, "an array");
    if (value.length > limit) throw this.bad(`length of ${where}`, value.length, `at most ${limit}`);
    return value;
  }

  string(value: unknown, where: string): string {
    if (typeof value !== "string") throw this.bad(where, value, "a string");
    return value;
  }

  /** A string, or undefined where the member is missing, null or empty. */
  optionalString(value: unknown, where: string): string | undefined {
    if (value === undefined || value === null || value === "") return undefined;
    return this.string(value, where);
  }

  /** An array of strings, or undefined where the member is missing or null. */
  optionalStrings(value: unknown, where: string, limit: number): readonly string[] | undefined {
    if (value === undefined || value === null) return undefined;
    return this.array(value, where, limit).map((item, i) => this.string(item, `${where}[${i}]`));
  }

  /** A map of strings, or undefined where the member is missing or null. */
  optionalStringMap(value: unknown, where: string): Readonly<Record<string, string>> | undefined {
    if (value === undefined || value === null) return undefined;
    const entries = Object.entries(this.object(value, where));
    return Object.fromEntries(entries.map(([key, item]) => [key, this.string(item, `${where}.${key.slice(0, 80)}`)]));
  }

  /** A count of bytes: an integer from 0 to 2^53-1. */
  size(value: unknown, where: string): number {
    if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 0) {
      throw this.bad(where, value, "an integer from 0 to 2^53-1");
    }
    return value;
  }

  /** @throws EUCLEAN not a digest; ENOTSUP another algorithm than SHA-256 */
  digest(value: unknown, where: string): Digest {
    const text = this.string(value, where);
    if (isDigest(text)) return text;
    if (/^(?:sha512:[0-9a-f]{128}|sha384:[0-9a-f]{96}|blake3:[0-9a-f]{64})$/.test(text)) {
      const algorithm = text.slice(0, text.indexOf(":"));
      throw new NydusError(
        "ENOTSUP",
        `Cannot parse ${this.#document}: ${where} is a ${algorithm} digest, sha256 is supported`,
      );
    }
    throw this.bad(where, value, "sha256: and 64 lower-case hex digits");
  }
}

/** A member of the top object in JSON text: bytes from `start` to `end` are its value. */
export interface MemberSpan {
  readonly key: string;
  readonly start: number;
  readonly end: number;
}

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const OPENERS = [0x7b, 0x5b];
const CLOSERS = [0x7d, 0x5d];
const COMMA = 0x2c;

/**
 * Where the top object's members are in the text of a document that {@link JsonReader.parse} took.
 * Works on bytes: inside UTF-8 text no byte of another character looks like JSON's punctuation.
 * @returns the spans in the order of the text, and the position of the object's closing brace
 */
export function memberSpans(text: Uint8Array): { readonly members: readonly MemberSpan[]; readonly close: number } {
  const members: MemberSpan[] = [];
  let at = skipSpace(text, text.indexOf(OPENERS[0] as number) + 1);
  while (text[at] === QUOTE) {
    const keyEnd = stringEnd(text, at);
    const key = JSON.parse(new TextDecoder().decode(text.subarray(at, keyEnd))) as string;
    const start = skipSpace(text, skipSpace(text, keyEnd) + 1); // past the colon
    const end = valueEnd(text, start);
    members.push({ key, start, end });
    at = skipSpace(text, end);
    if (text[at] === COMMA) at = skipSpace(text, at + 1);
  }
  return { members, close: at };
}

function skipSpace(text: Uint8Array, from: number): number {
  let at = from;
  while (text[at] === 0x20 || text[at] === 0x0a || text[at] === 0x0d || text[at] === 0x09) at++;
  return at;
}

/** Past the closing quote of the string that begins at `start`. */
function stringEnd(text: Uint8Array, start: number): number {
  let at = start + 1;
  while (at < text.length && text[at] !== QUOTE) at += text[at] === BACKSLASH ? 2 : 1;
  return at + 1;
}

/** Past the last byte of the value that begins at `start`, without the space after it. */
function valueEnd(text: Uint8Array, start: number): number {
  const first = text[start] as number;
  if (first === QUOTE) return stringEnd(text, start);
  if (OPENERS.includes(first)) return containerEnd(text, start);
  let at = start;
  while (at < text.length && isScalar(text[at] as number)) at++;
  return at;
}

/** Past the bracket that closes the object or array that begins at `start`. */
function containerEnd(text: Uint8Array, start: number): number {
  let depth = 0;
  let at = start;
  while (at < text.length) {
    const byte = text[at] as number;
    at = byte === QUOTE ? stringEnd(text, at) : at + 1;
    if (OPENERS.includes(byte)) depth++;
    else if (CLOSERS.includes(byte) && --depth === 0) break;
  }
  return at;
}

/** Whether a byte belongs to a number, true, false or null. */
function isScalar(byte: number): boolean {
  return byte > 0x20 && byte !== COMMA && !CLOSERS.includes(byte);
}
