/**
 * CRC-32 (IEEE 802.3, reflected polynomial 0xedb88320), 16 bytes a step by 16 tables.
 * @see RFC 1952 section 8
 */

const POLYNOMIAL: u32 = 0xedb88320;
const SLICES: usize = 16;
const TABLE_BYTES: usize = 1024;

/** Table k holds, for each byte, its CRC followed by k zero bytes. */
const TABLES: usize = memory.data(16 * 1024, 16);

for (let byte: u32 = 0; byte < 256; byte++) {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (POLYNOMIAL & (0 - (crc & 1)));
  store<u32>(TABLES + (<usize>byte << 2), crc);
}
for (let entry: usize = 0; entry < (SLICES - 1) * TABLE_BYTES; entry += 4) {
  const crc = load<u32>(TABLES + entry);
  store<u32>(TABLES + entry + TABLE_BYTES, (crc >>> 8) ^ load<u32>(TABLES + ((crc & 0xff) << 2)));
}

/** What byte `shift / 8` of `word` adds when `zeros` bytes follow it in the step. */
// @ts-ignore: decorator
@inline
function slice(word: u64, shift: u64, zeros: usize): u32 {
  return load<u32>(TABLES + zeros * TABLE_BYTES + ((<usize>(word >> shift) & 0xff) << 2));
}

/** The eight bytes of `word`, followed by `zeros` bytes. */
// @ts-ignore: decorator
@inline
function sliceWord(word: u64, zeros: usize): u32 {
  return (
    slice(word, 0, zeros + 7) ^
    slice(word, 8, zeros + 6) ^
    slice(word, 16, zeros + 5) ^
    slice(word, 24, zeros + 4) ^
    slice(word, 32, zeros + 3) ^
    slice(word, 40, zeros + 2) ^
    slice(word, 48, zeros + 1) ^
    slice(word, 56, zeros)
  );
}

/** The CRC of one byte after those that gave `seed` (0 to begin). */
export function crc32Byte(byte: u32, seed: u32): u32 {
  const crc = ~seed;
  return ~((crc >>> 8) ^ load<u32>(TABLES + (((crc ^ byte) & 0xff) << 2)));
}

/** The CRC of `size` bytes after those that gave `seed` (0 to begin). */
export function crc32(src: usize, size: usize, seed: u32): u32 {
  let crc = ~seed;
  const end = src + size;
  for (; src + 16 <= end; src += 16) {
    crc = sliceWord(load<u64>(src) ^ crc, 8) ^ sliceWord(load<u64>(src, 8), 0);
  }
  for (; src < end; src++) {
    crc = (crc >>> 8) ^ load<u32>(TABLES + (((crc ^ load<u8>(src)) & 0xff) << 2));
  }
  return ~crc;
}
