/**
 * What a zstd decoder keeps between the blocks of a frame, as offsets from its `state` pointer: one-shot calls have one
 * static state, each stream its own.
 * @see https://www.rfc-editor.org/rfc/rfc8878
 */

/** Largest accuracy logs of the three FSE tables (RFC 8878, 3.1.1.3.2.1). */
export const LITERAL_LENGTH_LOG_MAX: u32 = 9;
export const OFFSET_LOG_MAX: u32 = 8;
export const MATCH_LENGTH_LOG_MAX: u32 = 9;

/** The tables that this frame brought: 8 bytes an entry for FSE (zstd-fse.ts), 2 for Huffman (zstd-huffman.ts). */
export const LITERAL_LENGTH_TABLE: usize = 0;
export const MATCH_LENGTH_TABLE: usize = 4096;
export const OFFSET_TABLE: usize = 8192;
export const HUFFMAN_TABLE: usize = 10240;

/** For each table: where the entries in force are (u32; 0: none yet) and their accuracy log (u32). */
export const LITERAL_LENGTHS: usize = 14336;
export const MATCH_LENGTHS: usize = 14344;
export const OFFSETS: usize = 14352;
/** Whether a Huffman table is there for treeless literals, u32. */
export const HUFFMAN_READY: usize = 14360;
/** The three repeat offsets, u32. */
export const REPEATS: usize = 14364;

/** Bytes that a match may reach back, u32; more than 2^32 - 1 counts as that. */
export const WINDOW_BYTES: usize = 14376;
/** Most bytes of a block, compressed or not, u32. */
export const BLOCK_MAX: usize = 14380;
/** Whether a checksum ends the frame, u32. */
export const HAS_CHECKSUM: usize = 14384;
/** Bytes of the frame's content, u64; {@link CONTENT_UNKNOWN} if the header does not say. */
export const CONTENT_BYTES: usize = 14392;
export const CONTENT_UNKNOWN: u64 = 0xffff_ffff_ffff_ffff;

export const STATE_BYTES: usize = 14400;

/** The largest block of any frame, bytes. */
export const BLOCK_LIMIT: u32 = 131072;

/** Forgets the tables of an earlier frame and sets the repeat offsets that every frame begins with. */
export function resetState(state: usize): void {
  memory.fill(state + LITERAL_LENGTHS, 0, REPEATS - LITERAL_LENGTHS);
  store<u32>(state + REPEATS, 1);
  store<u32>(state + REPEATS, 4, 4);
  store<u32>(state + REPEATS, 8, 8);
}
