import { isIP } from "node:net";
import { NydusError } from "../../base/errors.ts";
import { isLoopback } from "../../format/oci/reference.ts";
import { hasUserInfo, parseUrl, shownUrl } from "../http/url.ts";

/** Domains under which the names belong to many owners, as a country's second level does: a common one says nothing. */
const SHARED_DOMAINS = [
  "amazonaws.com",
  "appspot.com",
  "azurecr.io",
  "azurewebsites.net",
  "cloudapp.net",
  "cloudfront.net",
  "fly.dev",
  "github.io",
  "gitlab.io",
  "herokuapp.com",
  "jfrog.io",
  "netlify.app",
  "ngrok.io",
  "pages.dev",
  "pkg.dev",
  "run.app",
  "trycloudflare.com",
  "vercel.app",
  "windows.net",
  "workers.dev",
];
const SHARED_SECOND_LEVEL = /^(?:ac|co|com|edu|gob|gouv|gov|ltd|me|mil|ne|net|nom|or|org|plc|sch)\.[a-z]{2}$/;

/** Token servers of known registries that lie elsewhere. */
const KNOWN_REALMS: readonly (readonly [registry: RegExp, realm: string])[] = [
  [/(?:^|\.)scw\.cloud$/, "api.scaleway.com"],
  [/^nvcr\.io$/, "authn.nvidia.com"],
];

/** Where a token is asked for. */
export interface Realm {
  readonly url: URL;
  /** Whether the registry's credentials may be sent there. */
  readonly isTrusted: boolean;
  /** Whether the registry named another host than its own, which must not be a link-local one. */
  readonly isGuarded: boolean;
}

/**
 * The token realm that a registry names.
 *
 * It is asked by https without user info; by plain HTTP only where the registry is spoken to by it, on its own host or
 * on this machine. The registry's credentials go there when it is the registry's host, a host of the same owner (one
 * name below a domain is the other, or they have that domain in common: `registry-1.docker.io` and `auth.docker.io`,
 * `registry.gitlab.com` and `gitlab.com`; not domains that many owners share), or its known token server.
 * @throws EACCES another address
 */
export function realmOf(text: string | undefined, registry: URL): Realm {
  const url = parseUrl(text);
  const place = { url: shownUrl(registry) };
  if (url === undefined) {
    throw new NydusError("EACCES", "Cannot authenticate to the registry: its token realm is no address", place);
  }
  const isOwn = url.hostname === registry.hostname;
  const isNear = isOwn || (isLoopback(url.host) && isLoopback(registry.host));
  const isSafe = url.protocol === "https:" || (url.protocol === "http:" && registry.protocol === "http:" && isNear);
  if (!isSafe || hasUserInfo(url)) {
    const found = `${url.protocol}//${url.host}`;
    const message = `Cannot authenticate to the registry: its token realm ${found} may not be asked, https and no user info wanted`;
    throw new NydusError("EACCES", message, place);
  }
  url.hash = "";
  return { url, isTrusted: isNear || haveOneOwner(url.hostname, registry.hostname), isGuarded: !isOwn };
}

/** Whether two hosts belong to one owner, as far as their names tell. */
function haveOneOwner(realm: string, registry: string): boolean {
  if (KNOWN_REALMS.some(([pattern, host]) => host === realm && pattern.test(registry))) return true;
  const domain = ownersDomain(registry);
  return domain !== undefined && domain === ownersDomain(realm);
}

/** The part of a name that one owner has: its last two labels, or three; undefined where no part is known to be one owner's. */
function ownersDomain(host: string): string | undefined {
  const labels = host.replace(/\.$/, "").split(".");
  if (isIP(host) !== 0 || host.startsWith("[") || labels.length < 2) return undefined;
  const last = labels.slice(-2).join(".");
  if (!SHARED_SECOND_LEVEL.test(last) && !SHARED_DOMAINS.includes(last)) return last;
  return SHARED_DOMAINS.includes(last) || labels.length < 3 ? undefined : labels.slice(-3).join(".");
}
