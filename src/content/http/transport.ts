import { setTimeout as sleep } from "node:timers/promises";
import { withDeadline } from "../../base/async.ts";
import { asNydusError, NydusError } from "../../base/errors.ts";
import { orAborted, throwIfAborted } from "../store/abort.ts";
import { type ConnectionOptions, Connections } from "./connections.ts";
import { isPassing, mayPass } from "./failure.ts";
import { redact, secretsOf } from "./redact.ts";
import { type HttpResponse, Response } from "./response.ts";
import { hasUserInfo, parseUrl, shownUrl } from "./url.ts";

export type HttpMethod = "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE";

/** A body that can be sent again. */
export interface RequestBody {
  readonly sizeBytes: number;
  /** The bytes from the start; called once a try. */
  open(): AsyncIterable<Uint8Array>;
}

/** What to ask. */
export interface HttpRequest {
  readonly method: HttpMethod;
  /** http: or https:, without user info. */
  readonly url: URL;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Uint8Array | RequestBody;
  /** Whether redirects are followed; by default those of GET and HEAD. */
  readonly followRedirects?: boolean;
  /** From the first try to the end of what is read; {@link HTTP_DEFAULTS} unless given. */
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal | undefined;
  /** Whether another server named the address: link-local and metadata addresses are refused then, as behind redirects. */
  readonly isGuarded?: boolean;
  /** What of the body must not be shown when the server repeats it. */
  readonly secrets?: readonly string[];
}

/** How a client works. */
export interface HttpOptions extends ConnectionOptions {
  /** Pause before the second try; {@link HTTP_DEFAULTS} unless given. */
  readonly backoffMs?: number | undefined;
}

/** Defaults and limits. */
export const HTTP_DEFAULTS = {
  timeoutMs: 30_000,
  redirects: 5,
  tries: 5,
  /** Before the second try; twice as long before each further one. */
  backoffMs: 200,
} as const;

const REDIRECTS = [301, 302, 303, 307, 308];
/** Connection errors that asking again does not mend: no such host, and what TLS finds wrong. */
const LASTING = /^(?:ENOTFOUND|EPROTO|ERR_TLS_.*|ERR_SSL_.*|.*CERT.*|.*SELF_SIGNED.*|UNABLE_TO_.*)$/;

/** Asking again does no harm. */
const IDEMPOTENT: readonly HttpMethod[] = ["GET", "HEAD", "PUT", "DELETE"];

/**
 * The only HTTP client: pooled connections, deadlines, retries of what may be asked twice, redirects that never carry
 * credentials to another origin nor leave https.
 */
export class HttpClient implements AsyncDisposable {
  readonly #backoffMs: number;
  readonly #connections: Connections;

  /** @throws EINVAL, ENOTSUP proxies of the environment; ENOENT, EUCLEAN a CA file */
  constructor(options: HttpOptions = {}) {
    this.#backoffMs = options.backoffMs ?? HTTP_DEFAULTS.backoffMs;
    this.#connections = new Connections(options);
  }

  /**
   * Asks and reads, within one deadline. An idempotent request is asked again, with growing pauses, when the
   * connection or the reading of the answer fails in a way that may pass.
   * @param read makes the result of the answer; a failure that it marks with `mayPass` is tried again
   * @throws EIO, ETIMEDOUT, ECANCELED; what `read` throws; EACCES a redirect that must not be followed
   */
  send<T>(request: HttpRequest, read: (response: HttpResponse) => Promise<T>): Promise<T> {
    const { timeoutMs = HTTP_DEFAULTS.timeoutMs, method, url, signal } = request;
    const work = (inner: AbortSignal): Promise<T> =>
      orAborted(
        this.#retry(request, inner, async () => this.#exchange(request, inner, read)),
        inner,
      );
    return withDeadline(timeoutMs, `${method} ${shownUrl(url)}`, work, signal);
  }

  /** As {@link send}, but asks once only. */
  sendOnce<T>(request: HttpRequest, read: (response: HttpResponse) => Promise<T>): Promise<T> {
    const { timeoutMs = HTTP_DEFAULTS.timeoutMs, method, url, signal } = request;
    const work = (inner: AbortSignal): Promise<T> => orAborted(this.#exchange(request, inner, read), inner);
    return withDeadline(timeoutMs, `${method} ${shownUrl(url)}`, work, signal);
  }

  /**
   * Asks for a body to be read for as long as it takes: the deadline and the retries end with the answer's head.
   * @throws as {@link send}
   */
  open(request: HttpRequest): Promise<HttpResponse> {
    const { timeoutMs = HTTP_DEFAULTS.timeoutMs, method, url, signal } = request;
    // The deadline's signal ends with the head; the body hears of the caller's only.
    const work = (inner: AbortSignal): Promise<HttpResponse> =>
      orAborted(
        this.#retry(request, inner, () => this.#follow(request, signal)),
        inner,
      );
    return withDeadline(timeoutMs, `${method} ${shownUrl(url)}`, work, signal);
  }

  async #retry<T>(request: HttpRequest, signal: AbortSignal, attempt: () => Promise<T>): Promise<T> {
    for (let tries = 1; ; tries++) {
      throwIfAborted(signal);
      try {
        return await attempt();
      } catch (error) {
        throwIfAborted(signal);
        const again = isPassing(error) && IDEMPOTENT.includes(request.method) && tries < HTTP_DEFAULTS.tries;
        if (!again) throw error;
      }
      const pause = this.#backoffMs * 2 ** (tries - 1) * (0.75 + Math.random() / 2);
      await sleep(pause, undefined, { signal }).catch(() => undefined);
    }
  }

