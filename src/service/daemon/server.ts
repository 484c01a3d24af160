import { chmodSync, renameSync, rmSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { asNydusError, ERROR_CODES, NydusError } from "../../base/errors.ts";
import {
  API_HEADER,
  BODY_LIMIT_BYTES,
  type ErrorBody,
  parseMountBody,
  parseUmountQuery,
  parseUpgradeBody,
} from "./api.ts";
import type { Daemon } from "./daemon.ts";
import { withSocketAddress } from "./paths.ts";

const SOCKET_MODE = 0o600;

/** What a route gets. */
interface Asked {
  readonly query: URLSearchParams;
  readonly request: IncomingMessage;
  /** Aborted when who asks has gone. */
  readonly signal: AbortSignal;
}

/** What a route gives: JSON, or text of a kind. */
type Given = { readonly json: unknown } | { readonly text: string; readonly type: string };

type Route = (daemon: Daemon, asked: Asked, control: ServerControl) => Promise<Given>;

/** What the API does to the process. */
export interface ServerControl {
  /** Ends the daemon; a second call takes mounts from their readers. */
  stop(): void;
  /** Gives all mounts to a daemon that the command starts. @returns its pid @throws EBUSY this one goes on */
  upgrade(command: readonly string[]): Promise<number>;
}

/** The whole API. */
const ROUTES: Readonly<Record<string, Route>> = {
  "POST /v1/mounts": async (daemon, { request, signal }) => {
    daemon.checkApi(headerOf(request, API_HEADER));
    return { json: await daemon.mount(parseMountBody(await readJson(request)), signal) };
  },
  "DELETE /v1/mounts": async (daemon, { query }) => {
    const { mountpoint, lazy } = parseUmountQuery(query);
    await daemon.umount(mountpoint, lazy);
    return { json: {} };
  },
  "GET /v1/mounts": async (daemon) => ({ json: daemon.mounts() }),
  "GET /v1/status": async (daemon) => ({ json: await daemon.status() }),
  "POST /v1/stop": async (_, __, control) => {
    control.stop();
    return { json: { pid: process.pid } };
  },
  "POST /v1/upgrade": async (daemon, { request }, control) => {
    daemon.checkApi(headerOf(request, API_HEADER));
    const pid = await control.upgrade(parseUpgradeBody(await readJson(request)));
    return { json: { pid, from: process.pid } };
  },
  "GET /metrics": async (daemon) => ({
    text: await daemon.metrics(),
    type: "text/plain; version=0.0.4; charset=utf-8",
  }),
};

/**
 * Serves the API on a unix socket; a socket that a dead daemon has left is replaced.
 * @param path of the socket: there is one at any time, the old one or the new one
 */
export async function listenOn(path: string, daemon: Daemon, control: ServerControl): Promise<Server> {
  const server = createServer((request, response) => {
    void answer(daemon, control, { request, response });
  });
  const staged = `${path}.new`;
  rmSync(staged, { force: true });
  await withSocketAddress(
    staged,
    (address) =>
      new Promise<void>((resolve, reject) => {
        server.once("error", reject);
        server.listen(address, () => resolve());
      }),
  );
  chmodSync(staged, SOCKET_MODE);
  renameSync(staged, path);
  return server;
}

async function answer(
  daemon: Daemon,
  control: ServerControl,
  { request, response }: { request: IncomingMessage; response: ServerResponse },
): Promise<void> {
  const gone = new AbortController();
  response.on("close", () => {
    if (!response.writableEnded) gone.abort(new NydusError("ECANCELED", "Cannot go on: who asked is gone"));
  });
  try {
    const url = new URL(request.url ?? "/", "http://daemon");
    const given = await run(daemon, control, { request, query: url.searchParams, signal: gone.signal }, url.pathname);
    if ("json" in given) send(response, 200, JSON.stringify(given.json));
    else send(response, 200, given.text, given.type);
  } catch (thrown) {
    const { code, message, at } = asNydusError(thrown);
    const body: ErrorBody = { error: { code, message, at }, ...(daemon.isClosing ? { closing: true } : {}) };
    send(response, thrown instanceof UnknownRoute ? thrown.status : ERROR_CODES[code].http, JSON.stringify(body));
  }
}

/** A path or a method that the API does not have. */
class UnknownRoute extends NydusError {
  readonly status: 404 | 405;

  constructor(name: string, status: 404 | 405) {
    super("EINVAL", `Cannot answer ${name}: the API has ${Object.keys(ROUTES).join(", ")}`);
    this.status = status;
  }
}

function run(daemon: Daemon, control: ServerControl, asked: Asked, pathname: string): Promise<Given> {
  const name = `${asked.request.method} ${pathname}`;
  if (Object.hasOwn(ROUTES, name)) return (ROUTES[name] as Route)(daemon, asked, control);
  const hasPath = Object.keys(ROUTES).some((route) => route.endsWith(` ${pathname}`));
  throw new UnknownRoute(name, hasPath ? 405 : 404);
}

function send(response: ServerResponse, status: number, text: string, type = "application/json"): void {
  // One request a connection: an idle one would keep the daemon from ending.
  response.writeHead(status, { "content-type": type, connection: "close" });
  response.end(text);
}

function headerOf(request: IncomingMessage, name: string): string | undefined {
  const value = request.headers[name];
  return typeof value === "string" ? value : undefined;
}

async function readJson(request: IncomingMessage): Promise<unknown> {
  const pieces: Buffer[] = [];
  let sizeBytes = 0;
  for await (const piece of request) {
    sizeBytes += (piece as Buffer).length;
    if (sizeBytes > BODY_LIMIT_BYTES) {
      throw new NydusError("EINVAL", `Cannot read request: its body has more than ${BODY_LIMIT_BYTES} bytes`);
    }
    pieces.push(piece as Buffer);
  }
  try {
    return JSON.parse(Buffer.concat(pieces).toString("utf8"));
  } catch (error) {
    throw new NydusError("EINVAL", "Cannot read request: its body is no JSON", {}, { cause: error });
  }
}
