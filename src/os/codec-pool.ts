import type { ErrorCode } from "../base/errors.ts";
import type { Compressor, Digester } from "../format/codec/codecs.ts";

/** One unit of a blob to decode: compressed bytes, and the chunks that it must give. */
export interface DecodeUnit {
  /** The unit's bytes in `data`: offset and length. */
  readonly offset: number;
  readonly sizeBytes: number;
  readonly compressor: Compressor;
  /** Uncompressed bytes of the unit. */
  readonly unitBytes: number;
  readonly chunks: readonly {
    readonly offsetInUnit: number;
    readonly sizeBytes: number;
    readonly digest?: Uint8Array | undefined;
    readonly crc32c?: number | undefined;
  }[];
}

/** Units decoded together; `data` is transferred to the thread, the caller must not touch it again. */
export interface DecodeJob {
  readonly data: Uint8Array;
  readonly digester: Digester;
  readonly units: readonly DecodeUnit[];
}

/** A failed unit of a job; the others of the job are good. */
export interface DecodeFailure {
  readonly code: ErrorCode;
  readonly message: string;
}

/** Bytes of a file that a thread reads itself; whoever sends them keeps the descriptor open until the answer. */
export interface FileBytes {
  readonly fd: number;
  readonly position: number;
  readonly sizeBytes: number;
}

/**
 * Units that a thread decodes, verifies and writes where they belong, in rows of numbers: jobs are many, and copying
 * rows to a thread takes a tenth of what copying objects takes. `data` and the arrays are transferred.
 */
export interface FillJob {
  /** Sent along, or read by the thread. */
  readonly data: Uint8Array | FileBytes;
  readonly digester: Digester;
  /** Rows of {@link UNIT_ROW}, best in the order of the device. */
  readonly units: Float64Array<ArrayBuffer>;
  /** Rows of {@link CHUNK_ROW}: those of the first unit, then those of the second, and so on. */
  readonly chunks: Float64Array<ArrayBuffer>;
  /** 32 bytes a chunk; zeros where there is no digest. */
  readonly digests: Uint8Array<ArrayBuffer>;
  /** Descriptor of the device's file: open until the answer. */
  readonly deviceFd: number;
}

/** How soon a job is wanted. */
export interface FillUrgency {
  /** 0: somebody waits for it; of others the lowest number goes first. */
  readonly rank: number;
}

/** Numbers of a unit; `compressor` is a position in {@link COMPRESSOR_ORDER}. */
export const UNIT_ROW = { offset: 0, sizeBytes: 1, compressor: 2, unitBytes: 3, chunks: 4, length: 5 } as const;
/** Numbers of a chunk; `check` is its CRC-32C, or one of {@link CHUNK_CHECK}. */
export const CHUNK_ROW = { deviceOffset: 0, offsetInUnit: 1, sizeBytes: 2, check: 3, length: 4 } as const;
/** What a chunk is checked by where that is no CRC-32C. */
export const CHUNK_CHECK = { digest: -1, nothing: -2 } as const;
/** Compressors by their number in a {@link UNIT_ROW}. */
export const COMPRESSOR_ORDER = ["none", "lz4_block", "gzip", "zstd"] as const satisfies readonly Compressor[];

/** Files laid end to end in `data` to be cut, digested and compressed. */
export interface EncodeJob {
  readonly data: Uint8Array;
  /** Lengths of the pieces in `data`, bytes; each is one chunk. */
  readonly pieces: Uint32Array;
  readonly digester: Digester;
  readonly compressor: Compressor;
  readonly level: number;
}

/** What a thread made of an {@link EncodeJob}. */
export interface EncodedPieces {
  /** 32 bytes a piece. */
  readonly digests: Uint8Array;
  /** The stored form of the pieces, end to end, in the job's own buffer. */
  readonly stored: Uint8Array;
  /** Length in `stored` of each piece. */
  readonly storedSizes: Uint32Array;
  /** 1 where the stored form is compressed, 0 where it is plain because it would not shrink. */
  readonly compressed: Uint8Array;
}

/** Worker threads that decode and encode; each has its own codecs. */
export interface CodecPool extends AsyncDisposable {
  readonly threads: number;
  /** The verified uncompressed bytes of each unit, or why there are none. */
  decode(job: DecodeJob): Promise<readonly (Uint8Array | DecodeFailure)[]>;
  /**
   * Writes each unit to the device: undefined where its verified bytes are in the file, or why they are not. Jobs wait
   * for an idle thread, the most urgent first; those that nobody waits for leave one of several threads to the others.
   * @param urgency looked at when a thread is idle: a job may become urgent while it waits, see {@link reconsider}
   */
  fill(job: FillJob, urgency: FillUrgency): Promise<readonly (DecodeFailure | undefined)[]>;
  /** A job that waits may have become urgent. */
  reconsider(): void;
  /** Starts every thread now: starting one takes longer than most of its jobs. */
  warmUp(): void;
  encode(job: EncodeJob): Promise<EncodedPieces>;
}
