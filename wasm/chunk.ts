/** Fixed-size chunking and digests in one pass over files that lie end to end. */
import { BLAKE3 } from "./abi";
import { blake3 } from "./blake3";
import { sha256 } from "./sha256";

/** Bytes of a digest of either algorithm. */
export const DIGEST_BYTES: usize = 32;

/** How many chunks of `chunkSize` bytes the `count` files of the lengths at `extents` (u32) have. */
export function countChunks(extents: usize, count: usize, chunkSize: u32): usize {
  let chunks: usize = 0;
  if (chunkSize == 0) return 0;
  for (let i: usize = 0; i < count; i++) {
    const extent = load<u32>(extents + (i << 2));
    chunks += extent / chunkSize + u32(extent % chunkSize != 0);
  }
  return chunks;
}

/**
 * Digests each chunk; the digests go to `digests` in order.
 * @param size bytes at `data`; what extents claim beyond is not read
 */
export function digestChunks(
  algorithm: u32,
  data: usize,
  size: usize,
  extents: usize,
  count: usize,
  chunkSize: u32,
  digests: usize,
): void {
  const end = data + size;
  for (let i: usize = 0; i < count; i++) {
    let left = load<u32>(extents + (i << 2));
    while (left > 0 && chunkSize > 0) {
      const chunk = min<u32>(left, chunkSize);
      const readable = min<usize>(chunk, end - data);
      if (algorithm == BLAKE3) blake3(data, readable, digests);
      else sha256(data, readable, digests);
      digests += DIGEST_BYTES;
      data += readable;
      left -= chunk;
    }
  }
}
