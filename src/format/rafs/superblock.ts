import { viewOf } from "../../base/bytes.ts";
import { NydusError } from "../../base/errors.ts";
import { bytes, type StructOf, struct, u32, u64, u64n } from "../../base/struct.ts";
import type { Compressor, Digester } from "../codec/codecs.ts";
import { FEATURE_COMPAT_RAFS_V6, isErofs, SUPER_OFFSET, SuperBlock } from "../erofs/superblock.ts";

/** The extended superblock, right behind the EROFS one. @see nydus RafsV6SuperBlockExt */
export const RafsSuperBlockExt = struct("RafsV6SuperBlockExt", 256, {
  sFlags: [0, u64n],
  sBlobTableOffset: [8, u64],
  sBlobTableSize: [16, u32],
  sChunkSize: [20, u32],
  sChunkTableOffset: [24, u64],
  sChunkTableSize: [32, u64],
  sPrefetchTableOffset: [40, u64],
  sPrefetchTableSize: [48, u32],
  sPadding: [52, u32],
  sReserved: [56, bytes(200)],
});
export type RafsSuperBlockExt = StructOf<typeof RafsSuperBlockExt>;

/** Where the extended superblock lies, bytes. */
export const EXT_OFFSET = SUPER_OFFSET + SuperBlock.sizeBytes;
/** Where RAFS puts the device table, bytes. */
export const DEVICE_TABLE_OFFSET = EXT_OFFSET + RafsSuperBlockExt.sizeBytes;
/** Smallest and largest chunk, bytes. */
export const CHUNK_BYTES_LIMITS = { min: 4096, max: 16 * 2 ** 20 } as const;

/** Flags of the whole file system. @see nydus RafsSuperFlags */
export const SUPER_FLAGS = {
  compressionNone: 0x1n,
  compressionLz4: 0x2n,
  hashBlake3: 0x4n,
  hashSha256: 0x8n,
  explicitUidGid: 0x10n,
  hasXattr: 0x20n,
  compressionGzip: 0x40n,
  compressionZstd: 0x80n,
  inlinedChunkDigest: 0x100n,
  tarfsMode: 0x200n,
  encryptionNone: 0x0100_0000n,
  encryptionAes128Xts: 0x0200_0000n,
} as const;

/** One row a compressor: its superblock flag and its number in blob tables. */
export const COMPRESSORS: Readonly<Record<Compressor, { readonly flag: bigint; readonly number: number }>> = {
  none: { flag: SUPER_FLAGS.compressionNone, number: 0 },
  lz4_block: { flag: SUPER_FLAGS.compressionLz4, number: 1 },
  gzip: { flag: SUPER_FLAGS.compressionGzip, number: 2 },
  zstd: { flag: SUPER_FLAGS.compressionZstd, number: 3 },
};

/** One row a digest: its superblock flag and its number in blob tables. */
export const DIGESTERS: Readonly<Record<Digester, { readonly flag: bigint; readonly number: number }>> = {
  blake3: { flag: SUPER_FLAGS.hashBlake3, number: 0 },
  sha256: { flag: SUPER_FLAGS.hashSha256, number: 1 },
};

const RAFS_V5_MAGIC = 0x5241_4653;

/** A region of the bootstrap, bytes. */
export interface Region {
  readonly offset: number;
  readonly length: number;
}

/** The extended superblock, decoded and checked. */
export interface RafsSuperblock {
  /** Raw bits, {@link SUPER_FLAGS}. */
  readonly flags: bigint;
  readonly compressor: Compressor;
  readonly digester: Digester;
  readonly chunkBytes: number;
  readonly blobTable: Region;
  readonly chunkTable: Region;
  /** A list of u32 nids; empty for none. */
  readonly prefetchTable: Region;
}

