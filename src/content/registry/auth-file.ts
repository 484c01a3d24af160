import { readFile } from "node:fs/promises";
import { asNydusError, NydusError } from "../../base/errors.ts";
import type { JsonObject } from "../../format/oci/json.ts";
import {
  type Credential,
  type CredentialScope,
  credentialOf,
  scopeOfKey,
  scopesOf,
  TOKEN_USERNAME,
} from "./credential.ts";

/** Docker's `config.json`, or containers' `auth.json`, which has fewer members. */
export interface AuthFile {
  readonly path: string;
  /** As it is, members that are not known here included. */
  readonly document: JsonObject;
}

/** Reads one; undefined when there is none. @throws EUCLEAN, EPERM, EIO: without a word of what is in it */
export async function readAuthFile(path: string): Promise<AuthFile | undefined> {
  let bytes: Uint8Array;
  try {
    bytes = await readFile(path);
  } catch (error) {
    const failure = asNydusError(error, { path });
    if (failure.code === "ENOENT") return undefined;
    throw failure;
  }
  const text = new TextDecoder().decode(bytes);
  const document = text.trim() === "" ? {} : parsed(text);
  if (typeof document === "object" && document !== null && !Array.isArray(document)) {
    return { path, document: document as JsonObject };
  }
  throw new NydusError("EUCLEAN", "Cannot read credentials: the file is no JSON object", { path });
}

/** Undefined when it is no JSON; the error would quote it. */
function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** The helper that a file names for a registry: its own before the one for all. @throws EUCLEAN a name that is none */
export function helperOf(file: AuthFile, registry: string): string | undefined {
  const own = find(membersOf(file, "credHelpers"), [registry]);
  const name = own === undefined || own === "" ? file.document["credsStore"] : own;
  if (name === undefined || name === "") return undefined;
  if (typeof name === "string" && /^[A-Za-z0-9][A-Za-z0-9._-]*$/.test(name)) return name;
  throw damaged(file, "the name of a credential helper");
}

/**
 * The credential that is in the file itself.
 * @throws EUCLEAN an entry that is none
 */
export function credentialIn(file: AuthFile, scope: CredentialScope): Credential | undefined {
  const entry = find(membersOf(file, "auths"), scopesOf(scope));
  if (entry === undefined || entry === null) return undefined;
  if (typeof entry !== "object") throw damaged(file, "a member of auths");
  const text = (name: string): string => {
    const value = (entry as JsonObject)[name] ?? "";
    if (typeof value !== "string") throw damaged(file, `a member ${name}`);
    return value;
  };
  if (text("registrytoken") !== "") return { kind: "bearer", token: text("registrytoken") };
  if (text("identitytoken") !== "") return credentialOf(TOKEN_USERNAME, text("identitytoken"));
  if (text("auth") === "") return credentialOf(text("username"), text("password"));
  const pair = Buffer.from(text("auth"), "base64").toString().replace(/\0+$/, "");
  const colon = pair.indexOf(":");
  if (colon < 0) throw damaged(file, "a member auth");
  return credentialOf(pair.slice(0, colon), pair.slice(colon + 1));
}

/** The keys of `auths` that mean a registry itself. */
export function keysOf(file: AuthFile, registry: string): string[] {
  return Object.keys(membersOf(file, "auths")).filter((key) => scopeOfKey(key) === registry);
}

/** The value of the first of `scopes` that a key means; a key that is spelt like the scope goes before its other forms. */
function find(members: JsonObject, scopes: readonly string[]): unknown {
  for (const scope of scopes) {
    if (Object.hasOwn(members, scope)) return members[scope];
    const key = Object.keys(members).find((one) => scopeOfKey(one) === scope);
    if (key !== undefined) return members[key];
  }
  return undefined;
}

/** A member that is an object; an empty one where there is none. @throws EUCLEAN */
export function membersOf(file: AuthFile, name: string): JsonObject {
  const value = file.document[name] ?? {};
  if (typeof value === "object" && !Array.isArray(value)) return value as JsonObject;
  throw damaged(file, name);
}

function damaged({ path }: AuthFile, what: string): NydusError {
  return new NydusError("EUCLEAN", `Cannot read credentials: ${what} is not right`, { path });
}
