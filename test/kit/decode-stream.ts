import { NydusError } from "../../src/base/errors.ts";
import type { DecoderFormat, Kernels } from "../../src/format/codec/kernels.ts";
import { concat, MiB } from "./deflate-writer.ts";

/** What a decoder gave in all, and whether the input may end there. */
export interface Streamed {
  readonly output: Uint8Array;
  readonly mayEnd: boolean;
}

/** A number, or where to get each next one. */
export type Count = number | (() => number);
const count = (of: Count): number => (typeof of === "number" ? of : of());

/** Decodes by pushes, each of the next `pieceBytes` and at most `limitBytes` out. */
export type Stream = (format: DecoderFormat, data: Uint8Array, pieceBytes: Count, limitBytes: Count) => Streamed;

/** A {@link Stream} over a core's decoders. It throws an Error where a decoder breaks its contract. */
export function streamOf(kernels: Kernels): Stream {
  return (format, data, pieceBytes, limitBytes) => {
    using decoder = kernels.openDecoder(format, MiB);
    const outputs: Uint8Array[] = [];
    let mayEnd = false;
    for (let at = 0, full = false; at < data.length || full; ) {
      const limit = count(limitBytes);
      const piece = data.subarray(at, at + count(pieceBytes));
      const { output, consumed, atBoundary } = decoder.push(piece, limit);
      at += consumed;
      mayEnd = atBoundary;
      full = output.length === limit;
      if (output.length > limit) throw new Error(`${output.length} bytes out, at most ${limit} wanted`);
      const untaken = piece.length - consumed;
      if (untaken < 0 || (untaken > 0 && !full)) throw new Error(`${untaken} bytes left of ${piece.length}`);
      outputs.push(output);
    }
    return { output: concat(...outputs), mayEnd };
  };
}

/** The code of the NydusError that `fn` throws; "none" when it throws nothing. Anything else is thrown on. */
export function codeOf(fn: () => unknown): string {
  try {
    fn();
    return "none";
  } catch (error) {
    if (error instanceof NydusError) return error.code;
    throw error;
  }
}

/** What a NydusError says was found. */
export function faultOf(fn: () => unknown): string {
  try {
    fn();
    return "none";
  } catch (error) {
    if (error instanceof NydusError) return /: (the [^,]*)/.exec(error.message)?.[1] ?? error.message;
    throw error;
  }
}

/** What the core's faults are called there. */
export const TRUNCATED = "the input ends too early";
export const CORRUPT = "the input is malformed";
export const CHECKSUM = "the checksum does not match";
export const TOO_LARGE = "the output is larger than expected";
