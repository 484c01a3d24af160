import { NydusError } from "../base/errors.ts";
import { printStderr } from "./output.ts";

/** Longest answer, bytes. */
const MAX_INPUT_BYTES = 64 << 10;
const ENTER = /[\r\n]/;
/** Ctrl-C and Ctrl-D. */
const ENDS = ["\u0003", "\u0004"];
const ERASE = ["\u007f", "\b"];

/** All of stdin, without the end of its last line. @throws EINVAL more than 64 KiB; ECANCELED */
export async function readStdin(signal: AbortSignal): Promise<string> {
  const pieces: Buffer[] = [];
  let total = 0;
  for await (const piece of process.stdin as AsyncIterable<Buffer>) {
    if (signal.aborted) throw signal.reason;
    total += piece.length;
    if (total > MAX_INPUT_BYTES) throw new NydusError("EINVAL", "Cannot read stdin: it is too long for a password");
    pieces.push(piece);
  }
  return Buffer.concat(pieces)
    .toString()
    .replace(/\r?\n$/, "");
}

/**
 * A line from the terminal.
 * @param isSecret shows nothing of it while it is typed
 * @throws EINVAL stdin is no terminal; ECANCELED Ctrl-C or Ctrl-D
 */
export async function askLine(question: string, isSecret: boolean): Promise<string> {
  const { stdin } = process;
  if (!stdin.isTTY) throw new NydusError("EINVAL", `Cannot ask for "${question}": stdin is no terminal`);
  printStderr(`${question}: `);
  stdin.setRawMode(true);
  stdin.setEncoding("utf8");
  try {
    return await typedLine(isSecret);
  } finally {
    stdin.setRawMode(false);
    stdin.pause();
    printStderr("\n");
  }
}

async function typedLine(isSecret: boolean): Promise<string> {
  let line = "";
  for await (const letter of typedLetters()) {
    if (ENTER.test(letter)) return line;
    if (ENDS.includes(letter)) break;
    const isErased = ERASE.includes(letter);
    line = isErased ? [...line].slice(0, -1).join("") : line + letter;
    if (!isSecret) printStderr(isErased ? "\b \b" : letter);
  }
  throw new NydusError("ECANCELED", "Interrupted");
}

async function* typedLetters(): AsyncGenerator<string> {
  for await (const typed of process.stdin.iterator({ destroyOnReturn: false })) yield* String(typed);
}
