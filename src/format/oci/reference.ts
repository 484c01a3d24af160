import { type Digest, isDigest } from "../../base/digest.ts";
import { NydusError } from "../../base/errors.ts";

/** An image in a registry, its defaults filled in. */
export interface Reference {
  /** Host, with port if given: `docker.io`, `localhost:5000`, `[::1]:5000`. */
  readonly registry: string;
  /** Path in the registry: `library/debian`. */
  readonly repository: string;
  /** As given, else `latest` unless there is a digest. */
  readonly tag?: string;
  /** Decides over the tag where both are given. */
  readonly digest?: Digest;
}

/** The registry of names that give none. */
export const DEFAULT_REGISTRY = "docker.io";
const LEGACY_DEFAULT_REGISTRY = "index.docker.io";
const OFFICIAL_PREFIX = "library/";
const DEFAULT_TAG = "latest";

const MAX_REPOSITORY_LENGTH = 255;
const MAX_REFERENCE_LENGTH = 1024;

// The grammar of distribution/reference.
const LABEL = "(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])";
const REGISTRY = new RegExp(`^(?:${LABEL}(?:\\.${LABEL})*|\\[[a-fA-F0-9:]+\\])(?::[0-9]{1,5})?$`);
const COMPONENT = "[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*";
const REPOSITORY = new RegExp(`^${COMPONENT}(?:/${COMPONENT})*$`);
const TAG = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/;
const IDENTIFIER = /^[a-f0-9]{64}$/;

/**
 * An image name as docker, nerdctl and skopeo take it: `[HOST[:PORT]/]PATH[:TAG][@DIGEST]`.
 * Without a host it is docker.io's, there without a slash `library/`'s; without tag and digest it is `latest`.
 * @throws EINVAL another syntax; ENOTSUP a digest other than SHA-256
 * @see https://github.com/distribution/reference
 */
export function parseReference(text: string): Reference {
  if (text.length > MAX_REFERENCE_LENGTH) throw badReference(text, "it is too long");
  if (IDENTIFIER.test(text)) throw badReference(text, "64 hex digits alone are an image id, not a name");
  const at = text.indexOf("@");
  const digest = at < 0 ? undefined : parseReferenceDigest(text, text.slice(at + 1));
  const [registry, rest] = splitRegistry(at < 0 ? text : text.slice(0, at));
  const colon = rest.indexOf(":");
  const path = colon < 0 ? rest : rest.slice(0, colon);
  const repository = registry === DEFAULT_REGISTRY && !path.includes("/") ? OFFICIAL_PREFIX + path : path;
  const given = colon < 0 ? undefined : rest.slice(colon + 1);
  const tag = given ?? (digest === undefined ? DEFAULT_TAG : undefined);
  const why = whyRefused(registry, repository, tag);
  if (why !== undefined) throw badReference(text, why);
  return { registry, repository, ...(tag === undefined ? {} : { tag }), ...(digest === undefined ? {} : { digest }) };
}

function whyRefused(registry: string, repository: string, tag: string | undefined): string | undefined {
  if (!REGISTRY.test(registry)) return `${JSON.stringify(registry)} is not a host`;
  if (tag !== undefined && !TAG.test(tag)) return `${JSON.stringify(tag)} is not a tag`;
  if (/[A-Z]/.test(repository)) return "a repository must be lower-case";
  if (!REPOSITORY.test(repository)) return `${JSON.stringify(repository)} is not a repository`;
  if (repository.length > MAX_REPOSITORY_LENGTH) return "a repository has at most 255 characters";
  return undefined;
}

function badReference(text: string, why: string): NydusError {
  const shown = JSON.stringify(text.length > 200 ? `${text.slice(0, 200)}…` : text);
  return new NydusError("EINVAL", `Cannot parse image name ${shown}: ${why}`);
}

function parseReferenceDigest(text: string, digest: string): Digest {
  if (isDigest(digest)) return digest;
  if (/^[a-z0-9]+(?:[-_+.][a-z0-9]+)*:[0-9a-f]{32,}$/i.test(digest) && !digest.startsWith("sha256:")) {
    throw new NydusError("ENOTSUP", `Cannot parse image name: digest algorithm ${digest.split(":", 1)} is not sha256`);
  }
  throw badReference(text, "after @ goes sha256: and 64 lower-case hex digits");
}

/** The first component is a host if it looks like one: localhost, a dot, a colon, or an upper-case letter in it. */
function splitRegistry(name: string): [registry: string, rest: string] {
  const slash = name.indexOf("/");
  if (slash < 0) return [DEFAULT_REGISTRY, name];
  const first = name.slice(0, slash);
  const rest = name.slice(slash + 1);
  if (first === LEGACY_DEFAULT_REGISTRY) return [DEFAULT_REGISTRY, rest];
  if (first === "localhost" || /[.:A-Z]/.test(first)) return [first, rest];
  return [DEFAULT_REGISTRY, name];
}

/** The full name: `docker.io/library/debian:latest`. Parses back to the same. */
export function formatReference(reference: Reference): string {
  const tag = reference.tag === undefined ? "" : `:${reference.tag}`;
  const digest = reference.digest === undefined ? "" : `@${reference.digest}`;
  return `${reference.registry}/${reference.repository}${tag}${digest}`;
}

/** The name without tag as docker and nerdctl show it: `alpine` for docker.io/library/alpine (distribution/reference). */
export function familiarRepository({ registry, repository }: Reference): string {
  if (registry !== DEFAULT_REGISTRY) return `${registry}/${repository}`;
  const short = repository.startsWith(OFFICIAL_PREFIX) ? repository.slice(OFFICIAL_PREFIX.length) : repository;
  return short.includes("/") ? repository : short;
}

/** What a registry's API is asked for: the digest where there is one, else the tag. */
export function manifestKey(reference: Reference): string {
  return reference.digest ?? reference.tag ?? DEFAULT_TAG;
}

/** The host that serves a registry's API: Docker Hub's is not the one in its names. */
export function apiHost(registry: string): string {
  return registry === DEFAULT_REGISTRY ? "registry-1.docker.io" : registry;
}

/** Whether a registry is on this machine, where plain HTTP is what docker and containerd try as well. */
export function isLoopback(registry: string): boolean {
  const host = registry.replace(/:[0-9]+$/, "").toLowerCase();
  if (host === "localhost" || host.endsWith(".localhost")) return true;
  if (/^127(?:\.(?:\d|[1-9]\d|1\d\d|2[0-4]\d|25[0-5])){3}$/.test(host)) return true;
  return /^\[(?:0{0,4}:){2,7}0{0,3}1\]$/.test(host);
}
