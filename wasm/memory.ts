/**
 * The core's linear memory. There is no garbage collector and no heap: below `__heap_base` lie static tables, above
 * them the claims of open streams, above these one arena that every call begins afresh.
 *
 *     0 ........ __heap_base ........ arenaBase ........ arenaTop ........ memory.size()
 *       tables              claims of streams   this call's bytes    high-water mark
 */

/** Memory never grows above this, bytes; the build sets the module's maximum to the same (scripts/build-wasm.ts). */
export const MEMORY_LIMIT: usize = 512 << 20;

/** Claims of streams end below this, so that a call of 256 MiB always finds room. */
const CLAIMS_LIMIT: usize = 192 << 20;

/**
 * Bytes that may be read and written past the end of every allocation: room for wild copies and vector loads.
 * Their content means nothing.
 */
export const SLACK: usize = 64;

const ALIGN_MASK: usize = 15;
const PAGE_BYTES: usize = 65536;
/** Blocks of claimed memory, free ones between them included: two for each of 8 streams, and the gaps. */
const MAX_BLOCKS: u32 = 40;

let arenaBase: usize = (__heap_base + ALIGN_MASK) & ~ALIGN_MASK;
let arenaTop: usize = arenaBase;

/** The claimed memory from `__heap_base` to `arenaBase`, block by block: address, bytes, in use (u32 each, 16 apart). */
const blocks: usize = memory.data(40 * 16, 16);
let blockCount: u32 = 0;

/** The first `size` bytes (and slack) above `top`, or 0 when the limit forbids. */
function room(top: usize, size: usize): usize {
  if (size > MEMORY_LIMIT) return 0;
  const end = ((top + size + ALIGN_MASK) & ~ALIGN_MASK) + SLACK;
  if (end > MEMORY_LIMIT) return 0;
  const have = <usize>memory.size() * PAGE_BYTES;
  if (end > have && memory.grow(<i32>((end - have + PAGE_BYTES - 1) / PAGE_BYTES)) < 0) return 0;
  return end;
}

/**
 * Bytes of this call's arena, 16-aligned, not zeroed; they live until the next call begins.
 * @returns 0 when memory is at its limit
 */
export function alloc(size: usize): usize {
  const end = room(arenaTop, size);
  if (end == 0) return 0;
  const ptr = arenaTop;
  arenaTop = end;
  return ptr;
}

/**
 * Ends a call: the next allocation starts over. What the call returned stays readable until then, which is when the
 * host lifts it.
 */
export function endCall(): void {
  arenaTop = arenaBase;
}

// @ts-ignore: decorator
@inline
function blockAt(index: u32): usize {
  return blocks + (<usize>index << 4);
}

function insertBlock(index: u32, address: usize, bytes: usize): void {
  const block = blockAt(index);
  memory.copy(block + 16, block, <usize>(blockCount - index) << 4);
  store<u32>(block, <u32>address);
  store<u32>(block, <u32>bytes, 4);
  store<u32>(block, 0, 8);
  blockCount++;
}

function removeBlock(index: u32): void {
  blockCount--;
  memory.copy(blockAt(index), blockAt(index + 1), <usize>(blockCount - index) << 4);
}

/** The smallest free block of at least `bytes`, or `blockCount`. */
function bestBlock(bytes: usize): u32 {
  let best = blockCount;
  for (let i: u32 = 0; i < blockCount; i++) {
    const block = blockAt(i);
    if (load<u32>(block, 8) != 0 || <usize>load<u32>(block, 4) < bytes) continue;
    if (best == blockCount || load<u32>(block, 4) < load<u32>(blockAt(best), 4)) best = i;
  }
  return best;
}

/** Adds a free block of `bytes` at the arena's begin. @returns whether there was room */
function growBlocks(size: usize, bytes: usize): bool {
  if (blockCount == MAX_BLOCKS || bytes > CLAIMS_LIMIT || arenaBase + bytes > CLAIMS_LIMIT) return false;
  const end = room(arenaBase, size);
  if (end == 0) return false;
  insertBlock(blockCount, arenaBase, bytes);
  arenaBase = end;
  arenaTop = end;
  return true;
}

/**
 * Claims memory that outlives calls, for one open stream. Only in a call without list arguments, or after endCall(), and
 * to be written in later calls only: this one's bytes may lie where the claim goes, and the host has not lifted them.
 * @returns 0 when the claims are at their limit, in bytes or in number
 */
export function claim(size: usize): usize {
  if (arenaTop != arenaBase || size > CLAIMS_LIMIT) return 0;
  const bytes = ((size + ALIGN_MASK) & ~ALIGN_MASK) + SLACK;
  const index = bestBlock(bytes);
  if (index == blockCount && !growBlocks(size, bytes)) return 0;
  const block = blockAt(index);
  const address = <usize>load<u32>(block);
  const rest = <usize>load<u32>(block, 4) - bytes;
  if (rest > SLACK && blockCount < MAX_BLOCKS) {
    insertBlock(index + 1, address + bytes, rest);
    store<u32>(block, <u32>bytes, 4);
  }
  store<u32>(block, 1, 8);
  return address;
}

/** Joins a free block with the one after it, if that is free too. */
function joinNext(index: u32): void {
  if (index + 1 >= blockCount) return;
  const block = blockAt(index);
  const next = blockAt(index + 1);
  if (load<u32>(block, 8) != 0 || load<u32>(next, 8) != 0) return;
  store<u32>(block, load<u32>(block, 4) + load<u32>(next, 4), 4);
  removeBlock(index + 1);
}

/** Gives back a claim, also in a call with list arguments; the last ones in memory return to the arena. */
export function release(ptr: usize): void {
  let index: u32 = 0;
  while (index < blockCount && <usize>load<u32>(blockAt(index)) != ptr) index++;
  if (index == blockCount) return;
  store<u32>(blockAt(index), 0, 8);
  joinNext(index);
  if (index > 0) joinNext(index - 1);
  const last = blockAt(blockCount - 1);
  if (load<u32>(last, 8) != 0) return;
  arenaBase = <usize>load<u32>(last);
  blockCount--;
}
