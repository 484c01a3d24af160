import { malformedTar } from "./header.ts";

/** Longest component of a path that Linux and EROFS hold, bytes (NAME_MAX). */
export const MAX_NAME_BYTES = 255;

/** Longest path and symlink target, bytes (PATH_MAX less the NUL); bounds the depth of a path to 2,048. */
export const MAX_PATH_BYTES = 4095;

const SLASH = 0x2f;
const DOT = 0x2e;
/** A whiteout's prefix comes on top of the name that it hides. */
const WHITEOUT = [0x2e, 0x77, 0x68, 0x2e];

/**
 * A name of an archive as a path below the root, cleaned as Go's `filepath.Clean("/" + name)` does: no leading slash,
 * no empty or "." component, ".." goes up but never above the root. Bytes are kept as they are; the result is a copy.
 * @param offset of the header in the tar stream, for messages
 * @returns empty for the root itself
 * @throws EUCLEAN on a component over 255 bytes (a whiteout: on a hidden name over 255) or a path over 4,095
 */
export function cleanPath(name: Uint8Array, offset: number): Uint8Array {
  return plainPath(name) ?? joinedPath(name, offset);
}

/** What is clean but for a leading "/" or "./" and a trailing slash, as most names are; undefined else. */
function plainPath(name: Uint8Array): Uint8Array | undefined {
  const start = name[0] === SLASH ? 1 : name[0] === DOT && name[1] === SLASH ? 2 : 0;
  const end = name[name.length - 1] === SLASH ? name.length - 1 : name.length;
  if (start >= end || end - start > MAX_PATH_BYTES) return undefined;
  for (let part = start; part <= end; ) {
    if (!isNameStart(name, part, end)) return undefined;
    const slash = name.indexOf(SLASH, part);
    const partEnd = slash < 0 || slash > end ? end : slash;
    if (partEnd - part > MAX_NAME_BYTES) return undefined;
    part = partEnd + 1;
  }
  return name.slice(start, end);
}

/** Whether a component that is a name begins here; names that begin with two dots are left to {@link joinedPath}. */
function isNameStart(name: Uint8Array, at: number, end: number): boolean {
  if (name[at] !== DOT) return at < end && name[at] !== SLASH;
  return at + 1 < end && name[at + 1] !== DOT && name[at + 1] !== SLASH;
}

function joinedPath(name: Uint8Array, offset: number): Uint8Array {
  const parts = cleanParts(name);
  let length = Math.max(0, parts.length - 1);
  for (const part of parts) {
    length += part.length;
    if (part.length > MAX_NAME_BYTES && !isLongWhiteout(part)) {
      throw malformedTar(`a name has ${part.length} bytes, at most ${MAX_NAME_BYTES} wanted`, offset);
    }
  }
  if (length > MAX_PATH_BYTES)
    throw malformedTar(`a path has ${length} bytes, at most ${MAX_PATH_BYTES} wanted`, offset);
  const path = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    if (at > 0) path[at++] = SLASH;
    path.set(part, at);
    at += part.length;
  }
  return path;
}

function isLongWhiteout(part: Uint8Array): boolean {
  return part.length <= MAX_NAME_BYTES + WHITEOUT.length && WHITEOUT.every((byte, i) => part[i] === byte);
}

function cleanParts(name: Uint8Array): Uint8Array[] {
  const parts: Uint8Array[] = [];
  let start = 0;
  while (start <= name.length) {
    const slash = name.indexOf(SLASH, start);
    const end = slash < 0 ? name.length : slash;
    const part = name.subarray(start, end);
    if (isDots(part, 2)) parts.pop();
    else if (part.length > 0 && !isDots(part, 1)) parts.push(part);
    start = end + 1;
  }
  return parts;
}

function isDots(part: Uint8Array, count: number): boolean {
  return part.length === count && part.every((byte) => byte === DOT);
}
