import { SingleFlight } from "../../base/async.ts";
import { NydusError } from "../../base/errors.ts";
import { JsonReader } from "../../format/oci/json.ts";
import { isLoopback } from "../../format/oci/reference.ts";
import { httpFailure } from "../http/failure.ts";
import type { HttpClient } from "../http/transport.ts";
import { hasUserInfo, parseUrl, shownUrl } from "../http/url.ts";
import { parseChallenges } from "./challenge.ts";

/** Most bytes of a token server's answer. */
const TOKEN_ANSWER_BYTES = 1 << 20;
const MAX_TOKEN_CHARS = 64 << 10;

/**
 * Anonymous access to one registry: a registry that wants a bearer token says where anyone gets one. The token goes to
 * the registry's own origin only. Credentials come with their own issue.
 */
export class RegistryAuth {
  readonly #http: HttpClient;
  readonly #registry: URL;
  readonly #flights = new SingleFlight<string, string>();
  #token: string | undefined;

  /** @param registry any address of the registry's API */
  constructor(http: HttpClient, registry: URL) {
    this.#http = http;
    this.#registry = registry;
  }

  /** Headers of a request to `url`. */
  headersFor(url: URL): Record<string, string> {
    if (this.#token === undefined || url.origin !== this.#registry.origin) return {};
    return { authorization: `Bearer ${this.#token}` };
  }

  /**
   * Answers a 401: gets a token.
   * @param header the WWW-Authenticate
   * @throws EACCES the registry wants credentials, or a realm that no token may be asked of; EIO
   */
  async answer(header: string | undefined, signal: AbortSignal | undefined): Promise<void> {
    const challenges = parseChallenges(header ?? "");
    const bearer = challenges.find(({ scheme }) => scheme === "bearer");
    if (bearer === undefined) {
      const schemes = challenges.map(({ scheme }) => scheme).join(", ") || "nothing that is known";
      throw this.#refused(`it wants credentials (${schemes}), which are not supported yet`);
    }
    const url = this.#tokenUrl(bearer.parameters);
    this.#token = await this.#flights.run(url.href, () => this.#fetch(url, signal));
  }

  #tokenUrl(parameters: ReadonlyMap<string, string>): URL {
    const url = parseUrl(parameters.get("realm"));
    if (url === undefined) throw this.#refused("its token realm is no address");
    const isSafe = url.protocol === "https:" || (this.#registry.protocol === "http:" && isLoopbackHttp(url));
    if (!isSafe || hasUserInfo(url)) {
      throw this.#refused(`its token realm ${url.protocol}//${url.host} may not be asked: https wanted, no user info`);
    }
    for (const name of ["service", "scope"]) {
      const value = parameters.get(name);
      if (value !== undefined && value !== "") url.searchParams.set(name, value);
    }
    return url;
  }

  async #fetch(url: URL, signal: AbortSignal | undefined): Promise<string> {
    return await this.#http.send({ method: "GET", url, followRedirects: false, signal }, async (response) => {
      if (response.status !== 200) throw await httpFailure(response, "get a token");
      const read = new JsonReader("token");
      const answer = read.parse(await response.bytes(TOKEN_ANSWER_BYTES));
      const token =
        read.optionalString(answer["token"], "token") ?? read.string(answer["access_token"], "access_token");
      if (token.length > MAX_TOKEN_CHARS || !/^[\x21-\x7e]+$/.test(token)) {
        throw new NydusError("EUCLEAN", "Cannot get a token: what came is none", { url: shownUrl(url) });
      }
      return token;
    });
  }

  #refused(why: string): NydusError {
    return new NydusError("EACCES", `Cannot authenticate to the registry: ${why}`, { url: shownUrl(this.#registry) });
  }
}

function isLoopbackHttp(url: URL): boolean {
  return url.protocol === "http:" && isLoopback(url.host);
}
