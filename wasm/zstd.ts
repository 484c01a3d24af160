import { BUSY } from "./abi";

/**
 * Decodes whole zstd frames (RFC 8878) that give exactly `size` bytes; skippable frames are passed over.
 * @param src may be read up to SLACK bytes past its end
 * @param dst `size` bytes and SLACK behind them are writable
 * @returns OK or a fault
 */
export function zstdDecompress(src: usize, srcSize: usize, dst: usize, size: usize): i32 {
  return BUSY;
}
