import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const SCRIPT = join(dirname(fileURLToPath(import.meta.url)), "tree.py");

/** One path of a tree as `tree.py` lists it. */
export interface TreeEntry {
  readonly path: string;
  readonly type: string;
  readonly mode: string;
  readonly uid: number;
  readonly gid: number;
  /** Nanoseconds; exact, as text. */
  readonly mtime: string;
  readonly size?: number;
  readonly nlink?: number;
  readonly sha256?: string;
  readonly target?: string;
  readonly rdev?: readonly number[];
  readonly xattrs?: Readonly<Record<string, string>>;
}

/** What to leave out of a comparison: a field everywhere, or of the entries that a test picks. */
export interface DiffOptions {
  readonly ignore?: (field: keyof TreeEntry, left: TreeEntry, right: TreeEntry) => boolean;
}

/** The entries of JSON lines as `tree.py` prints them. */
export function parseTree(jsonLines: string): TreeEntry[] {
  // Nanoseconds are beyond 2^53: kept as text.
  const exact = jsonLines.replace(/"mtime": (-?\d+)/g, '"mtime": "$1"');
  return exact
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as TreeEntry);
}

/** The tree that a `.jsonl` file lists. */
export function readTree(path: string): TreeEntry[] {
  return parseTree(readFileSync(path, "utf8"));
}

/** The tree below a directory, listed by Python in a process of its own. */
export async function treeOf(dir: string): Promise<TreeEntry[]> {
  const python = Bun.spawn(["python3", SCRIPT, dir], { stdout: "pipe", stderr: "pipe" });
  const [text, complaint] = await Promise.all([new Response(python.stdout).text(), new Response(python.stderr).text()]);
  if ((await python.exited) !== 0) throw new Error(`tree.py ${dir}: ${complaint}`);
  return parseTree(text);
}

/** One line for each difference; none when the trees are equal. */
export function diffTrees(
  left: readonly TreeEntry[],
  right: readonly TreeEntry[],
  options: DiffOptions = {},
): string[] {
  const byPath = new Map(right.map((entry) => [entry.path, entry]));
  const lines = left.flatMap((entry) => {
    const other = byPath.get(entry.path);
    byPath.delete(entry.path);
    return other === undefined ? [`only left: ${entry.path}`] : diffEntries(entry, other, options);
  });
  return [...lines, ...[...byPath.keys()].map((path) => `only right: ${path}`)];
}

function diffEntries(left: TreeEntry, right: TreeEntry, options: DiffOptions): string[] {
  const fields = new Set([...Object.keys(left), ...Object.keys(right)] as (keyof TreeEntry)[]);
  return [...fields].flatMap((field) => {
    const [a, b] = [canonical(left[field]), canonical(right[field])];
    if (a === b || options.ignore?.(field, left, right)) return [];
    return [`${left.path}: ${field} ${a} / ${b}`];
  });
}

function canonical(value: TreeEntry[keyof TreeEntry]): string {
  if (value === undefined) return "nothing";
  if (typeof value !== "object" || Array.isArray(value)) return JSON.stringify(value);
  return JSON.stringify(Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1))));
}
