import { NydusError } from "../base/errors.ts";
import type { Platform } from "../format/oci/manifest.ts";
import { hostPlatform, parsePlatform } from "../format/oci/platform.ts";

const UNITS: Readonly<Record<string, number>> = { "": 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30, t: 2 ** 40 };

/** An error of usage that names the flag and what it was given. */
export function badValue(flag: string, found: string, wanted: string): NydusError {
  return new NydusError("EINVAL", `Cannot use --${flag} ${JSON.stringify(found)}: ${wanted} is wanted`);
}

/**
 * A size: `65536`, `64K`, `64KiB`, `1MiB`, `0x10000`; the units are powers of 1024.
 * @returns bytes
 * @throws EINVAL on other text or above 2^53-1
 */
export function parseSize(flag: string, text: string): number {
  const hex = /^0x[0-9a-f]+$/i.test(text);
  const parts = /^(\d+)([kmgt]?)(?:i?b)?$/i.exec(text);
  const size = hex ? Number(text) : parts === null ? Number.NaN : Number(parts[1]) * unitOf(parts[2] ?? "");
  if (!Number.isSafeInteger(size)) throw badValue(flag, text, "a size such as 65536, 64KiB or 1MiB");
  return size;
}

function unitOf(letter: string): number {
  return UNITS[letter.toLowerCase()] ?? Number.NaN;
}

/** A whole number within `min` and `max`. @throws EINVAL */
export function parseInteger(
  flag: string,
  text: string,
  range: { readonly min: number; readonly max: number },
): number {
  const value = /^-?\d+$/.test(text) ? Number(text) : Number.NaN;
  if (value >= range.min && value <= range.max) return value;
  throw badValue(flag, text, `a whole number from ${range.min} to ${range.max}`);
}

const DURATION_UNITS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 };

/** A length of time above zero: `500ms`, `30s`, `2m`, `1h`. @returns milliseconds @throws EINVAL */
export function parseDuration(flag: string, text: string): number {
  const parts = /^(\d+(?:\.\d+)?)(ms|s|m|h)$/.exec(text);
  const value = parts === null ? 0 : Number(parts[1]) * (DURATION_UNITS[parts[2] ?? ""] ?? 0);
  if (value >= 1 && value <= 2 ** 31 - 1) return Math.round(value);
  throw badValue(flag, text, "a time such as 500ms, 30s or 2m");
}

/** A comma-separated list without empty members; undefined gives an empty list. @throws EINVAL */
export function parseList(flag: string, text: string | undefined): string[] {
  if (text === undefined) return [];
  const members = text.split(",").map((member) => member.trim());
  if (members.includes("")) throw badValue(flag, text, "a list such as a,b");
  return members;
}

/** One of `choices`. @throws EINVAL naming them */
export function parseChoice<T extends string>(flag: string, text: string, choices: readonly T[]): T {
  const found = choices.find((choice) => choice === text);
  if (found === undefined) throw badValue(flag, text, `one of ${choices.join(", ")}`);
  return found;
}

/** The platforms of a `--platform` flag that takes several, or all; this machine's without either. @throws EINVAL */
export function platformsOf(text: string | undefined, all: boolean): readonly [Platform, ...Platform[]] | "all" {
  if (all && text !== undefined) throw badValue("platform", text, "either --platform or --all-platforms");
  if (all) return "all";
  const [first = hostPlatform(process.arch), ...others] = parseList("platform", text).map(parsePlatform);
  return [first, ...others];
}

/** The platform of a `--platform` flag; this machine's without one. @throws EINVAL */
export function platformOf(text: string | undefined): Platform {
  return text === undefined ? hostPlatform(process.arch) : parsePlatform(text);
}
