import { NydusError } from "../../base/errors.ts";
import { type JsonObject, JsonReader } from "../../format/oci/json.ts";
import { httpFailure } from "../http/failure.ts";
import type { HttpResponse } from "../http/response.ts";
import type { HttpClient, HttpRequest } from "../http/transport.ts";
import { shownUrl } from "../http/url.ts";
import { basicAuthorization, type Credential } from "./credential.ts";
import type { Realm } from "./realm.ts";

/** What a token is asked for with. */
export interface TokenRequest {
  readonly realm: Realm;
  readonly service: string | undefined;
  /** `repository:NAME:pull`, several with spaces between; undefined where the registry names none. */
  readonly scope: string | undefined;
  readonly credential: Credential | undefined;
}

/** A bearer token, and when it ends. */
export interface Token {
  readonly value: string;
  /** Milliseconds of the clock that was given. */
  readonly expiresAt: number;
  /** From then on a new one is asked for. */
  readonly refreshAt: number;
}

const TOKEN_LIMITS = { answerBytes: 1 << 20, chars: 64 << 10 } as const;
/** Of a token that does not say how long it lives (distribution's token specification). */
const DEFAULT_LIFETIME_MS = 60_000;
/** A token is replaced so long before its end, or in the last quarter of a short life. */
const REFRESH_MARGIN_MS = 20_000;
const CLIENT_ID = "nydus";
/** Answers to a GET that mean: ask by POST. */
const WANTS_POST = [401, 405];

/**
 * Asks a token server for a token: by GET, with a user and password as Basic authorization; by POST (OAuth2) with an
 * identity token, and with a user and password where the GET is refused.
 * @param now the clock, milliseconds
 * @throws EACCES refused, or credentials that may not be sent there; EUCLEAN an answer without a token; EIO, ETIMEDOUT
 * @see distribution: docs/content/spec/auth/token.md and oauth.md
 */
export async function requestToken(http: HttpClient, request: TokenRequest, now: () => number): Promise<Token> {
  const { realm, credential } = request;
  if (credential !== undefined && !realm.isTrusted) {
    const message = `Cannot get a token: the credentials are not sent to the token realm ${realm.url.host}, which is not the registry's owner's by its name`;
    throw new NydusError("EACCES", message, { url: shownUrl(realm.url) });
  }
  const asked = now();
  if (credential?.kind === "identity") return await http.send(postRequest(request), (got) => tokenOf(got, asked));
  let failure: NydusError | undefined;
  const token = await http.send(getRequest(request), async (response) => {
    if (response.status === 200) return await tokenOf(response, asked);
    failure = await httpFailure(response, "get a token");
    if (credential?.kind === "password" && WANTS_POST.includes(response.status)) return undefined;
    throw failure;
  });
  if (token !== undefined) return token;
  return await http.send(postRequest(request), async (response) => {
    // A server that has no POST has said in its answer to the GET what is wrong.
    if ([404, 405].includes(response.status) && failure?.code === "EACCES") throw failure;
    return await tokenOf(response, asked);
  });
}

function getRequest({ realm, service, scope, credential }: TokenRequest): HttpRequest {
  const url = new URL(realm.url);
  if (service !== undefined) url.searchParams.set("service", service);
  const scopes = scope?.split(" ").filter((one) => one !== "") ?? [];
  if (scopes.length > 0) url.searchParams.delete("scope");
  for (const one of scopes) url.searchParams.append("scope", one);
  const headers = credential?.kind === "password" ? { authorization: basicAuthorization(credential) } : {};
  return { method: "GET", url, headers, followRedirects: false, isGuarded: realm.isGuarded };
}

function postRequest({ realm, service, scope, credential }: TokenRequest): HttpRequest {
  const form = new URLSearchParams({ client_id: CLIENT_ID });
  if (service !== undefined) form.set("service", service);
  if (scope !== undefined) form.set("scope", scope);
  const secrets: string[] = [];
  if (credential?.kind === "identity") {
    form.set("grant_type", "refresh_token");
    form.set("refresh_token", credential.token);
    secrets.push(credential.token);
  } else if (credential?.kind === "password") {
    form.set("grant_type", "password");
    form.set("username", credential.username);
    form.set("password", credential.password);
    secrets.push(credential.password);
  }
  const body = new TextEncoder().encode(form.toString());
  const headers = { "content-type": "application/x-www-form-urlencoded", accept: "application/json" };
  return { method: "POST", url: realm.url, headers, body, secrets, isGuarded: realm.isGuarded };
}

async function tokenOf(response: HttpResponse, asked: number): Promise<Token> {
  if (response.status !== 200) throw await httpFailure(response, "get a token");
  const answer = parseAnswer(await response.bytes(TOKEN_LIMITS.answerBytes));
  const value = answer["token"] || answer["access_token"];
  if (typeof value !== "string" || value.length > TOKEN_LIMITS.chars || !/^[\x21-\x7e]+$/.test(value)) {
    throw new NydusError("EUCLEAN", "Cannot get a token: what came is none", { url: shownUrl(response.url) });
  }
  const seconds = Number(answer["expires_in"]);
  const lifetimeMs = seconds > 0 && seconds < Number.MAX_SAFE_INTEGER ? seconds * 1000 : DEFAULT_LIFETIME_MS;
  const expiresAt = asked + lifetimeMs;
  return { value, expiresAt, refreshAt: expiresAt - Math.min(REFRESH_MARGIN_MS, lifetimeMs / 4) };
}

function parseAnswer(bytes: Uint8Array): JsonObject {
  try {
    return new JsonReader("token").parse(bytes);
  } catch (error) {
    // The cause would quote what came, a token perhaps.
    throw new NydusError("EUCLEAN", (error as NydusError).message);
  }
}
