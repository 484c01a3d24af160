import type { ByteRange } from "../../base/bytes.ts";
import { NydusError } from "../../base/errors.ts";
import { httpFailure, mayPass } from "../http/failure.ts";
import type { HttpResponse } from "../http/response.ts";
import { shownUrl } from "../http/url.ts";

/** A server that ignores ranges is borne with for so many bytes before the wanted ones. */
export const IGNORED_RANGE_BYTES = 8 << 20;

/** What was asked for. */
export interface AskedRange {
  readonly range: ByteRange;
  /** Of the whole blob, where it is known. */
  readonly sizeBytes: number | undefined;
}

/**
 * The body of an answer to a ranged request, from the asked first byte on, after checking that it is that range.
 * @returns pieces that may go past the asked end when the server ignored the range
 * @throws EIO another status; EUCLEAN another range than asked; ENOTSUP ranges ignored too far into the blob
 */
export async function openRangedAnswer(response: HttpResponse, asked: AskedRange): Promise<AsyncGenerator<Uint8Array>> {
  const { start, end } = asked.range;
  if (response.status === 206) {
    checkPart(response, asked);
    return response.body();
  }
  if (response.status !== 200) throw await httpFailure(response, "read blob");
  checkCoding(response);
  const { sizeBytes } = asked;
  if (sizeBytes !== undefined) checkLength(response, sizeBytes);
  if (start > IGNORED_RANGE_BYTES && end - start !== sizeBytes) {
    throw wrong(response, "ENOTSUP", "the server ignores ranges: it cannot serve an image lazily");
  }
  return skipping(response.body(), start);
}

/** Reads exactly the asked bytes. @throws as {@link openRangedAnswer}; EIO a body that is cut short */
export async function readRangedAnswer(response: HttpResponse, asked: AskedRange): Promise<Uint8Array> {
  const target = new Uint8Array(asked.range.end - asked.range.start);
  const isPart = response.status === 206;
  if (isPart) checkPart(response, asked);
  const count = isPart ? await response.readInto(target) : await fill(target, await openRangedAnswer(response, asked));
  if (isPart && count > target.length) {
    throw wrong(response, "EUCLEAN", `more than the ${target.length} bytes that were asked for`);
  }
  if (count >= target.length) return target;
  throw mayPass(wrong(response, "EIO", `${count} bytes, ${target.length} wanted`));
}

/** Takes what there is room for. @returns how many bytes came until then */
async function fill(target: Uint8Array, pieces: AsyncIterable<Uint8Array>): Promise<number> {
  let at = 0;
  for await (const piece of pieces) {
    target.set(piece.subarray(0, target.length - at), at);
    at += piece.length;
    if (at >= target.length) break;
  }
  return at;
}

/** Whether a 206 is the asked range and nothing but that. @throws EUCLEAN */
function checkPart(response: HttpResponse, asked: AskedRange): void {
  checkCoding(response);
  const type = response.header("content-type") ?? "";
  if (/^\s*multipart\//i.test(type)) throw wrong(response, "EUCLEAN", "several parts, one range wanted");
  checkContentRange(response, asked);
}

/** Bytes in another coding than their own are not the blob's, whatever their number. @throws EUCLEAN */
function checkCoding(response: HttpResponse): void {
  const coding = response.header("content-encoding") ?? "";
  if (/^\s*(?:identity)?\s*$/i.test(coding)) return;
  throw wrong(response, "EUCLEAN", `Content-Encoding is ${JSON.stringify(coding.slice(0, 40))}, none wanted`);
}

function checkContentRange(response: HttpResponse, { range, sizeBytes }: AskedRange): void {
  const header = response.header("content-range") ?? "none";
  const match = /^bytes (\d{1,16})-(\d{1,16})\/(\d{1,16}|\*)$/.exec(header.trim());
  const [, first, last, total] = match ?? [];
  const isAsked = Number(first) === range.start && Number(last) === range.end - 1;
  const isWhole = total === "*" || (sizeBytes === undefined ? Number(total) >= range.end : Number(total) === sizeBytes);
  if (match === null || !isAsked || !isWhole) {
    const wanted = `bytes ${range.start}-${range.end - 1}/${sizeBytes ?? "*"}`;
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
