import { NydusError } from "../../base/errors.ts";

const PATH_LIMIT = 4095;

/** The members of an object that has no others than `fields`. @throws EINVAL */
export function objectOf(value: unknown, name: string, fields: readonly string[]): Readonly<Record<string, unknown>> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw bad(name, "an object");
  const unknown = Object.keys(value).find((field) => !fields.includes(field));
  if (unknown !== undefined) throw bad(name, `an object of ${fields.join(", ")}, it has ${JSON.stringify(unknown)}`);
  return value as Readonly<Record<string, unknown>>;
}

/** A text that is neither empty nor longer than a path, without NUL. @throws EINVAL */
export function text(value: unknown, name: string): string {
  const fits = typeof value === "string" && value.length > 0 && value.length <= PATH_LIMIT && !value.includes("\0");
  if (!fits) throw bad(name, "a text");
  return value;
}

/** An absolute path. @throws EINVAL */
export function absolute(value: unknown, name: string): string {
  const path = text(value, name);
  if (!path.startsWith("/")) throw bad(name, "an absolute path");
  return path;
}

/** The failure of a field that is not as it is to be. */
export function bad(name: string, wanted: string): NydusError {
  return new NydusError("EINVAL", `Cannot read request: ${name} is to be ${wanted}`);
}
