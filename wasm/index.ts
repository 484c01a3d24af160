/**
 * The exports of core.wit, and nothing else: each takes its arguments from the arena, calls one kernel, lays out the
 * result and ends the call. `hash_digestChunks` here becomes `nydus:core/hash@1.0.0#digest-chunks` in the module
 * (scripts/build-wasm.ts renames: interface, underscore, the WIT name in camel case).
 */
import { list, listResult, errorResult, optionU32, progressResult, u32Result, OK, TOO_LARGE } from "./abi";
import { blake3 } from "./blake3";
import { DIGEST_BYTES, countChunks, digestChunks } from "./chunk";
import { crc32c } from "./crc32c";
import { inflate } from "./inflate";
import { lz4Bound, lz4Compress, lz4Decompress } from "./lz4";
import { alloc, endCall } from "./memory";
import { sha256, sha256Finish, sha256Open, sha256Peek, sha256Update } from "./sha256";
import { atBoundary, consumedBytes, pushedBytes, streamClose, streamOpen, streamPush } from "./stream";
import { xxh64 } from "./xxh64";
import { zstdDecompress } from "./zstd";

export { cabi_realloc } from "./abi";

const digest: usize = memory.data(32, 16);

export function hash_blake3(data: usize, size: usize): usize {
  blake3(data, size, digest);
  endCall();
  return list(digest, DIGEST_BYTES);
}

export function hash_sha256(data: usize, size: usize): usize {
  sha256(data, size, digest);
  endCall();
  return list(digest, DIGEST_BYTES);
}

export function hash_crc32c(data: usize, size: usize, seed: u32): u32 {
  endCall();
  return crc32c(data, size, seed);
}

export function hash_xxh64(data: usize, size: usize, seed: u64): u64 {
  endCall();
  return xxh64(data, size, seed);
}

export function hash_digestChunks(
  algorithm: u32,
  data: usize,
  size: usize,
  extents: usize,
  count: usize,
  chunkSize: u32,
): usize {
  const bytes = countChunks(extents, count, chunkSize) * DIGEST_BYTES;
  const digests = alloc(bytes);
  if (digests == 0) unreachable();
  digestChunks(algorithm, data, size, extents, count, chunkSize, digests);
  endCall();
  return list(digests, bytes);
}

export function hash_sha256Open(): usize {
  return optionU32(sha256Open());
}

export function hash_sha256Update(handle: u32, data: usize, size: usize): void {
  sha256Update(handle, data, size);
  endCall();
}

export function hash_sha256Peek(handle: u32): usize {
  sha256Peek(handle, digest);
  return list(digest, DIGEST_BYTES);
}

export function hash_sha256Finish(handle: u32): usize {
  sha256Finish(handle, digest);
  return list(digest, DIGEST_BYTES);
}

export function codec_lz4Compress(data: usize, size: usize): usize {
  const dst = alloc(lz4Bound(size));
  if (dst == 0) unreachable();
  const written = lz4Compress(data, size, dst);
  endCall();
  return list(dst, written);
}

export function codec_lz4Decompress(data: usize, dataSize: usize, size: usize): usize {
  const dst = alloc(size);
  const status = dst == 0 ? TOO_LARGE : lz4Decompress(data, dataSize, dst, size);
  endCall();
  return listResult(status, dst, size);
}

export function codec_zstdDecompress(data: usize, dataSize: usize, size: usize): usize {
  const dst = alloc(size);
  const status = dst == 0 ? TOO_LARGE : zstdDecompress(data, dataSize, dst, size);
  endCall();
  return listResult(status, dst, size);
}

export function codec_inflate(format: u32, data: usize, dataSize: usize, size: usize): usize {
  const dst = alloc(size);
  const status = dst == 0 ? TOO_LARGE : inflate(format, data, dataSize, dst, size);
  endCall();
  return listResult(status, dst, size);
}

export function codec_streamOpen(format: u32, windowLimit: u32): usize {
  return u32Result(streamOpen(format, windowLimit));
}

export function codec_streamPush(handle: u32, data: usize, dataSize: usize, limit: usize): usize {
  const dst = alloc(limit);
  const status = dst == 0 ? TOO_LARGE : streamPush(handle, data, dataSize, dst, limit);
  endCall();
  return status == OK ? progressResult(dst, pushedBytes, consumedBytes, atBoundary) : errorResult(status);
}

export function codec_streamClose(handle: u32): void {
  streamClose(handle);
  endCall();
}
