import { createHash } from "node:crypto";
import { mkdir, readdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { concatBytes, equalBytes } from "../../base/bytes.ts";
import { asNydusError } from "../../base/errors.ts";
import { replaceFile } from "../../content/store/staged-file.ts";

const SUM_BYTES = 32;
const FILE_NAME = /^([0-9a-f]{64})\.[0-9a-f]{64}\.meta$/;

/** Where kept metas are below a state directory. */
function keptDir(root: string): string {
  return join(root, "blob-metas");
}

/**
 * Metas of batched blobs that are nowhere but in the blobs: kept, so that the image can be mounted again without them.
 * A meta cannot be verified, so each is for one bootstrap with its blobs in certain places only: a registry that gives
 * wrong ones harms no image but its own.
 */
export class KeptMetas {
  readonly #root: string;
  readonly #places: string;

  /** @param places names where the blobs are */
  constructor(root: string, places: string) {
    this.#root = root;
    this.#places = places;
  }

  /** @returns undefined when there is none, or a damaged one */
  async read(id: string, bootstrap: Uint8Array): Promise<Uint8Array | undefined> {
    const file = await readFile(this.#path(id, bootstrap)).catch(() => undefined);
    if (file === undefined || file.length < SUM_BYTES) return undefined;
    const meta = file.subarray(SUM_BYTES);
    return equalBytes(sha256(meta), file.subarray(0, SUM_BYTES)) ? meta : undefined;
  }

  /** Keeps a meta, if that can be done: without it the image is mounted as well. */
  async keep(id: string, bootstrap: Uint8Array, meta: Uint8Array): Promise<void> {
    try {
      await mkdir(keptDir(this.#root), { recursive: true, mode: 0o700 });
      await replaceFile(this.#path(id, bootstrap), concatBytes([sha256(meta), meta]), 0o600);
    } catch {
      // no space, or nothing may be written
    }
  }

  #path(id: string, bootstrap: Uint8Array): string {
    const key = createHash("sha256").update(sha256(bootstrap)).update(this.#places).digest("hex");
    return join(keptDir(this.#root), `${id}.${key}.meta`);
  }
}

/** Removes the kept metas of blobs that are not needed. @throws EPERM, EIO */
export async function sweepKeptMetas(root: string, needed: ReadonlySet<string>): Promise<void> {
  const dir = keptDir(root);
  try {
    for (const name of await readdir(dir)) {
      const id = FILE_NAME.exec(name)?.[1];
      if (id !== undefined && !needed.has(id)) await rm(join(dir, name), { force: true });
    }
  } catch (error) {
    const failure = asNydusError(error, { path: dir });
    if (failure.code !== "ENOENT") throw failure;
  }
}

function sha256(bytes: Uint8Array): Uint8Array {
  return createHash("sha256").update(bytes).digest();
}
