import { lookup as resolveHost } from "node:dns";
import type { LookupFunction } from "node:net";
import type { SecureContext } from "node:tls";
import { Agent, buildConnector, type Dispatcher } from "undici/index.js";
import { NydusError } from "../../base/errors.ts";
import { isForbiddenAddress } from "./address-guard.ts";
import { BodyPipe } from "./body-pipe.ts";
import { type Env, type ProxyChooser, proxiesOf } from "./proxy.ts";
import { trustedRoots } from "./tls-roots.ts";
import { openTunnel } from "./tunnel.ts";

/** Limits of connections. */
export const CONNECTION_LIMITS = {
  perOrigin: 16,
  connectTimeoutMs: 10_000,
  /** Without a byte of a body for so long the connection counts as broken. */
  idleTimeoutMs: 30_000,
  keepAliveMs: 20_000,
} as const;

/** How connections are made. */
export interface ConnectionOptions {
  /** For proxies and certificates; the program's own unless given. */
  readonly env?: Env | undefined;
  /** Certificates in PEM, trusted besides the system's. */
  readonly caFile?: string | undefined;
  /** Finds a host's addresses; the system's way unless given. */
  readonly lookup?: typeof resolveHost | undefined;
}

/** A request on the wire. */
export interface WireRequest {
  readonly method: Dispatcher.HttpMethod;
  readonly url: URL;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: Uint8Array | AsyncIterable<Uint8Array> | undefined;
  readonly signal: AbortSignal | undefined;
  /** Another server named the address: the ones that are forbidden are not connected to. */
  readonly isGuarded: boolean;
}

/** The head of an answer, and its body. */
export interface WireAnswer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly body: BodyPipe;
}

type Connector = buildConnector.connector;

/** Pools of kept connections: direct ones, tunnels through proxies, and those that only go where another server may send us. */
export class Connections {
  readonly #proxyOf: ProxyChooser;
  readonly #roots: () => SecureContext;
  readonly #lookup: typeof resolveHost;
  readonly #open: Agent;
  readonly #guarded: Agent;
  readonly #toProxies: Agent;

