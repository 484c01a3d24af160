import { createHash, randomUUID } from "node:crypto";
import { type AddressInfo, createServer, type Server, type Socket } from "node:net";
import { createServer as createTlsServer } from "node:tls";

/** A request as the fake registry got it. */
export interface FakeRequest {
  readonly method: string;
  /** Path with query. */
  readonly path: string;
  /** Lower-case names. */
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Buffer;
}

/** An answer, or a part of one. */
export interface FakeAnswer {
  readonly status: number;
  /** An empty value takes a header away. */
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Uint8Array | string;
  /** Only so many bytes of the body are sent, though all are announced; then `end` happens. */
  readonly cutAt?: number;
  /** What follows the sent part of a cut body: connection reset, closed, or nothing ever. */
  readonly end?: "reset" | "close" | "hang";
  /** The body is sent byte by byte, one each so many milliseconds. */
  readonly dripMs?: number;
}

const PIECE_BYTES = 256 << 10;

type OnSent = (bytes: number) => void;

/** Looks at a request first; undefined leaves it to the next, and in the end to a well-behaved registry. */
export type FakeRule = (request: FakeRequest) => FakeAnswer | undefined;

/** A registry on this machine that does as it is told. It speaks HTTP/1.1 by itself, to be able to do it badly. */
export interface FakeRegistry extends AsyncDisposable {
  /** `127.0.0.1:PORT`. */
  readonly host: string;
  readonly port: number;
  readonly origin: string;
  readonly blobs: Map<string, Buffer>;
  /** By tag and by digest. */
  readonly manifests: Map<string, { readonly mediaType: string; readonly bytes: Buffer }>;
  readonly requests: FakeRequest[];
  /** Bytes of bodies that connections have taken, once all of them are closed. */
  sentBytes(): Promise<number>;
  readonly rules: FakeRule[];
}

/** A rule that answers the first `times` requests that match, and no more. */
export function times(count: number, rule: FakeRule): FakeRule {
  let left = count;
  return (request) => {
    if (left === 0) return undefined;
    const answer = rule(request);
    if (answer !== undefined) left--;
    return answer;
  };
}

/** The digest of bytes. */
export function digestOf(bytes: Uint8Array): string {
  return `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
}

/** Starts one on a free port. @param tls its key and certificate, in PEM, to speak https */
export async function startFakeRegistry(tls?: { readonly key: string; readonly cert: string }): Promise<FakeRegistry> {
  const blobs = new Map<string, Buffer>();
  const manifests = new Map<string, { mediaType: string; bytes: Buffer }>();
  const requests: FakeRequest[] = [];
  const rules: FakeRule[] = [];
  const sockets = new Set<Socket>();
  let sent = 0;
  const behave = wellBehaved(blobs, manifests);
  const onConnection = (socket: Socket): void => {
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket));
    socket.on("error", () => undefined);
    const onSent = (bytes: number): void => {
      sent += bytes;
    };
    readRequests(socket, onSent, (request) => {
      requests.push(request);
      for (const rule of rules) {
        const answer = rule(request);
        if (answer !== undefined) return answer;
      }
      return behave(request);
    });
  };
  const server: Server =
    tls === undefined ? createServer(onConnection) : createTlsServer({ key: tls.key, cert: tls.cert }, onConnection);
  server.on("tlsClientError", () => undefined);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  const host = `127.0.0.1:${port}`;
  const origin = `${tls === undefined ? "http" : "https"}://${host}`;
  const dispose = async (): Promise<void> => {
    for (const socket of sockets) socket.destroy();
    await new Promise((resolve) => server.close(resolve));
  };
  const sentBytes = async (): Promise<number> => {
    while (sockets.size > 0) await new Promise((resolve) => setTimeout(resolve, 5));
    return sent;
  };
  return { host, port, sentBytes, origin, blobs, manifests, requests, rules, [Symbol.asyncDispose]: dispose };
}

function readRequests(socket: Socket, onSent: OnSent, answer: (request: FakeRequest) => FakeAnswer): void {
  let pending = Buffer.alloc(0);
  socket.on("data", (piece: Buffer) => {
    pending = Buffer.concat([pending, piece]);
    for (let parsed = parseRequest(pending); parsed !== undefined; parsed = parseRequest(pending)) {
      pending = pending.subarray(parsed.length);
      send({ socket, onSent, request: parsed.request, answer: answer(parsed.request) });
    }
  });
}

function parseRequest(bytes: Buffer): { request: FakeRequest; length: number } | undefined {
  const headEnd = bytes.indexOf("\r\n\r\n");
  if (headEnd < 0) return undefined;
  const [line = "", ...fields] = bytes.subarray(0, headEnd).toString("latin1").split("\r\n");
  const [method = "", path = ""] = line.split(" ");
  const headers: Record<string, string> = {};
  for (const field of fields) {
    const colon = field.indexOf(":");
    headers[field.slice(0, colon).toLowerCase()] = field.slice(colon + 1).trim();
  }
  const start = headEnd + 4;
  const body = headers["transfer-encoding"] === "chunked" ? dechunk(bytes, start) : sized(bytes, start, headers);
  if (body === undefined) return undefined;
  return { request: { method, path, headers, body: body.content }, length: body.end };
}

