/**
 * Reflected 32-bit CRCs, 16 bytes a step by 16 tables; the polynomial makes the tables.
 * @see Kounavis and Berry, "A Systematic Approach to Building High Performance Software-based CRC Generators"
 */

const SLICES: usize = 16;
const TABLE_BYTES: usize = 1024;

/** What one polynomial's tables take, bytes. */
export const CRC_TABLES_BYTES: i32 = 16 * 1024;

/** Fills `tables`: table k holds, for each byte, its CRC followed by k zero bytes. */
export function fillCrcTables(tables: usize, polynomial: u32): void {
  for (let byte: u32 = 0; byte < 256; byte++) {
    let crc = byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (polynomial & (0 - (crc & 1)));
    store<u32>(tables + (<usize>byte << 2), crc);
  }
  for (let entry: usize = 0; entry < (SLICES - 1) * TABLE_BYTES; entry += 4) {
    const crc = load<u32>(tables + entry);
    store<u32>(tables + entry + TABLE_BYTES, (crc >>> 8) ^ load<u32>(tables + ((crc & 0xff) << 2)));
  }
}

/** What byte `shift / 8` of `word` adds when `zeros` bytes follow it in the step. */
// @ts-ignore: decorator
@inline
function slice(tables: usize, word: u64, shift: u64, zeros: usize): u32 {
  return load<u32>(tables + zeros * TABLE_BYTES + ((<usize>(word >> shift) & 0xff) << 2));
}

/** The eight bytes of `word`, followed by `zeros` bytes. */
// @ts-ignore: decorator
@inline
function sliceWord(tables: usize, word: u64, zeros: usize): u32 {
  return (
    slice(tables, word, 0, zeros + 7) ^
    slice(tables, word, 8, zeros + 6) ^
    slice(tables, word, 16, zeros + 5) ^
    slice(tables, word, 24, zeros + 4) ^
    slice(tables, word, 32, zeros + 3) ^
    slice(tables, word, 40, zeros + 2) ^
    slice(tables, word, 48, zeros + 1) ^
    slice(tables, word, 56, zeros)
  );
}

/** The CRC of one byte after those that gave `seed` (0 to begin). */
// @ts-ignore: decorator
@inline
export function crcByte(tables: usize, byte: u32, seed: u32): u32 {
  const crc = ~seed;
  return ~((crc >>> 8) ^ load<u32>(tables + (((crc ^ byte) & 0xff) << 2)));
}

/** The CRC of `size` bytes after those that gave `seed` (0 to begin). */
// @ts-ignore: decorator
@inline
export function crcBytes(tables: usize, src: usize, size: usize, seed: u32): u32 {
  let crc = ~seed;
  const end = src + size;
  for (; src + 16 <= end; src += 16) {
    crc = sliceWord(tables, load<u64>(src) ^ crc, 8) ^ sliceWord(tables, load<u64>(src, 8), 0);
  }
  for (; src < end; src++) {
    crc = (crc >>> 8) ^ load<u32>(tables + (((crc ^ load<u8>(src)) & 0xff) << 2));
  }
  return ~crc;
}
