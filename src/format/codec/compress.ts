import { gzipSync } from "fflate";
import { NydusError } from "../../base/errors.ts";

/** gzip's levels: 0 stores, 9 searches longest. */
const GZIP_LEVEL_MAX = 9;

/** @throws EINVAL a level that gzip does not have */
export function checkGzipLevel(level: number): void {
  if (Number.isInteger(level) && level >= 0 && level <= GZIP_LEVEL_MAX) return;
  throw new NydusError("EINVAL", `Cannot compress by gzip: level ${level}, 0 to ${GZIP_LEVEL_MAX} wanted`);
}

/**
 * One gzip member with the same bytes on every machine: no name, no time.
 * @param level 0 to 9
 * @throws EINVAL another level
 */
export function gzipDeterministic(data: Uint8Array, level: number): Uint8Array {
  checkGzipLevel(level);
  return gzipSync(data, { level: level as 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9, mtime: 0 });
}

/** Decompresses one zstd frame that says how much it gives. */
export type DecompressZstdFrame = (frame: Uint8Array) => Uint8Array;

/**
 * Loads zstd-wasm: C zstd as another WASM module, for runtimes without zstd of their own. It only decodes.
 * @returns undefined where the package cannot be loaded: it has no file extensions in its imports, which only bundlers
 *   and Bun resolve
 */
export async function loadZstdWasm(): Promise<DecompressZstdFrame | undefined> {
  try {
    const { Decompressor } = await import("zstd-wasm");
    const decompressor = await new Decompressor().init();
    return (frame) => decompressor.decompress(frame);
  } catch {
    return undefined;
  }
}