  async #exchange<T>(
    request: HttpRequest,
    signal: AbortSignal,
    read: (response: HttpResponse) => Promise<T>,
  ): Promise<T> {
    const response = await this.#follow(request, signal);
    try {
      return await read(response);
    } finally {
      await response.discard();
    }
  }

  async #follow(request: HttpRequest, signal: AbortSignal | undefined): Promise<HttpResponse> {
    const { method } = request;
    const follows = request.followRedirects ?? (method === "GET" || method === "HEAD");
    let [url, headers] = [request.url, { ...request.headers }];
    for (let hop = 0; ; hop++) {
      const isGuarded = request.isGuarded === true || url.origin !== request.url.origin;
      const response = await this.#ask({ ...request, url, headers, isGuarded }, signal);
      if (!follows || !REDIRECTS.includes(response.status)) return response;
      await response.discard();
      if (hop >= HTTP_DEFAULTS.redirects) {
        throw refused(request.url, `more than ${HTTP_DEFAULTS.redirects} redirects`);
      }
      const next = redirectTarget(response.header("location"), url);
      if (next.origin !== url.origin) headers = withoutCredentials(headers);
      url = next;
    }
  }

  async #ask(request: HttpRequest, signal: AbortSignal | undefined): Promise<HttpResponse> {
    const { method, url, body, isGuarded = false } = request;
    const sized: Record<string, string> = isSized(body) ? { "content-length": `${body.sizeBytes}` } : {};
    const headers = { "user-agent": "nydus", "accept-encoding": "identity", ...request.headers, ...sized };
    const secrets = [...secretsOf(headers), ...(request.secrets ?? [])];
    const failure = (error: unknown, action: string): NydusError =>
      connectionFailure(error, { signal, action, secrets, url });
    try {
      const sent = isSized(body) ? body.open() : body;
      const answer = await this.#connections.exchange({ method, url, headers, body: sent, signal, isGuarded });
      return new Response(answer, { url, secrets, failure: (error) => failure(error, "read the answer") });
    } catch (error) {
      throw failure(error, method);
    }
  }

  /** Ends connections; answers that are still read break. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#connections.close();
  }
}

function isSized(body: HttpRequest["body"]): body is RequestBody {
  return body !== undefined && !(body instanceof Uint8Array);
}

function withoutCredentials(headers: Readonly<Record<string, string>>): Record<string, string> {
  const secret = ["authorization", "cookie", "proxy-authorization"];
  return Object.fromEntries(Object.entries(headers).filter(([name]) => !secret.includes(name.toLowerCase())));
}

/** Where a redirect leads. @throws EACCES another scheme than http(s), from https to http, or with user info */
function redirectTarget(location: string | undefined, from: URL): URL {
  const to = parseUrl(location, from);
  if (to === undefined) throw refused(from, "a redirect to nowhere");
  const isSafe = to.protocol === "https:" || (to.protocol === "http:" && from.protocol === "http:");
  if (!isSafe || hasUserInfo(to)) {
    throw refused(from, `a redirect to ${to.protocol}//${to.host}${hasUserInfo(to) ? " with user info" : ""}`);
  }
  return to;
}

function refused(url: URL, found: string): NydusError {
  return new NydusError("EACCES", `Cannot follow: ${found}`, { url: shownUrl(url) });
}

interface FailureContext {
  readonly signal: AbortSignal | undefined;
  readonly action: string;
  readonly secrets: readonly string[];
  readonly url: URL;
}

function connectionFailure(error: unknown, { signal, action, secrets, url }: FailureContext): NydusError {
  const place = { url: shownUrl(url) };
  if (error instanceof NydusError) {
    const placed = error.within(place);
    return isPassing(error) ? mayPass(placed) : placed;
  }
  if (signal?.aborted) return asNydusError(signal.reason ?? error, place);
  const { message, code } = error as { readonly message?: string; readonly code?: string };
  const why = [code, message].filter((part) => part !== undefined && part !== "").join(": ");
  const failure = new NydusError("EIO", redact(`Cannot ${action}: ${why}`, secrets), place, { cause: error });
  return code !== undefined && LASTING.test(code) ? failure : mayPass(failure);
}
