import { NydusError } from "../base/errors.ts";
import { runtime } from "./runtime.ts";

/**
 * What a stream of node:zlib works by. One call does what a write does, at once and into a buffer of the caller's:
 * the streams hop between threads and make a buffer for every piece, the sync functions a context for every call.
 */
interface Handle {
  writeSync(flush: number, input: Uint8Array, at: number, length: number, ...output: OutputPlace): void;
}

type OutputPlace = [output: Uint8Array, at: number, length: number];

/** A stream of node:zlib, as its own code sees it. */
interface HandledStream {
  readonly _handle?: Handle | null;
  /** Room left in the output, input left. */
  readonly _writeState?: Uint32Array;
  readonly errored?: Error | null;
  on(event: "error", listener: () => void): unknown;
  destroy(): void;
}

/** What one call did. */
export interface ZlibProgress {
  readonly consumed: number;
  readonly written: number;
}

/** A context of node:zlib, called directly; disposing it frees it. */
export interface ZlibContext extends Disposable {
  /**
   * Takes as much of `input` and gives as much into `output` as there is room for.
   * @param flush a flush constant of node:zlib
   * @throws the runtime's own error: malformed input
   */
  run(flush: number, input: Uint8Array, output: Uint8Array): ZlibProgress;
}

/** The context of a new stream of node:zlib, or undefined where it cannot be called directly: only Bun's is known. */
export function contextOf(stream: object): ZlibContext | undefined {
  const handled = stream as HandledStream;
  const { _handle: handle, _writeState: state } = handled;
  const isKnown = runtime() === "bun" && typeof handle?.writeSync === "function" && state instanceof Uint32Array;
  if (!isKnown || state.length !== 2) return undefined;
  handled.on("error", () => undefined); // it is thrown from where it came up
  return {
    run(flush, input, output) {
      state.fill(UNTOUCHED);
      handle.writeSync(flush, input, 0, input.length, output, 0, output.length);
      if (handled.errored) throw handled.errored;
      const [room, left] = state as unknown as readonly [number, number];
      if (room > output.length || left > input.length) {
        throw new NydusError("EFAULT", "Cannot use zlib: it does not say how far it came");
      }
      return { consumed: input.length - left, written: output.length - room };
    },
    [Symbol.dispose]: () => handled.destroy(),
  };
}

/** Longer than any buffer. */
const UNTOUCHED = 0xffff_ffff;