  /** @throws EINVAL, ENOTSUP the environment's proxies; as `trustedRoots` for a CA file that was named */
  constructor(options: ConnectionOptions) {
    const env = options.env ?? process.env;
    this.#lookup = options.lookup ?? resolveHost;
    this.#proxyOf = proxiesOf(env);
    let roots: SecureContext | undefined;
    this.#roots = () => {
      roots ??= trustedRoots(env, options.caFile);
      return roots;
    };
    if (options.caFile !== undefined) this.#roots(); // what the user has named must be right, needed or not
    this.#open = agent(this.#connector(false));
    this.#guarded = agent(this.#connector(true));
    this.#toProxies = agent(this.#direct(false));
  }

  /** Sends a request. @returns once the answer's head is there @throws what undici has: connection and protocol errors */
  exchange(request: WireRequest): Promise<WireAnswer> {
    const { url, isGuarded } = request;
    const proxy = url.protocol === "http:" ? this.#proxyOf(url) : undefined;
    if (isGuarded) checkLiteral(url.hostname);
    if (proxy === undefined) return dispatch(isGuarded ? this.#guarded : this.#open, request, url);
    const secret = proxy.authorization === undefined ? {} : { "proxy-authorization": proxy.authorization };
    const headers = { ...request.headers, host: url.host, ...secret };
    return dispatch(this.#toProxies, { ...request, headers }, proxy.url);
  }

  #connector(isGuarded: boolean): Connector {
    const direct = this.#direct(isGuarded);
    return (target, callback) => {
      const { protocol, hostname, port } = target;
      const proxy = protocol === "https:" ? this.#proxyOf(new URL(`https://${target.host ?? hostname}`)) : undefined;
      if (proxy === undefined) {
        direct(target, callback);
        return;
      }
      const authority = `${hostname.includes(":") ? `[${hostname.replace(/[[\]]/g, "")}]` : hostname}:${port || 443}`;
      const timeoutMs = CONNECTION_LIMITS.connectTimeoutMs;
      openTunnel({ proxy, authority, roots: this.#roots, timeoutMs }).then(
        (httpSocket) => direct({ ...target, httpSocket }, callback),
        (error: Error) => callback(error, null),
      );
    };
  }

  /** Makes TLS's options when they are first needed: reading the system's certificates takes some milliseconds. */
  #direct(isGuarded: boolean): Connector {
    const options = {
      timeout: CONNECTION_LIMITS.connectTimeoutMs,
      allowH2: false,
      lookup: lookupBy(this.#lookup, isGuarded ? isForbiddenAddress : () => false),
    };
    const plain = buildConnector(options);
    let secure: Connector | undefined;
    return (target, callback) => {
      if (target.protocol !== "https:") {
        plain(target, callback);
        return;
      }
      try {
        secure ??= buildConnector({ ...options, secureContext: this.#roots() });
      } catch (error) {
        callback(error as Error, null);
        return;
      }
      secure(target, callback);
    };
  }

  /** Ends all connections; answers that are still read break. */
  async close(): Promise<void> {
    await Promise.all([this.#open, this.#guarded, this.#toProxies].map((one) => one.destroy()));
  }
}

function agent(connect: Connector): Agent {
  return new Agent({
    connections: CONNECTION_LIMITS.perOrigin,
    keepAliveTimeout: CONNECTION_LIMITS.keepAliveMs,
    headersTimeout: 0, // the deadline is the caller's
    bodyTimeout: CONNECTION_LIMITS.idleTimeoutMs,
    allowH2: false,
    connect,
  });
}

function forbidden(): NydusError {
  return new NydusError("EACCES", "Cannot connect: another server named a link-local or metadata address");
}

/** Addresses in the place of a name are not looked up. @throws EACCES */
function checkLiteral(hostname: string): void {
  if (isForbiddenAddress(hostname.replace(/^\[(.*)\]$/, "$1"))) throw forbidden();
}

/** Looks up a name for a connection: the addresses that are checked are those that are connected to. */
function lookupBy(resolve: typeof resolveHost, isForbidden: (address: string) => boolean): LookupFunction {
  return (hostname, options, callback) => {
    resolve(hostname, { ...options, all: true }, (error, addresses = []) => {
      const failure = error ?? (addresses.some(({ address }) => isForbidden(address)) ? forbidden() : null);
      const [first] = addresses;
      if (failure !== null || first === undefined) callback(failure ?? forbidden(), "", 0);
      else if (options.all === true) callback(null, addresses);
      else callback(null, first.address, first.family);
    });
  };
}

/** @param to whose connections are used: the server's own, or the proxy's that takes whole addresses */
function dispatch(to: Agent, request: WireRequest, origin: URL): Promise<WireAnswer> {
  const { url, method, headers, body, signal } = request;
  const isProxied = origin.origin !== url.origin;
  const path = `${isProxied ? url.origin : ""}${url.pathname}${url.search}`;
  return new Promise((resolve, reject) => {
    const handler = new AnswerHandler(signal, resolve, reject);
    const sent = body === undefined ? {} : { body: body as Uint8Array }; // undici takes iterables as well
    to.dispatch({ origin: origin.origin, path, method, headers, ...sent }, handler);
  });
}

class AnswerHandler implements Dispatcher.DispatchHandler {
  readonly #signal: AbortSignal | undefined;
  readonly #resolve: (answer: WireAnswer) => void;
  readonly #reject: (error: unknown) => void;
  #control: Dispatcher.DispatchController | undefined;
  #body: BodyPipe | undefined;
  readonly #onAbort = (): void => this.#control?.abort(abortReason(this.#signal));

  constructor(
    signal: AbortSignal | undefined,
    resolve: (answer: WireAnswer) => void,
    reject: (error: unknown) => void,
  ) {
    this.#signal = signal;
    this.#resolve = resolve;
    this.#reject = reject;
  }

  onRequestStart(control: Dispatcher.DispatchController): void {
    this.#control = control;
    if (this.#signal?.aborted) this.#onAbort();
    else this.#signal?.addEventListener("abort", this.#onAbort, { once: true });
  }

  onResponseStart(control: Dispatcher.DispatchController, status: number, headers: WireAnswer["headers"]): void {
    if (status < 200) return; // informational: the answer follows
    this.#body = new BodyPipe(control);
    this.#resolve({ status, headers, body: this.#body });
  }

  onResponseData(_: Dispatcher.DispatchController, piece: Uint8Array): void {
    this.#body?.push(piece);
  }

  onResponseEnd(): void {
    this.#signal?.removeEventListener("abort", this.#onAbort);
    this.#body?.end();
  }

  onResponseError(_: Dispatcher.DispatchController, error: unknown): void {
    this.#signal?.removeEventListener("abort", this.#onAbort);
    this.#body?.end(error);
    this.#reject(error);
  }
}

function abortReason(signal: AbortSignal | undefined): Error {
  return signal?.reason instanceof Error ? signal.reason : new DOMException("Interrupted", "AbortError");
}
