import { NydusError } from "./errors.ts";

declare const digestBrand: unique symbol;

/** A verified-syntax OCI digest, `sha256:` and 64 lower-case hex digits: safe in a path and in a URL. */
export type Digest = string & { readonly [digestBrand]: true };

const SYNTAX = /^sha256:[0-9a-f]{64}$/;

/**
 * A digest from text that came from outside.
 * @throws EINVAL unless `sha256:` and 64 lower-case hex digits (image-spec, descriptor, Digests)
 */
export function parseDigest(text: string): Digest {
  if (!SYNTAX.test(text)) {
    const shown = JSON.stringify(text.length > 80 ? `${text.slice(0, 80)}…` : text);
    throw new NydusError("EINVAL", `Cannot parse digest: ${shown} is not sha256: and 64 hex digits`);
  }
  return text as Digest;
}

/** Whether text is a digest this program takes. */
export function isDigest(text: string): text is Digest {
  return SYNTAX.test(text);
}

/** The digest of 64 hex digits: the form of RAFS blob ids. @throws EINVAL as {@link parseDigest} */
export function digestOfHex(hex: string): Digest {
  return parseDigest(`sha256:${hex}`);
}

/** The digest of a finished hash. @param sum 32 bytes of SHA-256 */
export function digestOfSum(sum: Uint8Array): Digest {
  return digestOfHex(toHex(sum));
}

/** The 64 hex digits of a digest. */
export function hexOf(digest: Digest): string {
  return digest.slice("sha256:".length);
}

/** Lower-case hex of bytes. */
export function toHex(bytes: Uint8Array): string {
  let hex = "";
  for (const byte of bytes) hex += byte.toString(16).padStart(2, "0");
  return hex;
}

/** A streaming hash; `digest` ends it. */
export interface Hasher {
  update(data: Uint8Array): void;
  /** The digest of what was given so far; the hash goes on. */
  peek(): Uint8Array;
  digest(): Uint8Array;
}

/** Makes a SHA-256 hasher: native where the runtime is fast, the core when forced; handed down from floor os. */
export type MakeHasher = () => Hasher;
