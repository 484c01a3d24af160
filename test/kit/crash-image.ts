import { createHash } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { type FakeRegistry, startFakeRegistry } from "./fake-registry.ts";
import { OciDraft } from "./oci-image.ts";
import { nydusOk } from "./program.ts";
import { Random } from "./random.ts";
import { END, header, padded } from "./tar-bytes.ts";

const LEAST_FILE_BITS = 10;
const MOST_FILE_BITS = 21;
const FILES_PER_DIR = 16;
const PROBE_BYTES = 5_000;

/** A Nydus image in a registry, and what each of its files must hold. */
export interface CrashImage extends AsyncDisposable {
  readonly registry: FakeRegistry;
  readonly reference: string;
  /** Lines `sha256 path` of the files that readers read. */
  readonly list: string;
  /** Files that nobody reads but to see whether reads work again, with their digests. */
  readonly probes: readonly { readonly path: string; readonly sha256: string }[];
}

/**
 * Makes an image of random files of all sizes from 1 KiB to 2 MiB, in two layers, and serves it.
 * @param dir an empty directory
 * @param shape bytes of all files, about; how many probes there are
 */
export async function makeCrashImage(
  dir: string,
  shape: { readonly seed: number; readonly bytes: number; readonly probes: number },
): Promise<CrashImage> {
  const random = new Random(shape.seed);
  const draft = new OciDraft(join(dir, "oci"));
  const files = planFiles(random, shape.bytes);
  const probes = Array.from({ length: shape.probes }, (_, i) => ({ path: `probe/${i}`, bytes: PROBE_BYTES }));
  const list: string[] = [];
  const probed: { path: string; sha256: string }[] = [];
  const half = files.length >> 1;
  const layers = [files.slice(0, half), [...files.slice(half), ...probes]].map((part, layer) => {
    const pieces = tarPieces(part, new Random(shape.seed + layer + 1), (path, sha256) => {
      if (path.startsWith("probe/")) probed.push({ path, sha256 });
      else list.push(`${sha256} ${path}`);
    });
    return draft.addLargeLayer(pieces);
  });
  const source = draft.name(draft.addImage(layers), "plain");
  const registry = await startFakeRegistry();
  const reference = `${registry.host}/crash:nydus`;
  try {
    await nydusOk("--root", join(dir, "convert"), "convert", source, reference);
  } catch (error) {
    await registry[Symbol.asyncDispose]();
    throw error;
  }
  const listPath = join(dir, "list");
  writeFileSync(listPath, `${list.join("\n")}\n`);
  const dispose = (): Promise<void> => Promise.resolve(registry[Symbol.asyncDispose]());
  return { registry, reference, list: listPath, probes: probed, [Symbol.asyncDispose]: dispose };
}

interface PlannedFile {
  readonly path: string;
  readonly bytes: number;
}

function planFiles(random: Random, bytes: number): PlannedFile[] {
  const files: PlannedFile[] = [];
  for (let left = bytes; left > 0; ) {
    const size = Math.floor(2 ** (LEAST_FILE_BITS + (random.below(1000) / 1000) * (MOST_FILE_BITS - LEAST_FILE_BITS)));
    files.push({ path: `d${Math.floor(files.length / FILES_PER_DIR)}/f${files.length}`, bytes: size });
    left -= size;
  }
  return files;
}

function* tarPieces(
  files: readonly PlannedFile[],
  random: Random,
  onFile: (path: string, sha256: string) => void,
): Generator<Uint8Array> {
  for (const { path, bytes } of files) {
    const content = contentOf(random, bytes);
    onFile(path, createHash("sha256").update(content).digest("hex"));
    yield header({ name: path, size: content.length });
    yield padded(content);
  }
  yield END;
}

/** Bytes that compress a little, and never to nothing: zeros would look like what is not there. */
function contentOf(random: Random, length: number): Uint8Array {
  const words = new Uint32Array(Math.ceil(length / 4));
  for (let i = 0; i < words.length; i++) words[i] = i % 3 === 0 ? 0x61626364 : random.word();
  return new Uint8Array(words.buffer, 0, length);
}