/** What a bootstrap is by its magic: RAFS v5, RAFS v6, EROFS without RAFS, or none of these. */
export function bootstrapKind(image: Uint8Array): "rafs-v5" | "rafs-v6" | "erofs" | "unknown" {
  if (image.length >= 4 && viewOf(image).getUint32(0, true) === RAFS_V5_MAGIC) return "rafs-v5";
  if (!isErofs(image)) return "unknown";
  const compat = SuperBlock.read(image, SUPER_OFFSET).featureCompat;
  return (compat & FEATURE_COMPAT_RAFS_V6) === 0 ? "erofs" : "rafs-v6";
}

/**
 * The extended superblock of a RAFS v6 bootstrap.
 * @throws ENOTSUP RAFS v5, plain EROFS (a Nydus v3 bootstrap is one), tarfs, encryption; EUCLEAN damaged
 */
export function decodeRafsSuperblock(image: Uint8Array): RafsSuperblock {
  const kind = bootstrapKind(image);
  if (kind === "unknown") {
    throw new NydusError("EUCLEAN", "Cannot open bootstrap: neither RAFS v6 nor v5 by its magic", { offset: 0 });
  }
  if (kind !== "rafs-v6") {
    const name = kind === "rafs-v5" ? "RAFS v5" : "EROFS without RAFS v6 tables";
    throw new NydusError("ENOTSUP", `Cannot open bootstrap: it is ${name}, only RAFS v6 is supported`);
  }
  const ext = RafsSuperBlockExt.read(image, EXT_OFFSET);
  refuse(ext.sFlags, SUPER_FLAGS.tarfsMode, "tarfs mode");
  refuse(ext.sFlags, SUPER_FLAGS.encryptionAes128Xts, "encryption");
  const chunkBytes = ext.sChunkSize;
  const { min, max } = CHUNK_BYTES_LIMITS;
  if (chunkBytes < min || chunkBytes > max || (chunkBytes & (chunkBytes - 1)) !== 0) {
    const message = `Cannot open bootstrap: chunk size ${chunkBytes} is not a power of two from ${min} to ${max}`;
    throw new NydusError("EUCLEAN", message, { offset: EXT_OFFSET + RafsSuperBlockExt.at.sChunkSize });
  }
  return {
    flags: ext.sFlags,
    compressor: byFlag(COMPRESSORS, ext.sFlags, "compressor"),
    digester: byFlag(DIGESTERS, ext.sFlags, "digester"),
    chunkBytes,
    blobTable: region(image, ext.sBlobTableOffset, ext.sBlobTableSize, "blob table"),
    chunkTable: region(image, ext.sChunkTableOffset, ext.sChunkTableSize, "chunk table"),
    // an empty file system may have a size without an offset
    prefetchTable: region(
      image,
      ext.sPrefetchTableOffset,
      ext.sPrefetchTableOffset === 0 ? 0 : ext.sPrefetchTableSize,
      "prefetch table",
    ),
  };
}

function refuse(flags: bigint, flag: bigint, what: string): void {
  if ((flags & flag) !== 0n) throw new NydusError("ENOTSUP", `Cannot open bootstrap: ${what} is not supported`);
}

function byFlag<Name extends string>(
  table: Readonly<Record<Name, { readonly flag: bigint }>>,
  flags: bigint,
  what: string,
): Name {
  const names = (Object.keys(table) as Name[]).filter((name) => (flags & table[name].flag) !== 0n);
  const [name] = names;
  if (name === undefined || names.length !== 1) {
    const message = `Cannot open bootstrap: ${names.length} ${what} flags in 0x${flags.toString(16)}, wanted one`;
    throw new NydusError("EUCLEAN", message, { offset: EXT_OFFSET });
  }
  return name;
}

function region(image: Uint8Array, offset: number, length: number, what: string): Region {
  if (length > 0 && (offset < DEVICE_TABLE_OFFSET || offset + length > image.length)) {
    const message = `Cannot open bootstrap: ${what} is outside of ${image.length} bytes`;
    throw new NydusError("EUCLEAN", message, { offset, length });
  }
  return { offset, length };
}
