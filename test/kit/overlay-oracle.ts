import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { concatBytes } from "../../src/base/bytes.ts";
import { readTar, type TarEntry } from "../../src/format/tar/reader.ts";
import { LayerTree } from "../../src/format/tree/build.ts";
import type { ChunkRecord, TreeNode } from "../../src/format/tree/node.ts";
import { mergeLayers } from "../../src/format/tree/overlay.ts";
import { type LayerStack, makeLayerStack } from "./layer-stack.ts";
import { type ListedNode, listNodes } from "./list-nodes.ts";
import { diffTrees } from "./tree.ts";

const SCRIPT = join(dirname(fileURLToPath(import.meta.url)), "..", "oracle", "overlay.py");
const SHA256_OF_NOTHING = createHash("sha256").digest("hex");
/** Stacks that one process of the oracle takes. */
const BATCH = 250;

/** Why the kernel's overlayfs cannot be asked here, or undefined when it can. */
export function overlayMissing(): string | undefined {
  if (process.getuid?.() !== 0) return "needs root";
  const dir = mkdtempSync(join(tmpdir(), "nydus-overlay-probe-"));
  try {
    const run = Bun.spawnSync(["unshare", "-m", "python3", SCRIPT, dir], { stderr: "pipe" });
    return run.exitCode === 0 ? undefined : `unshare, python3 or tmpfs failed: ${run.stderr.toString().slice(-200)}`;
  } catch (error) {
    return String(error);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

/** The tree of one layer's tar; a file's content stands in its only chunk's digest as SHA-256. */
export async function layerTreeOf(tar: AsyncIterable<Uint8Array>): Promise<TreeNode> {
  const tree = new LayerTree();
  for await (const entry of readTar(tar)) {
    const chunks = entry.type === "file" && entry.sizeBytes > 0 ? [await hashedChunk(entry)] : [];
    tree.add(entry, chunks);
  }
  return tree.root;
}

async function hashedChunk(entry: TarEntry): Promise<ChunkRecord> {
  const hash = createHash("sha256");
  for await (const piece of entry.content) hash.update(piece);
  return {
    blob: 0,
    index: 0,
    digest: Uint8Array.from(hash.digest()),
    compressed: false,
    blobOffset: 0,
    blobSizeBytes: entry.sizeBytes,
    deviceOffset: 0,
    sizeBytes: entry.sizeBytes,
  };
}

/** The SHA-256 that {@link layerTreeOf} left in a file's chunk. */
export function contentHash(node: TreeNode): string {
  const digest = node.chunks[0]?.digest;
  return digest === undefined ? SHA256_OF_NOTHING : Buffer.from(digest).toString("hex");
}

/** Bytes as a stream, cut into pieces of `pieceBytes`. */
export async function* streamOf(bytes: Uint8Array, pieceBytes = bytes.length): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += pieceBytes) yield bytes.subarray(at, at + pieceBytes);
}

/** What this program makes of a stack. */
export async function mergedListing(stack: LayerStack): Promise<ListedNode[]> {
  const layers: TreeNode[] = [];
  for (const tar of stack.layers) layers.push(await layerTreeOf(streamOf(tar)));
  return listNodes(mergeLayers(layers), { sha256: contentHash, groups: true });
}

/**
 * Compares stacks of the seeds from `first` on with what the kernel's overlayfs shows of them.
 * @returns one line for each difference, with its seed
 */
export async function compareWithOverlayfs(first: number, count: number): Promise<string[]> {
  const differences: string[] = [];
  for (let seed = first; seed < first + count; seed += BATCH) {
    const stacks: LayerStack[] = [];
    for (let i = seed; i < Math.min(seed + BATCH, first + count); i++) stacks.push(await makeLayerStack(i));
    differences.push(...(await compareBatch(stacks)));
  }
  return differences;
}

async function compareBatch(stacks: readonly LayerStack[]): Promise<string[]> {
  const dir = mkdtempSync(join(tmpdir(), "nydus-overlay-"));
  try {
    for (const { seed, layers } of stacks) {
      mkdirSync(join(dir, String(seed)));
      for (const [i, tar] of layers.entries()) writeFileSync(join(dir, String(seed), `${i}.tar`), tar);
    }
    const oracle = Bun.spawn(["unshare", "-m", "python3", SCRIPT, dir], { stdout: "pipe", stderr: "pipe" });
    const [text, complaint] = await Promise.all([
      new Response(oracle.stdout).text(),
      new Response(oracle.stderr).text(),
    ]);
    if ((await oracle.exited) !== 0) throw new Error(`overlay.py: ${complaint}`);
    const shown = text
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as { stack: number; entries: ListedNode[] });
    const bySeed = new Map(shown.map(({ stack, entries }) => [stack, entries]));
    const differences: string[] = [];
    for (const stack of stacks) {
      const ours = await mergedListing(stack);
      const lines = diffTrees(ours, bySeed.get(stack.seed) ?? []);
      differences.push(...lines.map((line) => `seed ${stack.seed}: ${concise(line)}`));
    }
    return differences;
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

function concise(line: string): string {
  return line.length > 400 ? `${line.slice(0, 400)}…` : line;
}

/** All of a stream. */
export async function collect(stream: AsyncIterable<Uint8Array>): Promise<Uint8Array> {
  const pieces: Uint8Array[] = [];
  for await (const piece of stream) pieces.push(piece.slice());
  return concatBytes(pieces);
}
