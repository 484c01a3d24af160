import { createHash } from "node:crypto";
import { type Digest, parseDigest } from "../../base/digest.ts";
import { NydusError } from "../../base/errors.ts";
import type { Descriptor } from "../../format/oci/manifest.ts";

/** Most bytes of a manifest, an index or a config: what registries take too. */
export const SMALL_CONTENT_BYTES = 4 << 20;

/** The digest of bytes. */
export function sha256Digest(data: Uint8Array): Digest {
  const sum = newSha256();
  sum.update(data);
  return sum.digest();
}

/** A digest of bytes that come piece by piece. */
export function newSha256(): { update(data: Uint8Array): void; digest(): Digest } {
  const hash = createHash("sha256");
  return {
    update: (data) => void hash.update(data),
    digest: () => parseDigest(`sha256:${hash.digest("hex")}`),
  };
}

/**
 * The descriptor of content that is to be read whole, checked before anything is asked of it.
 * @throws EINVAL a digest that is none (it would go into a path); EUCLEAN larger than `limitBytes`
 */
export function checkSmall(descriptor: Pick<Descriptor, "digest" | "size">, limitBytes = SMALL_CONTENT_BYTES): void {
  const digest = parseDigest(descriptor.digest);
  if (descriptor.size <= limitBytes) return;
  const message = `Cannot read content: ${descriptor.size} bytes, at most ${limitBytes} wanted`;
  throw new NydusError("EUCLEAN", message, { digest });
}

/** The bytes themselves, verified. @throws EBADMSG another size or digest */
export function verifyContent(descriptor: Pick<Descriptor, "digest" | "size">, data: Uint8Array): Uint8Array {
  const { digest, size } = descriptor;
  if (data.length !== size) {
    throw new NydusError("EBADMSG", `Cannot verify content: ${data.length} bytes, ${size} wanted`, { digest });
  }
  const found = sha256Digest(data);
  if (found !== digest) throw new NydusError("EBADMSG", `Cannot verify content: its digest is ${found}`, { digest });
  return data;
}