function sized(bytes: Buffer, start: number, headers: Readonly<Record<string, string>>): Body | undefined {
  const end = start + Number(headers["content-length"] ?? 0);
  return bytes.length < end ? undefined : { content: Buffer.from(bytes.subarray(start, end)), end };
}

interface Body {
  readonly content: Buffer;
  readonly end: number;
}

function dechunk(bytes: Buffer, start: number): Body | undefined {
  const pieces: Buffer[] = [];
  for (let at = start; ; ) {
    const lineEnd = bytes.indexOf("\r\n", at);
    if (lineEnd < 0) return undefined;
    const size = Number.parseInt(bytes.subarray(at, lineEnd).toString("latin1"), 16);
    const end = lineEnd + 2 + size + 2;
    if (bytes.length < end) return undefined;
    if (size === 0) return { content: Buffer.concat(pieces), end };
    pieces.push(Buffer.from(bytes.subarray(lineEnd + 2, end - 2)));
    at = end;
  }
}

interface Sending {
  readonly socket: Socket;
  readonly onSent: OnSent;
  readonly request: FakeRequest;
  readonly answer: FakeAnswer;
}

function send({ socket, onSent, request, answer }: Sending): void {
  const body = Buffer.from(answer.body ?? "");
  const headers: Record<string, string> = { "content-length": String(body.length), ...answer.headers };
  const lines = Object.entries(headers).map(([name, value]) => (value === "" ? "" : `${name}: ${value}\r\n`));
  socket.write(`HTTP/1.1 ${answer.status} Status\r\n${lines.join("")}\r\n`);
  if (request.method === "HEAD") return;
  if (answer.dripMs !== undefined) {
    drip(socket, body, answer.dripMs);
    return;
  }
  if (answer.cutAt === undefined && answer.end === undefined) {
    sendPieces(socket, body, onSent);
    return;
  }
  socket.write(body.subarray(0, answer.cutAt ?? body.length), () => {
    // Time for the bytes to arrive: a reset takes with it what the other side has not read.
    if (answer.end === "reset") setTimeout(() => socket.resetAndDestroy(), 20);
    else if (answer.end !== "hang") socket.end();
  });
}

/** Each piece when the connection has taken the one before. */
function sendPieces(socket: Socket, body: Buffer, onSent: OnSent): void {
  const piece = body.subarray(0, PIECE_BYTES);
  socket.write(piece, (error) => {
    if (error) return;
    onSent(piece.length);
    if (body.length > piece.length) sendPieces(socket, body.subarray(piece.length), onSent);
  });
}

function drip(socket: Socket, body: Buffer, pauseMs: number): void {
  let at = 0;
  const timer = setInterval(() => socket.write(body.subarray(at, ++at)), pauseMs);
  socket.on("close", () => clearInterval(timer));
}

function wellBehaved(
  blobs: FakeRegistry["blobs"],
  manifests: FakeRegistry["manifests"],
): (request: FakeRequest) => FakeAnswer {
  return (request) => {
    const url = new URL(request.path, "http://fake");
    const [, kind, rest = ""] = /^\/v2\/.+?\/(manifests|blobs)\/(.+)$/.exec(url.pathname) ?? [];
    if (kind === "manifests") return manifestAnswer(manifests, request, rest);
    if (kind === "blobs" && rest.startsWith("uploads/")) return uploadAnswer(blobs, request, url);
    if (kind === "blobs") return blobAnswer(blobs.get(rest), request);
    return { status: 404, body: '{"errors":[{"code":"UNSUPPORTED","message":"what is this"}]}' };
  };
}

function manifestAnswer(manifests: FakeRegistry["manifests"], request: FakeRequest, key: string): FakeAnswer {
  if (request.method === "PUT") {
    const entry = { mediaType: request.headers["content-type"] ?? "", bytes: request.body };
    manifests.set(key, entry);
    manifests.set(digestOf(request.body), entry);
    return { status: 201, headers: { "docker-content-digest": digestOf(request.body) } };
  }
  const found = manifests.get(key);
  if (found === undefined) {
    return { status: 404, body: '{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}' };
  }
  const headers = { "content-type": found.mediaType, "docker-content-digest": digestOf(found.bytes) };
  return { status: 200, headers, body: found.bytes };
}

function uploadAnswer(blobs: FakeRegistry["blobs"], request: FakeRequest, url: URL): FakeAnswer {
  if (request.method === "POST") {
    return { status: 202, headers: { location: `${url.pathname}${randomUUID()}?_state=secret` } };
  }
  const digest = url.searchParams.get("digest") ?? "";
  if (digestOf(request.body) !== digest) {
    return { status: 400, body: '{"errors":[{"code":"DIGEST_INVALID","message":"it did not match"}]}' };
  }
  blobs.set(digest, request.body);
  return { status: 201, headers: { "docker-content-digest": digest } };
}

function blobAnswer(blob: Buffer | undefined, request: FakeRequest): FakeAnswer {
  if (blob === undefined) {
    return { status: 404, body: '{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown to registry"}]}' };
  }
  const match = /^bytes=(\d+)-(\d+)$/.exec(request.headers["range"] ?? "");
  if (match === null) return { status: 200, body: blob };
  const [start, end] = [Number(match[1]), Math.min(blob.length, Number(match[2]) + 1)];
  const headers = { "content-range": `bytes ${start}-${end - 1}/${blob.length}` };
  return { status: 206, headers, body: blob.subarray(start, end) };
}
