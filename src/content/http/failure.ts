import { type ErrorCode, NydusError } from "../../base/errors.ts";
import type { HttpResponse } from "./response.ts";
import { shownUrl } from "./url.ts";

/** Of an error answer so much is read. */
const BODY_BYTES = 64 << 10;
/** Of what a server says so much is shown. */
const SHOWN_CHARS = 300;
const MAX_ERRORS = 8;

const STATUS_CODES: Readonly<Record<number, ErrorCode>> = {
  401: "EACCES",
  403: "EACCES",
  404: "ENOENT",
  405: "ENOTSUP",
  408: "ETIMEDOUT",
  410: "ENOENT",
  416: "EUCLEAN",
  507: "ENOSPC",
};

/** Statuses that may pass when the same is asked again. */
const PASSING = [408, 425, 429, 500, 502, 503, 504];

const retryable = new WeakSet<NydusError>();

/** Marks a failure that may pass when the same is asked again. */
export function mayPass(error: NydusError): NydusError {
  retryable.add(error);
  return error;
}

/** Whether a failure was marked by {@link mayPass}. */
export function isPassing(error: unknown): error is NydusError {
  return error instanceof NydusError && retryable.has(error);
}

/**
 * The failure of an answer with a status that was not wanted; reads what the server says about it.
 * @param action what was tried: "Cannot <action>: 404 MANIFEST_UNKNOWN: …"
 */
export async function httpFailure(response: HttpResponse, action: string): Promise<NydusError> {
  const { status } = response;
  const said = await response.head(BODY_BYTES).then(
    (body) => printable(response.redact(describe(body))),
    () => "",
  );
  const message = `Cannot ${action}: the server answers ${status}${said === "" ? "" : `: ${said}`}`;
  const error = new NydusError(STATUS_CODES[status] ?? "EIO", message, { url: shownUrl(response.url) });
  return PASSING.includes(status) ? mayPass(error) : error;
}

/** What a registry's error body says (distribution-spec, Error Codes), as text that is not to be shown yet. */
function describe(body: Uint8Array): string {
  const text = new TextDecoder().decode(body);
  return errorsOf(text) ?? (text.trimStart().startsWith("<") ? "" : text);
}

function errorsOf(text: string): string | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined; // no JSON, or a cut one
  }
  const errors = (value as { errors?: unknown } | null)?.errors;
  if (!Array.isArray(errors)) return undefined;
  return errors
    .slice(0, MAX_ERRORS)
    .map((error: { code?: unknown; message?: unknown } | null) =>
      [error?.code, error?.message].filter((part) => typeof part === "string" && part !== "").join(": "),
    )
    .filter((line) => line !== "")
    .join("; ");
}

function printable(text: string): string {
  const line = text.replace(/[\p{C}\p{Z}]+/gu, " ").trim();
  return line.length > SHOWN_CHARS ? `${line.slice(0, SHOWN_CHARS)}…` : line;
}
