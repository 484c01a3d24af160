/**
 * CRC-32C (Castagnoli, reflected polynomial 0x82f63b78).
 * @see RFC 3720 section 12.1 and appendix B.4
 */
import { CRC_TABLES_BYTES, crcBytes, fillCrcTables } from "./crc-slicing";

const TABLES: usize = memory.data(CRC_TABLES_BYTES, 16);
fillCrcTables(TABLES, 0x82f63b78);

/** The CRC of `size` bytes after those that gave `seed` (0 to begin). */
export function crc32c(src: usize, size: usize, seed: u32): u32 {
  return crcBytes(TABLES, src, size, seed);
}
