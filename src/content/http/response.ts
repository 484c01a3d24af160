import { NydusError } from "../../base/errors.ts";
import type { BodyPipe } from "./body-pipe.ts";
import type { WireAnswer } from "./connections.ts";
import { redact } from "./redact.ts";
import { shownUrl } from "./url.ts";

/** An answer. Its body must be read or discarded. */
export interface HttpResponse {
  readonly status: number;
  /** Where it came from: behind redirects another one than was asked. */
  readonly url: URL;
  /** A header by its lower-case name; of several the first. */
  header(name: string): string | undefined;
  /** Every header of this name, in order. */
  headers(name: string): readonly string[];
  /** The body, once. @throws EIO when the connection breaks */
  body(): AsyncGenerator<Uint8Array>;
  /**
   * The body, once, straight into `target`.
   * @returns how many bytes came; more than `target` holds means that there are more
   * @throws EIO when the connection breaks
   */
  readInto(target: Uint8Array): Promise<number>;
  /** The whole body. @throws EUCLEAN when it has more than `limitBytes` */
  bytes(limitBytes: number): Promise<Uint8Array>;
  /** At most the first `limitBytes` of the body; the rest is discarded. */
  head(limitBytes: number): Promise<Uint8Array>;
  discard(): Promise<void>;
  /** What the server says, as it may be shown: without what it was asked with. */
  redact(text: string): string;
}

/** An answer that is not wanted is read to its end, to keep the connection, within these limits. */
const DISCARD = { bytes: 64 << 10, timeoutMs: 1_000 } as const;

/** What an answer belongs to. */
export interface AnswerContext {
  readonly url: URL;
  /** Never to be shown, longest first. */
  readonly secrets: readonly string[];
  /** Words the failure of a connection. */
  readonly failure: (error: unknown) => NydusError;
}

/** An answer as it came from a connection. */
export class Response implements HttpResponse {
  readonly status: number;
  readonly url: URL;
  readonly #headers: WireAnswer["headers"];
  readonly #body: BodyPipe;
  readonly #context: AnswerContext;
  #taken = false;

  constructor(answer: WireAnswer, context: AnswerContext) {
    this.status = answer.status;
    this.url = context.url;
    this.#headers = answer.headers;
    this.#body = answer.body;
    this.#context = context;
  }

  header(name: string): string | undefined {
    return this.headers(name)[0];
  }

  headers(name: string): readonly string[] {
    const value = this.#headers[name];
    return value === undefined ? [] : typeof value === "string" ? [value] : value;
  }

  async *body(): AsyncGenerator<Uint8Array> {
    this.#taken = true;
    try {
      for (;;) {
        const piece = await this.#body.next();
        if (piece === undefined) return;
        yield piece;
      }
    } catch (error) {
      throw this.#context.failure(error);
    } finally {
      this.#body.drop();
    }
  }

  async readInto(target: Uint8Array): Promise<number> {
    this.#taken = true;
    try {
      return await this.#body.readInto(target);
    } catch (error) {
      throw this.#context.failure(error);
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
    await this.#body.discard(DISCARD);
  }

  redact(text: string): string {
    return redact(text, this.#context.secrets);
  }
}
