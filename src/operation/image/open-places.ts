import { setTimeout as sleep } from "node:timers/promises";
import { withDeadline } from "../../base/async.ts";
import type { ByteRange } from "../../base/bytes.ts";
import type { Digest } from "../../base/digest.ts";
import { asNydusError, type ErrorCode, NydusError } from "../../base/errors.ts";
import { openContainerdBlob } from "../../content/containerd/content-source.ts";
import type { ContainerdPlace } from "../../content/containerd/place.ts";
import { Registry } from "../../content/registry/registry.ts";
import { openAccess, type RegistryOptions } from "../../content/registry/registry-options.ts";
import { RegistryBlob } from "../../content/registry/registry-source.ts";
import { orAborted } from "../../content/store/abort.ts";
import { checkRange } from "../../content/store/file-source.ts";
import type { ByteSource, ReadOptions } from "../../content/store/source.ts";
import type { Reference } from "../../format/oci/reference.ts";

/** A place that may have the blobs of an image. */
export type BlobPlace =
  /** containerd's content store. */
  | { readonly containerd: ContainerdPlace }
  /** The repository of an image name. */
  | { readonly registry: { readonly reference: Reference; readonly options?: RegistryOptions | undefined } };

/** Which blob is looked for. */
export interface PlacedBlob {
  readonly digest: Digest;
  /** It has so many bytes at least: what a bootstrap says of its data and chunk information, no more is read. */
  readonly leastBytes: number;
}

/** A place that has failed rests for so long, while another one gives the bytes; longer when it lacks the blob or hangs. */
const REST_MS = { short: 5_000, long: 30_000 } as const;
const LONG_RESTS: readonly ErrorCode[] = ["ENOENT", "ETIMEDOUT"];
/** containerd is on this machine: it answers soon, or is hung and must not take the reader's time. */
const CONTAINERD_TIMEOUT_MS = 10_000;
const CLOSE_WAIT_MS = 1_000;

/**
 * A blob in several places, asked in their order. No place is asked for anything before the first read, so that an
 * image opens without any of them; one that fails, or has lost the blob, gives way to the next and is tried again later.
 */
export class PlacesSource implements ByteSource {
  readonly sizeBytes: number;
  readonly #digest: Digest;
  readonly #places: readonly Place[];
  #closed = false;

