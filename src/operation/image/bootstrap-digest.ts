import { createHash } from "node:crypto";
import { NydusError } from "../../base/errors.ts";
import type { MappedFile } from "../../os/mmap.ts";

const known = new WeakMap<MappedFile, string>();

/** SHA-256 of a mapped file's bytes, hex; reckoned once for a mapping. */
export function sha256OfMapped(file: MappedFile): string {
  const found = known.get(file) ?? createHash("sha256").update(file.bytes).digest("hex");
  known.set(file, found);
  return found;
}

/**
 * Refuses a bootstrap that is not the one that was unpacked.
 * @param sha256 of that one, hex
 * @throws EBADMSG
 */
export function verifyMapped(file: MappedFile, sha256: string): void {
  const found = sha256OfMapped(file);
  if (found === sha256) return;
  throw new NydusError("EBADMSG", `Cannot use bootstrap: it has SHA-256 ${found}, and had ${sha256} when it came`);
}
