import { request as httpRequest } from "node:http";
import { asNydusError, NydusError } from "../../base/errors.ts";
import type { MountRecord } from "../../operation/mount/mount-record.ts";
import { API_HEADER, API_NUMBER, type DaemonStatus, errorOfBody, type MountBody, type MountInfo } from "./api.ts";
import { daemonPaths, withSocketAddress } from "./paths.ts";

/** Most bytes of an answer. */
const ANSWER_LIMIT_BYTES = 16 << 20;

/** Nobody answers at the socket, or who answers is about to end. */
export class DaemonAbsent extends NydusError {
  constructor(root: string, cause?: unknown) {
    super("ENOENT", "Cannot ask the daemon: none serves this directory", { path: root }, { cause });
  }
}

interface Call {
  readonly method: "GET" | "POST" | "DELETE";
  readonly path: string;
  readonly body?: unknown;
  readonly signal?: AbortSignal | undefined;
}

interface Answer {
  readonly status: number;
  readonly text: string;
}

/** The API of a daemon, from outside. Errors are thrown as if the daemon's work were done here. */
export class DaemonClient {
  readonly #root: string;

  /** @param root directory of all state */
  constructor(root: string) {
    this.#root = root;
  }

  /** Mounts an image. An abort ends the daemon's attempt. @throws DaemonAbsent; EBUSY it has another API; as `serveMount` */
  async mount(body: MountBody, signal?: AbortSignal): Promise<MountRecord> {
    return (await this.#json({ method: "POST", path: "/v1/mounts", body, signal })) as MountRecord;
  }

  /** Unmounts. @throws DaemonAbsent; as `umountMount` */
  async umount(mountpoint: string, lazy: boolean): Promise<void> {
    const query = new URLSearchParams({ mountpoint, lazy: String(lazy) });
    await this.#json({ method: "DELETE", path: `/v1/mounts?${query}` });
  }

  async mounts(signal?: AbortSignal): Promise<readonly MountInfo[]> {
    return (await this.#json({ method: "GET", path: "/v1/mounts", signal })) as MountInfo[];
  }

  async status(): Promise<DaemonStatus> {
    return (await this.#json({ method: "GET", path: "/v1/status" })) as DaemonStatus;
  }

  /** Tells the daemon to end; a second time takes mounts from their readers. @returns its pid */
  async stop(): Promise<number> {
    return ((await this.#json({ method: "POST", path: "/v1/stop" })) as { pid: number }).pid;
  }

  /** Has the daemon give all mounts to one that the command starts. @throws EBUSY the old one goes on, and why */
  async upgrade(command: readonly string[]): Promise<{ readonly pid: number; readonly from: number }> {
    const answer = await this.#json({ method: "POST", path: "/v1/upgrade", body: { command } });
    return answer as { pid: number; from: number };
  }

  /** Whether a daemon answers and is not about to end. */
  async isServing(): Promise<boolean> {
    try {
      return (await this.status()).state === "running";
    } catch (error) {
      if (error instanceof DaemonAbsent) return false;
      throw error;
    }
  }

  async #json(call: Call): Promise<unknown> {
    const { status, text } = await this.#send(call);
    const body = parseJson(text);
    if (status >= 200 && status < 300) return body;
    if ((body as { closing?: unknown } | undefined)?.closing === true) throw new DaemonAbsent(this.#root);
    throw errorOfBody(body);
  }

  async #send(call: Call): Promise<Answer> {
    call.signal?.throwIfAborted();
    try {
      return await withSocketAddress(daemonPaths(this.#root).socket, (address) => send(address, call));
    } catch (error) {
      if (call.signal?.aborted) throw call.signal.reason;
      const code = (error as { code?: unknown }).code;
      const isAbsent = ABSENT_CODES.includes(code as string);
      throw isAbsent ? new DaemonAbsent(this.#root, error) : asNydusError(error, { path: this.#root });
    }
  }
}

/** What connecting to a socket says that nobody listens on, and what a daemon that ends does to who waits. */
const ABSENT_CODES = ["ENOENT", "ECONNREFUSED", "FailedToOpenSocket", "ECONNRESET", "EPIPE", "ConnectionClosed"];

function send(socketPath: string, { method, path, body, signal }: Call): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const payload = body === undefined ? undefined : JSON.stringify(body);
    const headers = {
      [API_HEADER]: API_NUMBER,
      ...(payload === undefined
        ? {}
        : { "content-type": "application/json", "content-length": Buffer.byteLength(payload) }),
    };
    const request = httpRequest({ socketPath, method, path, headers, agent: false, ...(signal && { signal }) });
    request.on("error", reject);
    request.on("response", (response) => {
      const pieces: Buffer[] = [];
      let sizeBytes = 0;
      response.on("data", (piece: Buffer) => {
        sizeBytes += piece.length;
        if (sizeBytes > ANSWER_LIMIT_BYTES)
          request.destroy(new NydusError("EFAULT", "The daemon's answer is too long"));
        else pieces.push(piece);
      });
      response.on("error", reject);
      response.on("end", () => resolve({ status: response.statusCode ?? 0, text: Buffer.concat(pieces).toString() }));
    });
    request.end(payload);
  });
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