  constructor(blob: PlacedBlob, places: readonly BlobPlace[], now: () => number = () => performance.now()) {
    this.sizeBytes = blob.leastBytes;
    this.#digest = blob.digest;
    this.#places = places.map(
      (place) => new Place({ open: () => openPlace(blob, place), now, timeoutMs: timeoutOf(place) }),
    );
  }

  /** @throws what the last place throws; ENOENT without any place */
  async readAt(range: ByteRange, options: ReadOptions = {}): Promise<Uint8Array> {
    if (this.#closed) throw new NydusError("EINVAL", "Cannot read: the source is closed", { digest: this.#digest });
    checkRange(range, this.sizeBytes);
    const failures: NydusError[] = [];
    for (const place of this.#inOrder()) {
      try {
        return await place.readAt(range, options);
      } catch (error) {
        if (options.signal?.aborted) throw error;
        failures.push(asNydusError(error, { digest: this.#digest }));
      }
    }
    throw worstOf(failures) ?? new NydusError("ENOENT", "Cannot read blob: no place for it", { digest: this.#digest });
  }

  /** Those that work, then those that are to rest: a reader tries everything before it fails. */
  #inOrder(): readonly Place[] {
    const resting = this.#places.filter((place) => place.isResting);
    return [...this.#places.filter((place) => !resting.includes(place)), ...resting];
  }

  /** Who reads when it is closed is served to the end. */
  async close(): Promise<void> {
    this.#closed = true;
    await Promise.all(this.#places.map((place) => place.close()));
  }
}

/** Of what several places say, that one lacks the blob says the least. */
function worstOf(failures: readonly NydusError[]): NydusError | undefined {
  return failures.findLast(({ code }) => code !== "ENOENT") ?? failures.at(-1);
}

/** How a place is read. */
interface PlaceOptions {
  readonly open: () => Promise<ByteSource>;
  /** Milliseconds, of a clock that never goes back. */
  readonly now: () => number;
  /** A read that takes longer has failed. */
  readonly timeoutMs: number | undefined;
}

/** A source that is open, and who reads it. */
interface OpenedPlace {
  readonly source: Promise<ByteSource>;
  readers: number;
  /** Closed when the last one who reads it has ended: it has failed, or nobody wants the blob any more. */
  isLeft: boolean;
}

/** One place of a blob: opened at the first read, and anew after a failure. */
class Place {
  readonly #options: PlaceOptions;
  #opened: OpenedPlace | undefined;
  #restsUntil = Number.NEGATIVE_INFINITY;

  constructor(options: PlaceOptions) {
    this.#options = options;
  }

  get isResting(): boolean {
    return this.#options.now() < this.#restsUntil;
  }

  async readAt(range: ByteRange, options: ReadOptions): Promise<Uint8Array> {
    this.#opened ??= { source: this.#options.open(), readers: 0, isLeft: false };
    const opened = this.#opened;
    opened.readers++;
    try {
      return await this.#inTime(options, async (inner) => (await opened.source).readAt(range, inner));
    } catch (error) {
      if (!options.signal?.aborted) this.#giveUp(opened, asNydusError(error));
      throw error;
    } finally {
      opened.readers--;
      if (opened.isLeft && opened.readers === 0) await closeOpened(opened.source);
    }
  }

  #inTime(options: ReadOptions, read: (options: ReadOptions) => Promise<Uint8Array>): Promise<Uint8Array> {
    const { timeoutMs } = this.#options;
    if (timeoutMs === undefined) return read(options);
    const work = (signal: AbortSignal): Promise<Uint8Array> => orAborted(read({ ...options, signal }), signal);
    return withDeadline(timeoutMs, "read blob", work, options.signal);
  }

  #giveUp(opened: OpenedPlace, { code }: NydusError): void {
    this.#restsUntil = this.#options.now() + (LONG_RESTS.includes(code) ? REST_MS.long : REST_MS.short);
    opened.isLeft = true;
    if (this.#opened === opened) this.#opened = undefined;
  }

  async close(): Promise<void> {
    const opened = this.#opened;
    this.#opened = undefined;
    if (opened === undefined) return;
    opened.isLeft = true;
    if (opened.readers === 0) await closeOpened(opened.source);
  }
}

/**
 * Closes a source, also one that is still being opened, which is not waited for for long. What fails to open or to close
 * is no use to anyone: its reader has been told.
 */
async function closeOpened(opened: Promise<ByteSource>): Promise<void> {
  const closed = opened.then((source) => source.close()).catch(() => undefined);
  await Promise.race([closed, sleep(CLOSE_WAIT_MS, undefined, { ref: false })]);
}

function timeoutOf(place: BlobPlace): number | undefined {
  return "containerd" in place ? CONTAINERD_TIMEOUT_MS : undefined;
}

function openPlace(blob: PlacedBlob, place: BlobPlace): Promise<ByteSource> {
  if ("containerd" in place) return openContainerdBlob({ ...place.containerd, digest: blob.digest });
  return openRegistryPlace(blob, place.registry);
}

async function openRegistryPlace(
  { digest, leastBytes }: PlacedBlob,
  { reference, options }: { readonly reference: Reference; readonly options?: RegistryOptions | undefined },
): Promise<ByteSource> {
  const access = openAccess(options);
  const registry = new Registry(access, reference);
  const blob = new RegistryBlob(registry, { digest, size: leastBytes }, { isWholeSize: false });
  const close = async (): Promise<void> => {
    await blob.close();
    await access[Symbol.asyncDispose]();
  };
  return { sizeBytes: leastBytes, readAt: (range, read) => blob.readAt(range, read), close };
}
