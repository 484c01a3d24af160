import { NydusError } from "../../base/errors.ts";
import type { Artifact } from "../../operation/build/artifact.ts";
import { type Parsed, textOf } from "./option.ts";

/** Most bytes of the patterns on stdin. */
const PATTERN_BYTES = 16 << 20;
const SLASH = 0x2f;

/** The file of a `--chunk-dict`: `bootstrap=PATH`, or the path alone. @throws ENOTSUP another kind */
export function dictPathOf(text: string): string {
  const equals = text.indexOf("=");
  if (equals < 0) return text;
  const kind = text.slice(0, equals);
  if (kind === "bootstrap") return text.slice(equals + 1);
  throw new NydusError("ENOTSUP", `Cannot use a chunk dictionary of kind ${JSON.stringify(kind)}: bootstrap is wanted`);
}

/** Where a bootstrap goes: to a file, or into a directory under its digest. @throws EINVAL neither is given */
export function bootstrapPlace(parsed: Parsed): Artifact {
  const path = textOf(parsed, "bootstrap");
  if (path !== undefined) return { path };
  const dir = textOf(parsed, "blob-dir");
  if (dir !== undefined) return { dir };
  throw new NydusError("EINVAL", "Cannot write bootstrap: both --bootstrap and --blob-dir are missing");
}

/** The bootstrap that a command reads: its argument, or the option that older callers use. @throws EINVAL */
export function bootstrapArgument(parsed: Parsed): string {
  const path = parsed.positionals[0] ?? textOf(parsed, "bootstrap");
  if (path === undefined) throw new NydusError("EINVAL", "Cannot open bootstrap: none is given");
  return path;
}

/**
 * The paths to prefetch: with the policy `fs` the absolute ones of the lines of stdin, each once. The policy `blob`
 * has them read, but this program writes blobs in the order of the files, so that they change nothing.
 * @throws EINVAL too many
 */
export async function prefetchPaths(parsed: Parsed): Promise<readonly Uint8Array[]> {
  const policy = textOf(parsed, "prefetch-policy") ?? "none";
  if (policy === "none") return [];
  const lines = splitLines(await readStdin());
  return policy === "fs" ? lines.filter((line) => line[0] === SLASH) : [];
}

async function readStdin(): Promise<Buffer> {
  const pieces: Buffer[] = [];
  let sizeBytes = 0;
  for await (const piece of process.stdin as AsyncIterable<Buffer>) {
    sizeBytes += piece.length;
    if (sizeBytes > PATTERN_BYTES) {
      throw new NydusError("EINVAL", `Cannot read patterns: more than ${PATTERN_BYTES} bytes of them`);
    }
    pieces.push(piece);
  }
  return Buffer.concat(pieces);
}

/** Lines without the blanks around them. Paths are raw bytes: text would lose what is no UTF-8. */
function splitLines(bytes: Buffer): Uint8Array[] {
  const text = bytes.toString("latin1");
  return text
    .split("\n")
    .map((line) => Uint8Array.from(Buffer.from(line.trim(), "latin1")))
    .filter((line) => line.length > 0);
}
