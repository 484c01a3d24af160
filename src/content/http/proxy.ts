import { BlockList, isIP } from "node:net";
import { NydusError } from "../../base/errors.ts";
import { parseUrl } from "./url.ts";

/** Environment variables. */
export type Env = Readonly<Record<string, string | undefined>>;

/** A proxy for HTTP: where it is, and what it is told of us. */
export interface HttpProxy {
  /** http: or https:, without user info. */
  readonly url: URL;
  /** Value of Proxy-Authorization. */
  readonly authorization: string | undefined;
}

/** Which proxy leads to an address; undefined is the direct way. */
export type ProxyChooser = (url: URL) => HttpProxy | undefined;

const DEFAULT_PORTS: Readonly<Record<string, string>> = { "http:": "80", "https:": "443" };

/**
 * The proxies that the environment names, by the rules of Go's httpproxy: HTTP_PROXY, HTTPS_PROXY and NO_PROXY or their
 * lower-case forms; this machine is never reached by a proxy. Under CGI, where a client sets HTTP_PROXY, it is ignored.
 * @throws EINVAL no address; ENOTSUP another scheme than http and https; neither says what was found: it may be secret
 */
export function proxiesOf(env: Env): ProxyChooser {
  const isCgi = (env["REQUEST_METHOD"] ?? "") !== "";
  const proxies: Readonly<Record<string, HttpProxy | undefined>> = {
    "http:": isCgi ? undefined : parseProxy("HTTP_PROXY", envAny(env, "HTTP_PROXY")),
    "https:": parseProxy("HTTPS_PROXY", envAny(env, "HTTPS_PROXY")),
  };
  const isDirect = directRules(envAny(env, "NO_PROXY"));
  return (url) => {
    const proxy = proxies[url.protocol];
    return proxy === undefined || isDirect(url) ? undefined : proxy;
  };
}

function envAny(env: Env, name: string): string {
  return env[name] || env[name.toLowerCase()] || "";
}

function parseProxy(name: string, text: string): HttpProxy | undefined {
  if (text === "") return undefined;
  const url = parseUrl(/^[a-z][a-z0-9+.-]*:\/\//i.test(text) ? text : `http://${text}`);
  if (url === undefined || url.hostname === "") {
    throw new NydusError("EINVAL", `Cannot use the proxy of ${name}: it is no address, http://HOST:PORT wanted`);
  }
  if (url.protocol !== "http:" && url.protocol !== "https:") {
    throw new NydusError("ENOTSUP", `Cannot use the proxy of ${name}: it is ${url.protocol}, http: or https: wanted`);
  }
  const [user, password] = [url.username, url.password].map(decoded);
  const pair = Buffer.from(`${user}:${password}`).toString("base64");
  return { url: new URL(url.origin), authorization: user === "" && password === "" ? undefined : `Basic ${pair}` };
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** Whether an address is reached directly. */
type DirectRule = (host: string, port: string) => boolean;

function directRules(noProxy: string): (url: URL) => boolean {
  const rules = noProxy
    .split(",")
    .map((entry) => entry.trim().toLowerCase())
    .filter((entry) => entry !== "")
    .map(directRule);
  return (url) => {
    const host = bare(url.hostname.toLowerCase()).replace(/\.$/, "");
    const port = url.port || (DEFAULT_PORTS[url.protocol] ?? "");
    return host === "localhost" || isLoopbackAddress(host) || rules.some((rule) => rule(host, port));
  };
}

function directRule(entry: string): DirectRule {
  if (entry === "*") return () => true;
  const network = networkOf(entry);
  if (network !== undefined) return (host) => isInside(network, host);
  const [, name = entry, wantedPort] = /^(\[[^\]]*\]|[^:]*):(\d+)$/.exec(entry) ?? [];
  const isPort = (port: string): boolean => wantedPort === undefined || wantedPort === port;
  if (isIP(bare(name)) !== 0) {
    const address = canonical(bare(name));
    return (host, port) => isPort(port) && isIP(host) !== 0 && canonical(host) === address;
  }
  const suffix = name.startsWith("*.") ? name.slice(1) : name.startsWith(".") ? name : `.${name}`;
  const takesItself = !name.startsWith("*.") && !name.startsWith(".");
  return (host, port) => isPort(port) && (host.endsWith(suffix) || (takesItself && host === suffix.slice(1)));
}

function networkOf(entry: string): BlockList | undefined {
  const [, address = "", bits = ""] = /^([0-9a-f.:]+)\/(\d{1,3})$/.exec(entry) ?? [];
  const family = isIP(address);
  if (family === 0 || Number(bits) > (family === 4 ? 32 : 128)) return undefined;
  const list = new BlockList();
  list.addSubnet(address, Number(bits), family === 4 ? "ipv4" : "ipv6");
  return list;
}

function isInside(network: BlockList, host: string): boolean {
  const family = isIP(host);
  return family !== 0 && network.check(host, family === 4 ? "ipv4" : "ipv6");
}

function isLoopbackAddress(host: string): boolean {
  const family = isIP(host);
  return (family === 4 && host.startsWith("127.")) || (family === 6 && canonical(host) === "::1");
}

function canonical(address: string): string {
  return isIP(address) === 6 ? bare(new URL(`http://[${address}]/`).hostname) : address;
}

function bare(host: string): string {
  return host.replace(/^\[(.*)\]$/, "$1");
}
