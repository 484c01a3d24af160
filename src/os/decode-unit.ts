import { equalBytes } from "../base/bytes.ts";
import { NydusError } from "../base/errors.ts";
import { type Codecs, DIGEST_BYTES, type Digester } from "../format/codec/codecs.ts";
import type { DecodeFailure, DecodeUnit } from "./codec-pool.ts";

/**
 * Decompresses a unit and checks each of its chunks.
 * @param data holds the unit's bytes; the result may share its memory
 * @throws EUCLEAN, EBADMSG, ENOTSUP
 */
export function decodeUnit(
  codecs: Codecs,
  digester: Digester,
  { data, unit }: { readonly data: Uint8Array; readonly unit: DecodeUnit },
): Uint8Array {
  const packed = data.subarray(unit.offset, unit.offset + unit.sizeBytes);
  const plain = unit.compressor === "none" ? packed : codecs.decompress(unit.compressor, packed, unit.unitBytes);
  if (plain.length !== unit.unitBytes) {
    throw new NydusError("EUCLEAN", `Cannot decode chunk: ${plain.length} bytes stored, ${unit.unitBytes} wanted`);
  }
  for (const chunk of unit.chunks) {
    const bytes = plain.subarray(chunk.offsetInUnit, chunk.offsetInUnit + chunk.sizeBytes);
    if (bytes.length !== chunk.sizeBytes) throw new NydusError("EUCLEAN", "Cannot decode chunk: it ends past its unit");
    verifyChunk(codecs, digester, { chunk, bytes });
  }
  return plain;
}

function verifyChunk(
  codecs: Codecs,
  digester: Digester,
  { chunk, bytes }: { readonly chunk: DecodeUnit["chunks"][number]; readonly bytes: Uint8Array },
): void {
  if (chunk.digest !== undefined && chunk.digest.length === DIGEST_BYTES) {
    if (!equalBytes(codecs.digest(digester, bytes), chunk.digest)) {
      throw new NydusError("EBADMSG", `Cannot verify chunk: its ${digester} digest differs from the bootstrap's`);
    }
  } else if (chunk.crc32c !== undefined) {
    if (codecs.crc32c(bytes) !== chunk.crc32c) {
      throw new NydusError("EBADMSG", "Cannot verify chunk: its CRC-32C differs from the bootstrap's");
    }
  } else {
    throw new NydusError("EBADMSG", "Cannot verify chunk: the image holds neither digest nor checksum for it");
  }
}

/** An error in a form that can be sent to another thread. */
export function decodeFailure(error: unknown): DecodeFailure {
  const code = error instanceof NydusError ? error.code : "EFAULT";
  return { code, message: error instanceof Error ? error.message : String(error) };
}
