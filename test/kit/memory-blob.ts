import { concatBytes } from "../../src/base/bytes.ts";
import type { Digest } from "../../src/base/digest.ts";
import type { BlobSink } from "../../src/content/store/store.ts";
import type { CodecPool, EncodeJob } from "../../src/os/codec-pool.ts";
import { encodePieces } from "../../src/os/codec-thread.ts";
import { loadCodecs } from "../../src/os/codecs.ts";

/** A blob sink in memory. */
export class MemoryBlob implements BlobSink {
  readonly #pieces: Uint8Array[] = [];
  committed: { readonly digest: Digest; readonly sizeBytes: number } | undefined;

  async write(data: Uint8Array): Promise<void> {
    this.#pieces.push(data.slice());
  }

  async commit(digest: Digest, sizeBytes: number): Promise<void> {
    this.committed = { digest, sizeBytes };
  }

  get bytes(): Uint8Array {
    return concatBytes(this.#pieces);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // nothing to release
  }
}

/** A pool without threads, which ends its jobs in an order of the test's choosing. */
export class InlinePool implements CodecPool {
  readonly threads = 2;
  underWay = 0;
  mostUnderWay = 0;
  /** Called before a job's result is given. */
  before: (job: EncodeJob) => Promise<void> = async () => undefined;
  readonly #codecs = loadCodecs();

  async encode(job: EncodeJob) {
    this.mostUnderWay = Math.max(this.mostUnderWay, ++this.underWay);
    try {
      const codecs = await this.#codecs;
      await this.before(job);
      return encodePieces(codecs, job);
    } finally {
      this.underWay--;
    }
  }

  decode(): never {
    throw new Error("building decodes nothing");
  }

  fill(): never {
    throw new Error("building fills nothing");
  }

  reconsider(): void {
    // nothing waits
  }

  warmUp(): void {
    // there are no threads
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // nothing to release
  }
}
