import { write, writeSync } from "node:fs";
import { asNydusError, formatError, type NydusError } from "../base/errors.ts";

const STDOUT = 1;
const STDERR = 2;

/** How long to wait before a pipe that is full and does not block is tried again. */
const FULL_PIPE_MS = 5;

/** Thrown when whoever reads stdout has gone: the program ends quietly, as if by SIGPIPE. */
export class OutputClosed extends Error {
  override readonly name = "OutputClosed";
}

function writeOnce(data: Uint8Array): Promise<number> {
  return new Promise((resolve, reject) => {
    write(STDOUT, data, 0, data.length, null, (error, written) => (error ? reject(error) : resolve(written)));
  });
}

/**
 * Writes everything to stdout, waiting for its reader; keeps no reference to `data`.
 * @throws OutputClosed when the reader has gone; ENOSPC, EIO
 */
export async function printBytes(data: Uint8Array): Promise<void> {
  for (let at = 0; at < data.length; ) {
    try {
      at += await writeOnce(data.subarray(at));
    } catch (error) {
      const code = (error as { code?: unknown }).code;
      if (code === "EPIPE") throw new OutputClosed("stdout is closed", { cause: error });
      if (code !== "EAGAIN") throw asNydusError(error, { path: "stdout" });
      await new Promise((resolve) => setTimeout(resolve, FULL_PIPE_MS));
    }
  }
}

/** Writes text to stdout as it is. @throws as {@link printBytes} */
export function printText(text: string): Promise<void> {
  return printBytes(new TextEncoder().encode(text));
}

/** Writes a value to stdout as indented JSON; bigints as numbers in strings. */
export function printJson(value: unknown): Promise<void> {
  return printText(`${JSON.stringify(value, (_, one) => (typeof one === "bigint" ? String(one) : one), 2)}\n`);
}

/** Columns padded to their widest cell; those that begin with ">" in `heads` are aligned to the right. */
export function formatTable(heads: readonly string[], rows: readonly (readonly string[])[]): string {
  const right = heads.map((head) => head.startsWith(">"));
  const all = [heads.map((head) => head.replace(/^>/, "")), ...rows];
  const widths = heads.map((_, column) => Math.max(...all.map((row) => (row[column] ?? "").length)));
  const cell = (text: string, column: number): string =>
    right[column] ? text.padStart(widths[column] ?? 0) : text.padEnd(widths[column] ?? 0);
  return all.map((row) => `${row.map(cell).join("  ").trimEnd()}\n`).join("");
}

/** Writes a line or more to stderr; what cannot be written is dropped. */
export function printStderr(text: string): void {
  try {
    writeSync(STDERR, text);
  } catch {
    // nobody listens: nothing is left to tell it to
  }
}

/** Prints an error: one line, or one JSON object; the stack only for those who debug. */
export function printError(error: NydusError, options: { readonly json: boolean; readonly debug: boolean }): void {
  if (options.json) {
    printStderr(`${JSON.stringify({ error: { code: error.code, message: error.message, at: error.at } })}\n`);
  } else {
    printStderr(`nydus: ${oneLine(formatError(error))}\n`);
  }
  if (options.debug) printStderr(`${stackOf(error)}\n`);
}

function oneLine(text: string): string {
  return text.replace(/\p{Cc}+/gu, " ");
}

function stackOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const cause = error.cause === undefined ? "" : `\ncaused by: ${stackOf(error.cause)}`;
  return `${error.stack ?? error.message}${cause}`;
}
