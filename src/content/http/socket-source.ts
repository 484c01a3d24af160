import { request } from "node:http";
import type { ByteRange } from "../../base/bytes.ts";
import { asNydusError, NydusError } from "../../base/errors.ts";
import { throwIfAborted } from "../store/abort.ts";
import type { ByteSource, ReadOptions } from "../store/source.ts";

interface Answer {
  readonly status: number;
  readonly lengthBytes: number;
  readonly body: Uint8Array;
}

/** How long an answer may take, ms. */
const TIMEOUT_MS = 30_000;

/**
 * A blob behind an HTTP server at a unix socket, as nydus's `http-proxy` backend has it: HEAD tells its size, GET with
 * a range gives bytes. One request at a time, since such servers read through one stream.
 */
class SocketSource implements ByteSource {
  readonly sizeBytes: number;
  readonly #socketPath: string;
  readonly #path: string;
  #last: Promise<unknown> = Promise.resolve();

  constructor(socketPath: string, path: string, sizeBytes: number) {
    this.sizeBytes = sizeBytes;
    this.#socketPath = socketPath;
    this.#path = path;
  }

  readAt(range: ByteRange, options: ReadOptions = {}): Promise<Uint8Array> {
    const reading = this.#last.then(() => this.#read(range, options));
    this.#last = reading.catch(() => undefined);
    return reading;
  }

  async #read({ start, end }: ByteRange, { signal }: ReadOptions): Promise<Uint8Array> {
    if (start === end) return new Uint8Array(0);
    throwIfAborted(signal);
    const headers = { Range: `bytes=${start}-${end - 1}` };
    const { status, body } = await ask(this.#socketPath, { method: "GET", path: this.#path, headers }, end - start);
    if ((status === 200 || status === 206) && body.length === end - start) return body;
    const found = `status ${status} and ${body.length} bytes, ${end - start} wanted`;
    throw new NydusError("EIO", `Cannot read blob: ${found}`, { path: this.#socketPath, offset: start });
  }

  async close(): Promise<void> {
    await this.#last;
  }
}

/** Opens a blob at a socket. @param id of the blob, the last part of its path @throws EIO, ENOENT */
export async function openSocketSource(socketPath: string, id: string): Promise<ByteSource> {
  const path = `/${id}`;
  const { status, lengthBytes } = await ask(socketPath, { method: "HEAD", path, headers: {} }, 0);
  if (status === 200 && lengthBytes >= 0) return new SocketSource(socketPath, path, lengthBytes);
  throw new NydusError("EIO", `Cannot open blob: status ${status} and no length`, { path: socketPath });
}

interface Question {
  readonly method: string;
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
}

function ask(socketPath: string, question: Question, limitBytes: number): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const fail = (error: unknown): void => reject(asNydusError(error, { path: socketPath }));
    const asked = request({ socketPath, ...question, timeout: TIMEOUT_MS }, (response) => {
      const pieces: Uint8Array[] = [];
      let got = 0;
      response.on("data", (piece: Uint8Array) => {
        got += piece.length;
        if (got <= limitBytes) pieces.push(piece);
        else response.destroy(new NydusError("EIO", "Cannot read blob: more bytes than were asked for"));
      });
      response.on("error", fail);
      response.on("end", () => {
        const lengthBytes = Number(response.headers["content-length"] ?? Number.NaN);
        resolve({ status: response.statusCode ?? 0, lengthBytes, body: Buffer.concat(pieces) });
      });
    });
    asked.on("timeout", () => asked.destroy(new NydusError("ETIMEDOUT", "Cannot read blob: no answer")));
    asked.on("error", fail);
    asked.end();
  });
}
