/**
 * The canonical ABI by hand: how arguments arrive and results leave, as the WIT in core.wit asks.
 * @see https://github.com/WebAssembly/component-model/blob/main/design/mvp/CanonicalABI.md
 */
import { alloc } from "./memory";

/** A kernel's good end; every other value is a case of `fault` in core.wit, in its order. */
export const OK: i32 = -1;
export const TRUNCATED: i32 = 0;
export const CORRUPT: i32 = 1;
export const CHECKSUM: i32 = 2;
export const TOO_LARGE: i32 = 3;
export const DICTIONARY: i32 = 4;
export const WINDOW: i32 = 5;
export const BUSY: i32 = 6;

/** Cases of `stream-format` in core.wit, in its order. */
export const GZIP: u32 = 0;
export const RAW_DEFLATE: u32 = 1;
export const ZSTD: u32 = 2;

/** Cases of `digester` in core.wit, in its order. */
export const BLAKE3: u32 = 0;
export const SHA256: u32 = 1;

/** Where a result of more than one flat value is laid out for the host to lift. */
const RETURN_AREA: usize = memory.data(32, 16);

/**
 * The host's allocator for list arguments, and only for these: it never frees and never has to move.
 * Running out must trap here, as the ABI has no other way; kernels.ts refuses such calls before.
 */
export function cabi_realloc(_old: usize, _oldSize: usize, _align: usize, size: usize): usize {
  const ptr = alloc(size);
  if (ptr == 0) unreachable();
  return ptr;
}

/** Lays out `list<u8>`. */
export function list(ptr: usize, size: usize): usize {
  store<u32>(RETURN_AREA, <u32>ptr);
  store<u32>(RETURN_AREA, <u32>size, 4);
  return RETURN_AREA;
}

/** Lays out `option<u32>`: none when `value` is negative. */
export function optionU32(value: i32): usize {
  store<u8>(RETURN_AREA, <u8>(value >= 0));
  store<u32>(RETURN_AREA, <u32>value, 4);
  return RETURN_AREA;
}

/** Lays out the error case of any `result<_, fault>`. */
export function errorResult(fault: i32): usize {
  store<u8>(RETURN_AREA, 1);
  store<u8>(RETURN_AREA, <u8>fault, 4);
  return RETURN_AREA;
}

/** Lays out `result<list<u8>, fault>` by a kernel's `status`. */
export function listResult(status: i32, ptr: usize, size: usize): usize {
  if (status != OK) return errorResult(status);
  store<u8>(RETURN_AREA, 0);
  store<u32>(RETURN_AREA, <u32>ptr, 4);
  store<u32>(RETURN_AREA, <u32>size, 8);
  return RETURN_AREA;
}

/** Lays out `result<u32, fault>`: a value, or `~fault` when negative. */
export function u32Result(value: i32): usize {
  if (value < 0) return errorResult(~value);
  store<u8>(RETURN_AREA, 0);
  store<u32>(RETURN_AREA, <u32>value, 4);
  return RETURN_AREA;
}

/** Lays out the good case of `result<progress, fault>`. */
export function progressResult(ptr: usize, size: usize, consumed: usize, atBoundary: bool): usize {
  store<u8>(RETURN_AREA, 0);
  store<u32>(RETURN_AREA, <u32>ptr, 4);
  store<u32>(RETURN_AREA, <u32>size, 8);
  store<u32>(RETURN_AREA, <u32>consumed, 12);
  store<u8>(RETURN_AREA, <u8>atBoundary, 16);
  return RETURN_AREA;
}
