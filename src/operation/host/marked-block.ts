import { createHash } from "node:crypto";
import { NydusError } from "../../base/errors.ts";
import type { TomlStatement } from "./toml-statements.ts";

/** Lines that we have put into a text, between two comments that say so. */
export interface MarkedBlock {
  /** Of the first comment, counted from 1. */
  readonly line: number;
  /** From the first character of the first comment's line to behind the second comment, its line end not included. */
  readonly start: number;
  readonly end: number;
  /** The line that the block stands in the place of. */
  readonly replaced: string | undefined;
  /** The line before it had no end. */
  readonly isJoined: boolean;
  /** Nothing was changed between the comments. */
  readonly isIntact: boolean;
}

const BEGIN = "# >>> nydus install";
const END = "# <<< nydus install";
const REPLACED = ", in the place of: ";
const JOINED = ", behind a last line without an end";
const HINT = " (taken out by 'nydus uninstall containerd')";
const SUM_DIGITS = 12;

/** What a block is made of. */
export interface BlockDraft {
  /** Without line ends. */
  readonly lines: readonly string[];
  readonly eol: string;
  readonly replaced?: string | undefined;
  readonly isJoined?: boolean | undefined;
}

/** A block's text, without a line end behind it. */
export function formatBlock({ lines, eol, replaced, isJoined }: BlockDraft): string {
  const indent = /^[ \t]*/.exec(replaced ?? lines[0] ?? "")?.[0] ?? "";
  const about = replaced === undefined ? `${isJoined ? JOINED : ""}${HINT}` : `${REPLACED}${replaced}`;
  return [`${indent}${BEGIN}${about}`, ...lines, `${indent}${END} ${sumOf(lines)}`].join(eol);
}

/** The same whatever becomes of line ends and blanks at them. */
function sumOf(lines: readonly string[]): string {
  const text = lines.map((line) => line.trimEnd()).join("\n");
  return createHash("sha256").update(text).digest("hex").slice(0, SUM_DIGITS);
}

/**
 * The blocks of a text.
 * @param statements of the text: a comment within one of them is no comment
 * @throws EUCLEAN a block that does not end
 */
export function findBlocks(text: string, statements: readonly TomlStatement[]): MarkedBlock[] {
  const blocks: MarkedBlock[] = [];
  let open: { readonly line: number; readonly start: number; readonly about: string } | undefined;
  let lines: string[] = [];
  for (const { content, start, line } of linesOf(text)) {
    const words = content.trim();
    const isComment = words.startsWith("#") && !isWithin(start, statements);
    if (isComment && words.startsWith(BEGIN)) {
      if (open !== undefined) throw unended(open.line);
      open = { line, start, about: content.slice(content.indexOf(BEGIN) + BEGIN.length) };
      lines = [];
    } else if (isComment && words.startsWith(END) && open !== undefined) {
      const isIntact = words === `${END} ${sumOf(lines)}`;
      blocks.push({ ...parseAbout(open.about), ...open, end: start + content.length, isIntact });
      open = undefined;
    } else lines.push(content);
  }
  if (open !== undefined) throw unended(open.line);
  return blocks;
}

function parseAbout(about: string): { readonly replaced: string | undefined; readonly isJoined: boolean } {
  const replaced = about.startsWith(REPLACED) ? about.slice(REPLACED.length) : undefined;
  return { replaced, isJoined: about.startsWith(JOINED) };
}

function unended(line: number): NydusError {
  return new NydusError("EUCLEAN", `Cannot read what was installed: the block that begins in line ${line} has no end`);
}

interface Line {
  /** Without its end. */
  readonly content: string;
  readonly start: number;
  readonly line: number;
}

function* linesOf(text: string): Generator<Line> {
  let start = text.startsWith("\ufeff") ? 1 : 0;
  for (let line = 1; start < text.length; line++) {
    const newline = text.indexOf("\n", start);
    const end = newline < 0 ? text.length : newline;
    yield { content: text.slice(start, end).replace(/\r$/, ""), start, line };
    start = end + 1;
  }
}

function isWithin(offset: number, statements: readonly TomlStatement[]): boolean {
  return statements.some(({ start, end }) => start < offset && offset < end);
}

/**
 * A text without its blocks, byte for byte as it was where nothing else was changed since.
 * @throws EUCLEAN, EEXIST lines of a block were changed, or lines behind it belong to its table: naming the line
 */
export function withoutBlocks(text: string, statements: readonly TomlStatement[]): string {
  let rest = text;
  let isLastJoined = false;
  for (const block of findBlocks(text, statements).reverse()) {
    if (!block.isIntact) {
      const found = `the lines from ${block.line} on were changed since`;
      throw new NydusError(
        "EEXIST",
        `Cannot take out what was installed: ${found}; change them back, or take them out`,
      );
    }
    checkFollower(block, statements);
    rest = withoutBlock(rest, block);
    // Only while nothing else has been added behind: joined lines would be others.
    isLastJoined ||= block.isJoined && rest.length === block.start;
  }
  return isLastJoined ? rest.replace(/\r?\n$/, "") : rest;
}

/** An assignment behind a block that opens a table would move into the table before. */
function checkFollower(block: MarkedBlock, statements: readonly TomlStatement[]): void {
  const hasHeader = statements.some(({ kind, start }) => kind !== "value" && start >= block.start && start < block.end);
  const next = statements.find(({ start }) => start >= block.end);
  if (!hasHeader || next === undefined || next.kind !== "value") return;
  const where = `line ${next.line} was written into the table of the block from line ${block.line} on`;
  throw new NydusError("EEXIST", `Cannot take out what was installed: ${where}; move it first`);
}

function withoutBlock(text: string, { start, end, replaced }: MarkedBlock): string {
  if (replaced !== undefined) return text.slice(0, start) + replaced + text.slice(end);
  return text.slice(0, start) + text.slice(end).replace(/^\r?\n/, "");
}
