import { equalBytes } from "../base/bytes.ts";
import { NydusError } from "../base/errors.ts";
import { type Codecs, DIGEST_BYTES, type Digester } from "../format/codec/codecs.ts";
import type { DecodeFailure, DecodeUnit } from "./codec-pool.ts";

/** The bytes of one or more units, and a unit of them. */
export interface PackedUnit {
  readonly data: Uint8Array;
  readonly unit: DecodeUnit;
}

/**
 * Decompresses a unit and checks each of its chunks.
 * @param packed the result may share the memory of its data
 * @throws EUCLEAN, EBADMSG, ENOTSUP
 */
export function decodeUnit(codecs: Codecs, digester: Digester, packed: PackedUnit): Uint8Array {
  const plain = decompressUnit(codecs, packed);
  for (const chunk of packed.unit.chunks) verifyChunk(codecs, digester, { chunk, bytes: bytesOf(plain, chunk) });
  return plain;
}

/** Decompresses a unit, as {@link decodeUnit} does; nothing is verified. @throws EUCLEAN, EBADMSG, ENOTSUP */
export function decompressUnit(codecs: Codecs, { data, unit }: PackedUnit): Uint8Array {
  const packed = data.subarray(unit.offset, unit.offset + unit.sizeBytes);
  const plain = unit.compressor === "none" ? packed : codecs.decompress(unit.compressor, packed, unit.unitBytes);
  if (plain.length === unit.unitBytes) return plain;
  throw new NydusError("EUCLEAN", `Cannot decode chunk: ${plain.length} bytes stored, ${unit.unitBytes} wanted`);
}

/** The bytes of a chunk of a unit, a view. @throws EUCLEAN it ends past its unit */
export function bytesOf(plain: Uint8Array, chunk: DecodeUnit["chunks"][number]): Uint8Array {
  const bytes = plain.subarray(chunk.offsetInUnit, chunk.offsetInUnit + chunk.sizeBytes);
  if (bytes.length === chunk.sizeBytes) return bytes;
  throw new NydusError("EUCLEAN", "Cannot decode chunk: it ends past its unit");
}

function verifyChunk(
  codecs: Codecs,
  digester: Digester,
  { chunk, bytes }: { readonly chunk: DecodeUnit["chunks"][number]; readonly bytes: Uint8Array },
): void {
  if (chunk.digest !== undefined && chunk.digest.length === DIGEST_BYTES) {
    if (!equalBytes(codecs.digest(digester, bytes), chunk.digest)) throw digestDiffers(digester);
  } else if (chunk.crc32c !== undefined) {
    if (codecs.crc32c(bytes) !== chunk.crc32c) {
      throw new NydusError("EBADMSG", "Cannot verify chunk: its CRC-32C differs from the bootstrap's");
    }
  } else {
    throw new NydusError("EBADMSG", "Cannot verify chunk: the image holds neither digest nor checksum for it");
  }
}

/** Why a chunk is refused that is not what its digest says. */
export function digestDiffers(digester: Digester): NydusError {
  return new NydusError("EBADMSG", `Cannot verify chunk: its ${digester} digest differs from the bootstrap's`);
}

/** An error in a form that can be sent to another thread. */
export function decodeFailure(error: unknown): DecodeFailure {
  const code = error instanceof NydusError ? error.code : "EFAULT";
  return { code, message: error instanceof Error ? error.message : String(error) };
}
