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
const MAX_CLAIMS: i32 = 32;

let arenaBase: usize = (__heap_base + ALIGN_MASK) & ~ALIGN_MASK;
let arenaTop: usize = arenaBase;

/** Claims in the order of their addresses: begin (u32), bytes (u32), in use (u32), unused (u32). */
const claims: usize = memory.data(32 * 16, 16);
let claimCount: i32 = 0;

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

/**
 * Claims memory that outlives calls, for one open stream. Only in a call without list arguments: those would lie
 * where the claim must go.
 * @returns 0 when the claims are at their limit, in bytes or in number
 */
export function claim(size: usize): usize {
  if (arenaTop != arenaBase) return 0;
  for (let i = 0; i < claimCount; i++) {
    const entry = claims + (<usize>i << 4);
    if (load<u32>(entry, 8) == 0 && <usize>load<u32>(entry, 4) >= size) {
      store<u32>(entry, 1, 8);
      return <usize>load<u32>(entry);
    }
  }
  if (claimCount == MAX_CLAIMS) return 0;
  if (size > CLAIMS_LIMIT || arenaBase + size > CLAIMS_LIMIT) return 0;
  const end = room(arenaBase, size);
  if (end == 0) return 0;
  const ptr = arenaBase;
  const entry = claims + (<usize>claimCount << 4);
  claimCount++;
  store<u32>(entry, <u32>ptr);
  store<u32>(entry, <u32>size, 4);
  store<u32>(entry, 1, 8);
  arenaBase = end;
  arenaTop = end;
  return ptr;
}

/** Gives back a claim, also in a call with list arguments; the last ones in memory return to the arena. */
export function release(ptr: usize): void {
  for (let i = 0; i < claimCount; i++) {
    const entry = claims + (<usize>i << 4);
    if (<usize>load<u32>(entry) == ptr) store<u32>(entry, 0, 8);
  }
  while (claimCount > 0) {
    const last = claims + (<usize>(claimCount - 1) << 4);
    if (load<u32>(last, 8) != 0) return;
    arenaBase = <usize>load<u32>(last);
    claimCount--;
  }
}
