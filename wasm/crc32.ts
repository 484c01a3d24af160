/**
 * CRC-32 (IEEE 802.3, reflected polynomial 0xedb88320).
 * @see RFC 1952 section 8
 */
import { CRC_TABLES_BYTES, crcByte, crcBytes, fillCrcTables } from "./crc-slicing";

const TABLES: usize = memory.data(CRC_TABLES_BYTES, 16);
fillCrcTables(TABLES, 0xedb88320);

/** The CRC of one byte after those that gave `seed` (0 to begin). */
export function crc32Byte(byte: u32, seed: u32): u32 {
  return crcByte(TABLES, byte, seed);
}

/** The CRC of `size` bytes after those that gave `seed` (0 to begin). */
export function crc32(src: usize, size: usize, seed: u32): u32 {
  return crcBytes(TABLES, src, size, seed);
}
