/** Blocks (RFC 8878, 3.1.1.2 and 3.1.1.3). */
import { CORRUPT, OK, TOO_LARGE } from "./abi";
import { executeSequences, literalAt, outAt, setPlaces } from "./zstd-execute";
import { RAW_BLOCK, RLE_BLOCK, blockSize, blockType, COMPRESSED_BLOCK } from "./zstd-frame";
import { literalCount, literals, literalsEnd, readLiterals } from "./zstd-literals";
import { BATCH, decodeSequences, readSequencesHeader, sequenceCount } from "./zstd-sequences";
import { BLOCK_MAX } from "./zstd-state";

/** Where the block that was decoded ends. */
export let blockEnd: usize = 0;

/** Runs all sequences of the block, a batch at a time. */
function runSequences(state: usize, literalsLimit: usize, outEnd: usize): i32 {
  for (let left = sequenceCount; left > 0; ) {
    const count = min(left, BATCH);
    left -= count;
    let status = decodeSequences(state, count, left == 0);
    if (status == OK) status = executeSequences(count, literalsLimit, outEnd);
    if (status != OK) return status;
  }
  return OK;
}

/** @returns OK, CORRUPT or TOO_LARGE as {@link executeSequences} */
function decodeCompressed(state: usize, src: usize, end: usize, out: usize, outEnd: usize): i32 {
  let status = readLiterals(state, src, end);
  if (status == OK) status = readSequencesHeader(state, literalsEnd, end);
  if (status != OK) return status;
  const literalsLimit = literals + literalCount;
  setPlaces(literals, out);
  status = runSequences(state, literalsLimit, outEnd);
  if (status != OK) return status;
  const rest = literalsLimit - literalAt;
  if (rest > outEnd - outAt) return TOO_LARGE;
  memory.copy(outAt, literalAt, rest);
  blockEnd = outAt + rest;
  return OK;
}

/** A header's reasons to refuse a block before its content is there. @returns OK or CORRUPT */
export function checkBlock(state: usize, header: u32): i32 {
  if (blockType(header) > COMPRESSED_BLOCK) return CORRUPT;
  return blockSize(header) > load<u32>(state + BLOCK_MAX) ? CORRUPT : OK;
}

/**
 * Decodes one block, of which {@link checkBlock} thinks well; matches reach what setHistory() says.
 * @param src its content, all of it
 * @param room bytes that are writable at `out`, and SLACK behind them
 * @returns OK with {@link blockEnd} set; TOO_LARGE when it needs more room; CORRUPT
 */
export function decodeBlock(state: usize, header: u32, src: usize, out: usize, room: usize): i32 {
  const type = blockType(header);
  const size = <usize>blockSize(header);
  if (type == COMPRESSED_BLOCK) {
    const blockMax = <usize>load<u32>(state + BLOCK_MAX);
    const status = decodeCompressed(state, src, src + size, out, out + min(room, blockMax));
    return status == TOO_LARGE && blockMax <= room ? CORRUPT : status;
  }
  if (size > room) return TOO_LARGE;
  if (type == RLE_BLOCK) memory.fill(out, load<u8>(src), size);
  else if (type == RAW_BLOCK) memory.copy(out, src, size);
  blockEnd = out + size;
  return OK;
}
