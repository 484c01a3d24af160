import type { ByteRange } from "../../base/bytes.ts";
import { NydusError } from "../../base/errors.ts";
import { httpFailure, mayPass } from "../http/failure.ts";
import type { HttpResponse } from "../http/transport.ts";
import { shownUrl } from "../http/url.ts";

/** A server that ignores ranges is borne with for so many bytes before the wanted ones. */
export const IGNORED_RANGE_BYTES = 8 << 20;

/** What was asked for. */
export interface AskedRange {
  readonly range: ByteRange;
  /** Of the whole blob. */
  readonly sizeBytes: number;
}

/**
 * The body of an answer to a ranged request, from the asked first byte on, after checking that it is that range.
 * @returns pieces that may go past the asked end when the server ignored the range
 * @throws EIO another status; EUCLEAN another range than asked; ENOTSUP ranges ignored too far into the blob
 */
export async function openRangedAnswer(response: HttpResponse, asked: AskedRange): Promise<AsyncGenerator<Uint8Array>> {
  const { start, end } = asked.range;
  if (response.status === 206) {
    checkContentRange(response, asked);
    return response.body();
  }
  if (response.status !== 200) throw await httpFailure(response, "read blob");
  checkLength(response, asked.sizeBytes);
  if (start > IGNORED_RANGE_BYTES && end - start < asked.sizeBytes) {
    throw wrong(response, "ENOTSUP", "the server ignores ranges: it cannot serve an image lazily");
  }
  return skipping(response.body(), start);
}

/** Reads exactly the asked bytes. @throws as {@link openRangedAnswer}; EIO a body that is cut short */
export async function readRangedAnswer(response: HttpResponse, asked: AskedRange): Promise<Uint8Array> {
  const length = asked.range.end - asked.range.start;
  const target = new Uint8Array(length);
  let at = 0;
  for await (const piece of await openRangedAnswer(response, asked)) {
    const isTooLong = at + piece.length > length;
    if (isTooLong && response.status === 206) {
      throw wrong(response, "EUCLEAN", `more than the ${length} bytes that were asked for`);
    }
    target.set(isTooLong ? piece.subarray(0, length - at) : piece, at);
    at = Math.min(length, at + piece.length);
    if (isTooLong) break;
  }
  if (at === length) return target;
  throw mayPass(wrong(response, "EIO", `${at} bytes, ${length} wanted`));
}

function checkContentRange(response: HttpResponse, { range, sizeBytes }: AskedRange): void {
  const header = response.header("content-range") ?? "none";
  const match = /^bytes (\d{1,16})-(\d{1,16})\/(\d{1,16}|\*)$/.exec(header.trim());
  const [, first, last, total] = match ?? [];
  const isAsked = Number(first) === range.start && Number(last) === range.end - 1;
  const isWhole = total === "*" || Number(total) === sizeBytes;
  if (match === null || !isAsked || !isWhole) {
    const wanted = `bytes ${range.start}-${range.end - 1}/${sizeBytes}`;
    throw wrong(response, "EUCLEAN", `Content-Range is ${JSON.stringify(header.slice(0, 80))}, "${wanted}" wanted`);
  }
  checkLength(response, range.end - range.start);
}

function checkLength(response: HttpResponse, wanted: number): void {
  const length = response.header("content-length");
  if (length === undefined || Number(length) === wanted) return;
  throw wrong(response, "EUCLEAN", `Content-Length is ${JSON.stringify(length.slice(0, 40))}, ${wanted} wanted`);
}

function wrong(response: HttpResponse, code: "EUCLEAN" | "EIO" | "ENOTSUP", found: string): NydusError {
  return new NydusError(code, `Cannot read blob: ${found}`, { url: shownUrl(response.url) });
}

async function* skipping(body: AsyncIterable<Uint8Array>, skip: number): AsyncGenerator<Uint8Array> {
  let left = skip;
  for await (const piece of body) {
    if (left < piece.length) yield left === 0 ? piece : piece.subarray(left);
    left = Math.max(0, left - piece.length);
  }
}
