/** Lines around a change that are shown with it. */
const CONTEXT_LINES = 3;
/** Tables of more cells are not made: what lies between the first and the last change is then one change. */
const MAX_CELLS = 4_000_000;

/** A line of both texts, of the first, or of the second. */
interface DiffLine {
  readonly sign: " " | "-" | "+";
  readonly text: string;
}

/**
 * How one text differs from another, as `diff -u` shows it; empty when it does not.
 * @param before undefined: there is no such file; so is `after`
 */
export function unifiedDiff(path: string, before: string | undefined, after: string | undefined): string {
  if (before === after) return "";
  const name = (prefix: string, text: string | undefined): string =>
    text === undefined ? "/dev/null" : `${prefix}${path}`;
  const lines = diffLines(splitLines(before ?? ""), splitLines(after ?? ""));
  return [`--- ${name("a", before)}\n`, `+++ ${name("b", after)}\n`, ...formatHunks(lines)].join("");
}

/** Each with its end, so that the last may have none. */
function splitLines(text: string): string[] {
  return text.match(/[^\n]*\n|[^\n]+$/g) ?? [];
}

function diffLines(before: readonly string[], after: readonly string[]): DiffLine[] {
  let head = 0;
  while (head < Math.min(before.length, after.length) && before[head] === after[head]) head++;
  let tail = 0;
  const most = Math.min(before.length, after.length) - head;
  while (tail < most && before[before.length - 1 - tail] === after[after.length - 1 - tail]) tail++;
  const same = (texts: readonly string[]): DiffLine[] => texts.map((text) => ({ sign: " ", text }));
  return [
    ...same(before.slice(0, head)),
    ...diffMiddle(before.slice(head, before.length - tail), after.slice(head, after.length - tail)),
    ...same(before.slice(before.length - tail)),
  ];
}

function diffMiddle(before: readonly string[], after: readonly string[]): DiffLine[] {
  const width = after.length + 1;
  const cells = (before.length + 1) * width;
  if (cells <= MAX_CELLS) return [...walkTable(before, after, commonLengths(before, after))];
  const signed = (sign: "-" | "+", texts: readonly string[]): DiffLine[] => texts.map((text) => ({ sign, text }));
  return [...signed("-", before), ...signed("+", after)];
}

/** Lengths of the longest common subsequences of all ends of two texts, in rows of `after.length + 1`. */
function commonLengths(before: readonly string[], after: readonly string[]): Uint32Array {
  const width = after.length + 1;
  const common = new Uint32Array((before.length + 1) * width);
  const at = (i: number, j: number): number => common[i * width + j] as number;
  for (let i = before.length - 1; i >= 0; i--) {
    for (let j = after.length - 1; j >= 0; j--) {
      common[i * width + j] = before[i] === after[j] ? at(i + 1, j + 1) + 1 : Math.max(at(i + 1, j), at(i, j + 1));
    }
  }
  return common;
}

function* walkTable(before: readonly string[], after: readonly string[], common: Uint32Array): Generator<DiffLine> {
  const at = (i: number, j: number): number => common[i * (after.length + 1) + j] as number;
  let [i, j] = [0, 0];
  while (i < before.length || j < after.length) {
    const [old, made] = [before[i], after[j]];
    if (old !== undefined && old === made) {
      yield { sign: " ", text: old };
      i++;
      j++;
    } else if (old !== undefined && (made === undefined || at(i + 1, j) >= at(i, j + 1))) {
      yield { sign: "-", text: old };
      i++;
    } else if (made !== undefined) {
      yield { sign: "+", text: made };
      j++;
    }
  }
}

function* formatHunks(lines: readonly DiffLine[]): Generator<string> {
  const isNear = lines.map((_, i) =>
    lines.slice(Math.max(0, i - CONTEXT_LINES), i + CONTEXT_LINES + 1).some(({ sign }) => sign !== " "),
  );
  const count = (sign: "-" | "+", upTo: readonly DiffLine[]): number =>
    upTo.filter((line) => line.sign === " " || line.sign === sign).length;
  for (let start = 0; start < lines.length; start++) {
    if (isNear[start] !== true) continue;
    let end = start;
    while (isNear[end] === true) end++;
    const hunk = lines.slice(start, end);
    const range = (sign: "-" | "+"): string => {
      const length = count(sign, hunk);
      return `${sign}${count(sign, lines.slice(0, start)) + (length === 0 ? 0 : 1)},${length}`;
    };
    yield `@@ ${range("-")} ${range("+")} @@\n`;
    for (const { sign, text } of hunk)
      yield `${sign}${text}${text.endsWith("\n") ? "" : "\n\\ No newline at end of file\n"}`;
    start = end;
  }
}
