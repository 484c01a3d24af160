/** One challenge of a WWW-Authenticate header (RFC 9110, 11.6.1). */
export interface Challenge {
  /** Lower case: `bearer`, `basic`. */
  readonly scheme: string;
  /** Names in lower case. */
  readonly parameters: ReadonlyMap<string, string>;
}

/** Longer headers are cut: no registry needs as much. */
const MAX_HEADER_CHARS = 8192;

const TOKEN = "[!#$%&'*+.^_`|~0-9A-Za-z-]+";
const SCHEME = new RegExp(`^\\s*,?\\s*(${TOKEN})(?:\\s+|$|(?=,))(?!\\s*=)`);
const PARAMETER = new RegExp(`^\\s*,?\\s*(${TOKEN})\\s*=\\s*(?:"((?:[^"\\\\]|\\\\.)*)"|([^\\s,"]+))`);

/** The challenges of a WWW-Authenticate header; what is none ends the list. */
export function parseChallenges(header: string): Challenge[] {
  const challenges: { scheme: string; parameters: Map<string, string> }[] = [];
  let rest = header.slice(0, MAX_HEADER_CHARS);
  while (rest.trim() !== "") {
    const parameter = PARAMETER.exec(rest);
    const current = challenges.at(-1);
    if (parameter !== null && current !== undefined) {
      const [whole, name = "", quoted, plain = ""] = parameter;
      const value = quoted?.replace(/\\(.)/g, "$1") ?? plain;
      if (!current.parameters.has(name.toLowerCase())) current.parameters.set(name.toLowerCase(), value);
      rest = rest.slice(whole.length);
      continue;
    }
    const scheme = SCHEME.exec(rest);
    if (scheme === null) break;
    challenges.push({ scheme: (scheme[1] as string).toLowerCase(), parameters: new Map() });
    rest = rest.slice(scheme[0].length);
  }
  return challenges;
}
