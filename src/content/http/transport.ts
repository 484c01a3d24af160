import { setTimeout as sleep } from "node:timers/promises";
import { Agent, type Dispatcher, request as dispatch } from "undici/index.js";
import { withDeadline } from "../../base/async.ts";
import { asNydusError, NydusError } from "../../base/errors.ts";
import { orAborted, throwIfAborted } from "../store/abort.ts";
import { isPassing, mayPass } from "./failure.ts";
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
}

/** An answer. Its body must be read or discarded. */
export interface HttpResponse {
  readonly status: number;
  /** Where it came from: behind redirects another one than was asked. */
  readonly url: URL;
  /** A header by its lower-case name; of several the first. */
  header(name: string): string | undefined;
  /** The body, once. @throws EIO when the connection breaks */
  body(): AsyncGenerator<Uint8Array>;
  /** The whole body. @throws EUCLEAN when it has more than `limitBytes` */
  bytes(limitBytes: number): Promise<Uint8Array>;
  /** At most the first `limitBytes` of the body; the rest is discarded. */
  head(limitBytes: number): Promise<Uint8Array>;
  discard(): Promise<void>;
}

/** Defaults and limits. */
export const HTTP_DEFAULTS = {
  timeoutMs: 30_000,
  connectTimeoutMs: 10_000,
  /** Without a byte of a streamed body for so long the connection counts as broken. */
  idleTimeoutMs: 30_000,
  redirects: 5,
  tries: 5,
  /** Before the second try; twice as long before each further one. */
  backoffMs: 200,
  connections: 16,
} as const;

/** An answer that is not wanted is read to its end, to keep the connection, within these limits. */
const DISCARD_BYTES = 64 << 10;
const DISCARD_MS = 1_000;

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
  readonly #agent = new Agent({
    connections: HTTP_DEFAULTS.connections,
    keepAliveTimeout: 20_000,
    headersTimeout: 0, // the deadline is ours
    bodyTimeout: HTTP_DEFAULTS.idleTimeoutMs,
    connect: { timeout: HTTP_DEFAULTS.connectTimeoutMs },
  });

  /** @param options.backoffMs pause before the second try, when another than {@link HTTP_DEFAULTS} is wanted */
  constructor(options: { readonly backoffMs?: number } = {}) {
    this.#backoffMs = options.backoffMs ?? HTTP_DEFAULTS.backoffMs;
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
      const response = await this.#ask({ ...request, url, headers }, signal);
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
    const { method, url, body, headers = {} } = request;
    const place = { url: shownUrl(url) };
    const sent = body === undefined ? {} : bodyOptions(body, headers);
    try {
      const answer = await dispatch(url, {
        dispatcher: this.#agent,
        method,
        headers: { "user-agent": "nydus", "accept-encoding": "identity", ...headers },
        ...(signal === undefined ? {} : { signal }),
        ...sent,
      });
      return new Response(answer, url, signal);
    } catch (error) {
      throw connectionFailure(error, signal, { action: method, place });
    }
  }

  /** Ends connections; answers that are still read break. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#agent.destroy();
  }
}

function bodyOptions(body: Uint8Array | RequestBody, headers: Readonly<Record<string, string>>): object {
  if (body instanceof Uint8Array) return { body };
  return { body: body.open(), headers: { "user-agent": "nydus", ...headers, "content-length": `${body.sizeBytes}` } };
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

function connectionFailure(
  error: unknown,
  signal: AbortSignal | undefined,
  about: { readonly action: string; readonly place: { readonly url: string } },
): NydusError {
  if (error instanceof NydusError) return error;
  if (signal?.aborted) return asNydusError(signal.reason ?? error, about.place);
  const { message, code } = error as { readonly message?: string; readonly code?: string };
  const why = [code, message].filter((part) => part !== undefined && part !== "").join(": ");
  const failure = new NydusError("EIO", `Cannot ${about.action}: ${why}`, about.place, { cause: error });
  return code !== undefined && LASTING.test(code) ? failure : mayPass(failure);
}

class Response implements HttpResponse {
  readonly status: number;
  readonly url: URL;
  readonly #answer: Dispatcher.ResponseData;
  readonly #signal: AbortSignal | undefined;
  #taken = false;

  constructor(answer: Dispatcher.ResponseData, url: URL, signal: AbortSignal | undefined) {
    this.status = answer.statusCode;
    this.url = url;
    this.#answer = answer;
    this.#signal = signal;
    answer.body.on("error", () => undefined); // one who reads it hears of it
  }

  header(name: string): string | undefined {
    const value = this.#answer.headers[name];
    return Array.isArray(value) ? value[0] : value;
  }

  async *body(): AsyncGenerator<Uint8Array> {
    this.#taken = true;
    try {
      for await (const piece of this.#answer.body) yield piece as Uint8Array;
    } catch (error) {
      throw connectionFailure(error, this.#signal, { action: "read the answer", place: { url: shownUrl(this.url) } });
    } finally {
      this.#answer.body.destroy();
    }
  }

  async bytes(limitBytes: number): Promise<Uint8Array> {
    const body = await this.#collect(limitBytes + 1);
    if (body.length <= limitBytes) return body;
    const message = `Cannot read the answer: it has more than ${limitBytes} bytes`;
    throw new NydusError("EUCLEAN", message, { url: shownUrl(this.url) });
  }

  async head(limitBytes: number): Promise<Uint8Array> {
    return (await this.#collect(limitBytes)).subarray(0, limitBytes);
  }

  async #collect(enoughBytes: number): Promise<Uint8Array> {
    const pieces: Uint8Array[] = [];
    let total = 0;
    for await (const piece of this.body()) {
      pieces.push(piece);
      total += piece.length;
      if (total >= enoughBytes) break;
    }
    return new Uint8Array(Buffer.concat(pieces));
  }

  async discard(): Promise<void> {
    if (this.#taken) return;
    this.#taken = true;
    await this.#answer.body
      .dump({ limit: DISCARD_BYTES, signal: AbortSignal.timeout(DISCARD_MS) })
      .catch(() => undefined);
  }
}
