import { mkdir, realpath } from "node:fs/promises";
import { dirname } from "node:path";
import { NydusError } from "../../base/errors.ts";
import type { JsonObject } from "../../format/oci/json.ts";
import { DEFAULT_REGISTRY, parseReference } from "../../format/oci/reference.ts";
import { httpFailure } from "../http/failure.ts";
import type { Env } from "../http/proxy.ts";
import type { HttpResponse } from "../http/response.ts";
import { lockPath } from "../store/path-lock.ts";
import { replaceFile } from "../store/staged-file.ts";
import { RegistryAuth } from "./auth.ts";
import { type AuthFile, helperOf, keysOf, membersOf, readAuthFile } from "./auth-file.ts";
import { basicAuthorization, type Credential, configKey, scopeOfKey } from "./credential.ts";
import { heldCredential, loginFilePath } from "./credential-files.ts";
import { CredentialHelper } from "./credential-helper.ts";
import { apiUrl } from "./registry.ts";
import { openAccess, type RegistryOptions } from "./registry-options.ts";

/** A registry's credentials are its owner's alone to read. */
const FILE_MODE = 0o600;
const DIR_MODE = 0o700;

type Password = Credential & { readonly kind: "password" };

/** Where a login is kept: a file, or a program that the file names. */
export interface LoginPlace {
  readonly path: string;
  readonly helper: string | undefined;
}

/** A registry as a user names it: a host, with a port, scheme or API version if need be. @throws EINVAL */
export function parseRegistry(text: string): string {
  const host = scopeOfKey(text.trim());
  if (host === DEFAULT_REGISTRY) return host;
  // In the name of an image it must be read as a host, too.
  const image = host === "" || host.includes("/") ? undefined : parseReference(`${host}/x`);
  if (image?.repository === "x") return image.registry;
  throw new NydusError("EINVAL", `Cannot use registry ${JSON.stringify(text)}: a host is wanted, such as ghcr.io`);
}

/**
 * Asks a registry whether it takes a user and a password.
 * @throws EACCES it does not, in its own words; ENOENT no registry there; EIO, ETIMEDOUT
 */
export async function verifyLogin(
  registry: string,
  credential: Password,
  options: RegistryOptions,
  signal: AbortSignal,
): Promise<void> {
  const access = openAccess(options);
  const { http, plainHttp } = access;
  try {
    const url = apiUrl(registry, plainHttp);
    const credentials = heldCredential(credential);
    const auth = new RegistryAuth({ http, api: url, registry, repository: undefined, credentials });
    const ask = (authorization: string | undefined): Promise<HttpResponse> =>
      http.open({ method: "GET", url, headers: authorization === undefined ? {} : { authorization }, signal });
    const first = await ask(undefined);
    await first.discard();
    if (first.status !== 401) {
      if (first.status === 200) return;
      throw await httpFailure(first, "log in");
    }
    if (first.url.origin !== url.origin) throw await httpFailure(first, "log in");
    const challenges = first.headers("www-authenticate");
    await auth.answer({ action: "pull", challenges, sent: undefined, signal });
    const second = await ask(await auth.authorizationFor(url, "pull", signal));
    if (second.status !== 200) throw await httpFailure(second, "log in");
    await second.discard();
  } finally {
    await access[Symbol.asyncDispose]();
  }
}

/**
 * Keeps a user and a password where `CredentialFiles` finds them, as docker does.
 * @throws EACCES, ETIMEDOUT the helper; EUCLEAN, EPERM, ENOSPC the file
 */
export async function storeLogin(registry: string, credential: Password, env: Env): Promise<LoginPlace> {
  return await change(env, async (file) => {
    const helper = helperOf(file, registry);
    if (helper === undefined) {
      const auth = basicAuthorization(credential).slice("Basic ".length);
      return { helper, document: withAuths(file, registry, { auth }) };
    }
    await new CredentialHelper(helper, { env }).store(registry, credential);
    return { helper, document: withAuths(file, registry, {}) };
  });
}

/** Forgets what {@link storeLogin} has kept. @returns undefined when there was nothing @throws as it */
export async function eraseLogin(registry: string, env: Env): Promise<LoginPlace | undefined> {
  let found = false;
  const place = await change(env, async (file) => {
    const helper = helperOf(file, registry);
    found = keysOf(file, registry).length > 0;
    if (helper !== undefined && (await new CredentialHelper(helper, { env }).erase(registry))) found = true;
    return { helper, document: keysOf(file, registry).length > 0 ? withAuths(file, registry, undefined) : undefined };
  });
  return found ? place : undefined;
}

interface Change {
  readonly helper: string | undefined;
  /** Undefined leaves the file as it is. */
  readonly document: JsonObject | undefined;
}

async function change(env: Env, make: (file: AuthFile) => Promise<Change>): Promise<LoginPlace> {
  const named = loginFilePath(env);
  // A link stays a link: what it leads to is changed.
  const path = await realpath(named).catch(() => named);
  await mkdir(dirname(path), { recursive: true, mode: DIR_MODE });
  await using _lock = await lockPath(dirname(path), "change the credentials");
  const file = (await readAuthFile(path)) ?? { path, document: {} };
  const { helper, document } = await make(file);
  if (document !== undefined) {
    await replaceFile(path, new TextEncoder().encode(`${JSON.stringify(document, null, "\t")}\n`), FILE_MODE);
  }
  return { path, helper };
}

/** The document with one entry for a registry, under docker's name for it, or with none. */
function withAuths(file: AuthFile, registry: string, entry: JsonObject | undefined): JsonObject {
  const gone = keysOf(file, registry);
  const others = Object.entries(membersOf(file, "auths")).filter(([key]) => !gone.includes(key));
  const own = entry === undefined ? [] : [[configKey(registry), entry] as const];
  return { ...file.document, auths: Object.fromEntries([...others, ...own]) };
}
