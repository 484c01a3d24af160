import type { Digest } from "../../base/digest.ts";
import { type ErrorPlace, inPlace } from "../../base/errors.ts";
import type { BlobSink } from "../../content/store/store.ts";

/**
 * Commits under way. A blob waits for the disk, or for a registry, when it is committed: others are built meanwhile.
 * Disposing waits until all have ended, one way or the other.
 */
export class LateCommits implements AsyncDisposable {
  readonly #ends: Promise<void>[] = [];

  /**
   * A sink whose commit is begun and not waited for, by its disposal neither: {@link all} does.
   * @param inner belongs to the sink from now on
   * @param place where errors of the commit are
   */
  sink(inner: BlobSink, place: ErrorPlace): BlobSink {
    let committing: Promise<void> | undefined;
    return {
      write: (data) => inner.write(data),
      commit: async (digest: Digest, sizeBytes: number) => {
        committing = this.#note(inPlace(place, () => inner.commit(digest, sizeBytes)));
      },
      [Symbol.asyncDispose]: async () => {
        const dispose = (): Promise<void> => Promise.resolve(inner[Symbol.asyncDispose]());
        if (committing === undefined) await dispose();
        else void this.#note(committing.then(dispose, dispose));
      },
    };
  }

  /** Remembers a promise that nobody may be waiting for when it fails. */
  #note(end: Promise<void>): Promise<void> {
    end.catch(() => undefined);
    this.#ends.push(end);
    return end;
  }

  /** Waits for all commits. @throws what the first failed one does */
  async all(): Promise<void> {
    await Promise.all(this.#ends);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.allSettled(this.#ends);
  }
}
