import type { ByteRange } from "../../base/bytes.ts";
import { NydusError } from "../../base/errors.ts";
import { type ByteSource, type LentFile, lendFile, type ReadOptions } from "../../content/store/source.ts";

/** One blob in several places: read from the first that gives it. Places come and go while it is read. */
export class AnySource implements ByteSource {
  readonly sizeBytes: number;
  readonly #places: ByteSource[];

  constructor(first: ByteSource) {
    this.sizeBytes = first.sizeBytes;
    this.#places = [first];
  }

  add(place: ByteSource): void {
    this.#places.push(place);
  }

  /** Takes a place out; reads under way there go on elsewhere when it is closed. */
  remove(place: ByteSource): void {
    this.#places.splice(this.#places.indexOf(place) >>> 0, 1);
  }

  /** The file of the first place that lies in one. */
  lendFile(): LentFile | undefined {
    for (const place of this.#places) {
      const file = lendFile(place);
      if (file !== undefined) return file;
    }
    return undefined;
  }

  /** @throws what the last place throws */
  async readAt(range: ByteRange, options: ReadOptions = {}): Promise<Uint8Array> {
    let failure: unknown = new NydusError("ECANCELED", "Cannot read blob: it is closed");
    const tried = new Set<ByteSource>();
    for (;;) {
      const place = this.#places.find((one) => !tried.has(one));
      if (place === undefined) throw failure;
      tried.add(place);
      try {
        return await place.readAt(range, options);
      } catch (error) {
        if (options.signal?.aborted) throw error;
        failure = error;
      }
    }
  }

  /** Its places are closed by whoever opened them. */
  async close(): Promise<void> {
    this.#places.length = 0;
  }
}
