/** What a user has for a registry. */
export type Credential =
  | { readonly kind: "password"; readonly username: string; readonly password: string }
  /** A refresh token for the registry's token server (docker's `identitytoken`). */
  | { readonly kind: "identity"; readonly token: string }
  /** A bearer token for the registry itself (docker's `registrytoken`). */
  | { readonly kind: "bearer"; readonly token: string };

/** Whose credential is wanted. */
export interface CredentialScope {
  /** As in image names: `docker.io`, `localhost:5000`. */
  readonly registry: string;
  /** Where credentials of a part of the registry would do. */
  readonly repository?: string | undefined;
}

/** A place that credentials come from; asked anew each time, since they expire. */
export interface CredentialSource {
  /** @returns undefined when there is none: the registry is asked as anyone @throws EACCES, EUCLEAN, EPERM, ETIMEDOUT */
  find(scope: CredentialScope): Promise<Credential | undefined>;
}

/** The user that credential helpers give to say that the secret is an identity token. */
export const TOKEN_USERNAME = "<token>";

/** A user and a secret, as docker's configuration and helpers have them; undefined when there is nothing in them. */
export function credentialOf(username: string, secret: string): Credential | undefined {
  if (secret === "" && username === "") return undefined;
  if (username === TOKEN_USERNAME) return { kind: "identity", token: secret };
  return { kind: "password", username, password: secret };
}

/** The value of Authorization that carries a user and a password (RFC 7617). */
export function basicAuthorization({ username, password }: Credential & { readonly kind: "password" }): string {
  return `Basic ${Buffer.from(`${username}:${password}`).toString("base64")}`;
}

const DOCKER_HUB = "docker.io";
/** What Docker Hub is called in docker's configuration, and what its helpers are asked for. */
const DOCKER_HUB_KEY = "https://index.docker.io/v1/";
const DOCKER_HUB_HOSTS: readonly string[] = [DOCKER_HUB, "index.docker.io", "registry-1.docker.io"];

/** What a registry is called in docker's configuration. */
export function configKey(registry: string): string {
  return registry === DOCKER_HUB ? DOCKER_HUB_KEY : registry;
}

/** The registry, or a part of it, that a key of a configuration means: without scheme, API version and slashes at its end. */
export function scopeOfKey(key: string): string {
  const plain = key.replace(/^https?:\/\//, "").replace(/\/+$/, "");
  const [host = "", ...path] = plain.replace(/\/v[12]$/, "").split("/");
  return [DOCKER_HUB_HOSTS.includes(host) ? DOCKER_HUB : host, ...path].join("/");
}

/** The names under which a repository's credential may be, most specific first: `host/a/b`, `host/a`, `host`. */
export function scopesOf({ registry, repository = "" }: CredentialScope): string[] {
  const parts = [registry, ...repository.split("/").filter((part) => part !== "")];
  return parts.map((_, i) => parts.slice(0, parts.length - i).join("/"));
}
