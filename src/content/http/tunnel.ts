import { connect, type Socket } from "node:net";
import { connect as connectTls, type SecureContext } from "node:tls";
import { NydusError } from "../../base/errors.ts";
import { mayPass } from "./failure.ts";
import type { HttpProxy } from "./proxy.ts";

/** What a tunnel needs. */
export interface TunnelOptions {
  readonly proxy: HttpProxy;
  /** `host:port` of the other end. */
  readonly authority: string;
  /** For a proxy that is itself reached by https. */
  readonly roots: () => SecureContext;
  readonly timeoutMs: number;
}

const MAX_HEAD_BYTES = 16 << 10;
const PASSING = [502, 503, 504];

/**
 * A connection through a proxy, by CONNECT (RFC 9110, 9.3.6).
 * @throws EACCES the proxy wants other credentials; EIO, ETIMEDOUT; what the proxy says is not repeated
 */
export async function openTunnel(options: TunnelOptions): Promise<Socket> {
  const { proxy, authority, timeoutMs } = options;
  const socket = dial(options);
  try {
    const status = await answerOf(socket, request(proxy, authority), timeoutMs);
    if (status >= 200 && status < 300) return socket;
    const code = status === 407 || status === 403 ? "EACCES" : "EIO";
    const failure = failed(code, options, `the proxy answers ${status}`);
    throw PASSING.includes(status) ? mayPass(failure) : failure;
  } catch (error) {
    socket.destroy();
    if (error instanceof NydusError) throw error;
    const { code, message } = error as { readonly code?: string; readonly message?: string };
    throw mayPass(failed("EIO", options, code ?? message ?? "the connection broke", error));
  }
}

function dial({ proxy, roots }: TunnelOptions): Socket {
  const { hostname, port, protocol } = proxy.url;
  const host = hostname.replace(/^\[(.*)\]$/, "$1");
  if (protocol === "http:") return connect({ host, port: Number(port || 80) });
  return connectTls({ host, port: Number(port || 443), secureContext: roots(), ALPNProtocols: ["http/1.1"] });
}

function request({ authorization }: HttpProxy, authority: string): string {
  const secret = authorization === undefined ? "" : `Proxy-Authorization: ${authorization}\r\n`;
  return `CONNECT ${authority} HTTP/1.1\r\nHost: ${authority}\r\nUser-Agent: nydus\r\n${secret}\r\n`;
}

/** Sends the request, and gives the status of the answer; nothing that follows its head is taken from the socket. */
function answerOf(socket: Socket, text: string, timeoutMs: number): Promise<number> {
  return new Promise((resolve, reject) => {
    let head = Buffer.alloc(0);
    const timer = setTimeout(() => done(new Error(`no answer within ${timeoutMs} ms`)), timeoutMs);
    const onEnd = (): void => done(new Error("the proxy closes the connection"));
    const onData = (piece: Buffer): void => {
      head = Buffer.concat([head, piece]);
      const end = head.indexOf("\r\n\r\n");
      if (end < 0 && head.length < MAX_HEAD_BYTES) return;
      const status = /^HTTP\/1\.[01] (\d{3})/.exec(head.toString("latin1"))?.[1];
      // The other end speaks only when it is spoken to: bytes behind the head are not its.
      const isRight = status !== undefined && end >= 0 && (head.length === end + 4 || !status.startsWith("2"));
      done(isRight ? Number(status) : new Error("the proxy does not speak HTTP/1.1"));
    };
    const done = (result: number | Error): void => {
      clearTimeout(timer);
      socket.off("data", onData).off("end", onEnd).off("close", onEnd).pause();
      if (typeof result === "number") resolve(result);
      else reject(result);
    };
    // One listener stays for as long as the socket lives: an error that nobody hears would end the program.
    socket.on("error", done).on("data", onData).on("end", onEnd).on("close", onEnd);
    socket.write(text);
  });
}

function failed(code: "EACCES" | "EIO", { proxy, authority }: TunnelOptions, why: string, cause?: unknown): NydusError {
  const message = `Cannot connect to ${authority} by the proxy ${proxy.url.host}: ${why}`;
  return new NydusError(code, message, {}, cause === undefined ? {} : { cause });
}
